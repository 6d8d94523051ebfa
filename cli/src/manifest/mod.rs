//! Reads files of Kubernetes objects, as users write them or as `kubectl get -o yaml` prints them.
//!
//! In: paths. Out: the objects of trainyard in them, in order, each with the place it was found at. What an API server
//! would refuse is refused here, with file, document, object and field. Objects of others are counted, not read.
//! Called by every subcommand that takes files; never asks a cluster.

mod error;
mod strict;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use trainyard_api::{Cluster, ClusterNode, Experiment, ProvisioningClass, Run, VmSize};

pub use error::Error;
use strict::Schemas;

const API_VERSION: &str = "trainyard.dev/v1alpha1";
const GROUP: &str = "trainyard.dev/";

/// Where an object was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// Which document of it, from 1.
    pub document: usize,
    /// Which item of a List, from 1.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, item } = self;
        write!(f, "{file}, document {document}")?;
        item.map_or(Ok(()), |item| write!(f, ", item {item}"))
    }
}

/// The objects found, each kind in the order of the files.
#[derive(Debug, Default)]
pub struct Manifest {
    /// Clusters.
    pub clusters: Vec<Cluster>,
    /// ClusterNodes.
    pub nodes: Vec<ClusterNode>,
    /// Runs.
    pub runs: Vec<Run>,
    /// ProvisioningClasses.
    pub classes: Vec<ProvisioningClass>,
    /// VmSizes.
    pub sizes: Vec<VmSize>,
    /// Labels of Namespaces, by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Kinds of other objects, which were not read, and how many of each.
    pub others: BTreeMap<String, usize>,
}

/// Reads all files; a folder stands for the `.yaml`, `.yml` and `.json` files directly in it, `-` for standard input.
/// Objects without a namespace get `namespace`.
pub fn read(paths: &[PathBuf], namespace: &str) -> Result<Manifest, Error> {
    let mut reader = Reader {
        namespace,
        schemas: Schemas::of_this_version(),
        manifest: Manifest::default(),
        seen: BTreeMap::new(),
    };
    for path in paths {
        for file in files(path)? {
            let text = text_of(&file)?;
            reader.file(&file.display().to_string(), &text)?;
        }
    }
    Ok(reader.manifest)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |source| Error::Unreadable { file: path.display().to_string(), source };
    let mut found = BTreeSet::new();
    for entry in path.read_dir().map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_manifest = file
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension));
        if is_manifest && file.is_file() {
            found.insert(file);
        }
    }
    if found.is_empty() {
        return Err(Error::EmptyFolder { folder: path.display().to_string() });
    }
    Ok(found.into_iter().collect())
}

fn text_of(file: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Unreadable { file: file.display().to_string(), source };
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(unreadable)
}

struct Reader<'a> {
    namespace: &'a str,
    schemas: Schemas,
    manifest: Manifest,
    /// Where each object was found first.
    seen: BTreeMap<String, Place>,
}

impl Reader<'_> {
    fn file(&mut self, file: &str, text: &str) -> Result<(), Error> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|error| Error::NotYaml { file: file.to_owned(), message: error.to_string() })?;
        for (at, document) in documents.into_iter().enumerate() {
            let place = Place { file: file.to_owned(), document: at + 1, item: None };
            self.document(&place, document)?;
        }
        Ok(())
    }

    fn document(&mut self, place: &Place, mut document: Value) -> Result<(), Error> {
        if document.is_null() {
            return Ok(());
        }
        let kind = word(&document, "kind");
        let is_list = kind.as_ref().is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if is_list => {
                for (at, item) in items.into_iter().enumerate() {
                    let place = Place { item: Some(at + 1), ..place.clone() };
                    self.object(&place, item)?;
                }
                Ok(())
            }
            Some(items) => {
                document["items"] = items;
                self.object(place, document)
            }
            None => self.object(place, document),
        }
    }

    fn object(&mut self, place: &Place, object: Value) -> Result<(), Error> {
        let (Some(version), Some(kind)) = (word(&object, "apiVersion"), word(&object, "kind")) else {
            return Err(Error::NoObject { place: place.clone() });
        };
        if let ("v1", "Namespace", Some(name)) = (&*version, &*kind, object["metadata"]["name"].as_str()) {
            let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
            let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            self.manifest.namespaces.insert(name.to_owned(), labels.collect());
            return Ok(());
        }
        if !version.starts_with(GROUP) {
            *self.manifest.others.entry(kind).or_default() += 1;
            return Ok(());
        }
        if version != API_VERSION {
            return Err(Error::Version { place: place.clone(), kind, version, expected: API_VERSION });
        }
        match kind.as_str() {
            "Cluster" => {
                let cluster: Cluster = self.checked(place, &kind, object, true)?;
                self.manifest.clusters.push(cluster);
            }
            "ClusterNode" => {
                let node: ClusterNode = self.checked(place, &kind, object, true)?;
                self.manifest.nodes.push(node);
            }
            "Run" => {
                let run: Run = self.checked(place, &kind, object, true)?;
                self.manifest.runs.push(run);
            }
            "ProvisioningClass" => {
                let class: ProvisioningClass = self.checked(place, &kind, object, false)?;
                self.manifest.classes.push(class);
            }
            "VmSize" => {
                let size: VmSize = self.checked(place, &kind, object, false)?;
                self.manifest.sizes.push(size);
            }
            "Experiment" => {
                let _: Experiment = self.checked(place, &kind, object, true)?;
                *self.manifest.others.entry(kind).or_default() += 1;
            }
            _ => return Err(Error::Kind { place: place.clone(), kind }),
        }
        Ok(())
    }

    fn checked<T: DeserializeOwned>(
        &mut self,
        place: &Place,
        kind: &str,
        mut object: Value,
        namespaced: bool,
    ) -> Result<T, Error> {
        if namespaced && object["metadata"].is_object() && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = Value::String(self.namespace.to_owned());
        }
        let name = shown(kind, &object);
        let wrong = |field: String, message: String| Error::Field {
            place: place.clone(),
            object: name.clone(),
            field,
            message,
        };
        if let Some(fault) = self.schemas.first_fault(kind, &object) {
            return Err(wrong(fault.field, fault.message));
        }
        if !object["metadata"]["name"].is_null() {
            if let Some(first) = self.seen.get(&name) {
                return Err(Error::Twice { object: name, first: first.clone(), second: place.clone() });
            }
            self.seen.insert(name.clone(), place.clone());
        }
        serde_path_to_error::deserialize(object)
            .map_err(|error| wrong(error.path().to_string(), error.inner().to_string()))
    }
}

fn word(object: &Value, field: &str) -> Option<String> {
    object.get(field)?.as_str().map(str::to_owned)
}

/// `Run ml/mnist`.
fn shown(kind: &str, object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = word(metadata, "name").or_else(|| word(metadata, "generateName").map(|name| name + "..."));
    let name = name.unwrap_or_else(|| "without a name".to_owned());
    match word(metadata, "namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
