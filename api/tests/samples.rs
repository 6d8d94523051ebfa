//! Every object that people are shown, in files to apply and in documentation, is one the API server would take.
//!
//! Read strictly, because a field that does not exist would be taken for one that does nothing; and judged by the rules
//! of the schemas. The end-to-end tests apply the samples, too.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use trainyard_api::{Cluster, ClusterNode, Experiment, ProvisioningClass, Run, VmSize, all_crds};

mod documents;

use documents::yaml_blocks;

const OURS: &str = "trainyard.dev/v1alpha1";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files_below(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files_below(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// Every document of ours with the place it stands at.
fn objects() -> Vec<(String, Value)> {
    let mut texts = Vec::new();
    let mut files = Vec::new();
    files_below(&root().join("deploy"), "yaml", &mut files);
    for file in &files {
        texts.push((file.display().to_string(), fs::read_to_string(file).unwrap()));
    }
    let mut pages = vec![root().join("README.md")];
    files_below(&root().join("docs"), "md", &mut pages);
    for page in pages {
        for (line, block) in yaml_blocks(&fs::read_to_string(&page).unwrap()) {
            texts.push((format!("{}:{line}", page.display()), block));
        }
    }
    let mut objects = Vec::new();
    for (place, text) in texts {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{place}: {error}"));
        objects.extend(
            documents
                .into_iter()
                .filter(|document| {
                    document["apiVersion"].as_str().is_some_and(|v| v.starts_with("trainyard.dev/"))
                })
                .map(|document| (place.clone(), document)),
        );
    }
    objects
}

/// What is written and would not be stored as it is written.
fn lost(written: &Value, read: &Value, path: &str, found: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (key, value) in written {
                let empty = value.is_null()
                    || value.as_object().is_some_and(serde_json::Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty);
                match read.get(key) {
                    Some(read) => lost(value, read, &format!("{path}.{key}"), found),
                    None if empty => {}
                    None => found.push(format!("{path}.{key} does not exist")),
                }
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (at, (written, read)) in written.iter().zip(read).enumerate() {
                lost(written, read, &format!("{path}[{at}]"), found);
            }
        }
        _ if written == read => {}
        _ => found.push(format!("{path} is {written} and is read as {read}")),
    }
}

fn round_trip<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
    let read: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(read).map_err(|error| error.to_string())
}

/// The object as an API server would store it: defaults filled in, unknown fields gone.
fn stored(object: &Value) -> Result<Value, String> {
    match object["kind"].as_str().unwrap_or_default() {
        "Cluster" => round_trip::<Cluster>(object),
        "ClusterNode" => round_trip::<ClusterNode>(object),
        "Experiment" => round_trip::<Experiment>(object),
        "ProvisioningClass" => round_trip::<ProvisioningClass>(object),
        "Run" => round_trip::<Run>(object),
        "VmSize" => round_trip::<VmSize>(object),
        other => Err(format!("there is no kind {other}")),
    }
}

fn faults(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match stored(object) {
        Ok(read) => lost(object, &read, "", &mut found),
        Err(error) => found.push(error),
    }
    found
}

#[test]
fn every_sample_is_read_as_it_is_written() {
    let mut wrong = Vec::new();
    for (place, object) in objects() {
        if object["apiVersion"] != OURS {
            wrong.push(format!("{place}: apiVersion is {}", object["apiVersion"]));
        }
        wrong.extend(faults(&object).into_iter().map(|fault| format!("{place}: {} {fault}", object["kind"])));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_sample_passes_the_rules() {
    let schemas: BTreeMap<String, CompiledSchema> = all_crds()
        .into_iter()
        .map(|crd| {
            let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
            (crd.spec.names.kind, compile_schema(&version["schema"]["openAPIV3Schema"]))
        })
        .collect();
    let validator = Validator::new();
    let mut wrong = Vec::new();
    for (place, object) in objects() {
        let filled = stored(&object).unwrap_or_else(|error| panic!("{place}: {error}"));
        let schema = &schemas[object["kind"].as_str().unwrap()];
        if let Err(errors) = validator.validate_compiled(schema, &filled, None) {
            wrong.extend(errors.into_vec().into_iter().map(|error| format!("{place}: {}", error.message)));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn samples_are_found_and_faults_are_seen() {
    let objects = objects();
    let in_pages = objects.iter().filter(|(place, _)| place.contains(".md:")).count();
    let in_files = objects.len() - in_pages;
    assert!(in_files > 50 && in_pages >= 2, "{in_files} in files, {in_pages} in pages");
    let (_, cluster) = objects.iter().find(|(_, object)| object["kind"] == "Cluster").unwrap();
    let mut misspelt = cluster.clone();
    misspelt["spec"]["scale"]["maxNode"] = 4.into();
    assert_eq!(faults(&misspelt), [".spec.scale.maxNode does not exist"]);
}
