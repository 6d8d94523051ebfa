//! What there is to test, whatever a manifest says about running it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Target;
use crate::installation::{checkout, run};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    targets: Vec<Built>,
}

#[derive(Deserialize)]
struct Built {
    name: String,
    kind: Vec<String>,
    src_path: String,
}

/// The packages of the workspace that are asked for.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    /// Only these; all when empty.
    pub only: Vec<String>,
    /// All but these.
    pub without: Vec<String>,
}

impl Packages {
    /// As arguments of `cargo test`.
    pub fn arguments(&self) -> Vec<String> {
        let named = |flag: &str, names: &[String]| -> Vec<String> {
            names.iter().flat_map(|name| [flag.to_owned(), name.clone()]).collect()
        };
        if self.only.is_empty() {
            [vec!["--workspace".to_owned()], named("--exclude", &self.without)].concat()
        } else {
            named("--package", &self.only)
        }
    }

    fn has(&self, name: &str) -> bool {
        let is_in = |names: &[String]| names.iter().any(|one| one == name);
        (self.only.is_empty() || is_in(&self.only)) && !is_in(&self.without)
    }
}

/// Asks cargo for the targets of these packages.
pub fn read(cargo: &str, packages: &Packages) -> Result<Vec<Target>> {
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(checkout());
    targets(&run(&mut command)?, packages)
}

/// The targets in what `cargo metadata` prints.
pub fn targets(metadata: &str, packages: &Packages) -> Result<Vec<Target>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("reading `cargo metadata`")?;
    for name in packages.only.iter().chain(&packages.without) {
        ensure!(metadata.packages.iter().any(|one| one.name == *name), "there is no package {name}");
    }
    let mut found = Vec::new();
    for package in metadata.packages.iter().filter(|package| packages.has(&package.name)) {
        let folder = package.manifest_path.trim_end_matches("Cargo.toml");
        for built in &package.targets {
            let path = built.src_path.trim_start_matches(folder).to_owned();
            let name = built.name.replace('-', "_");
            let is = |kind: &str| built.kind.iter().any(|one| one == kind);
            if is("test") {
                found.push(Target::Tests { path, name: built.name.clone() });
            } else if is("lib") {
                found.push(Target::Unit { path, name: name.clone() });
                found.push(Target::Doc { name });
            } else if is("bin") {
                found.push(Target::Unit { path, name });
            }
        }
    }
    Ok(found)
}
