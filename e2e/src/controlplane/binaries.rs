//! Where the programs of a control plane are found, and what is built to have them.
//!
//! `TRAINYARD_BIN_DIR`, else `<checkout>/.local/bin`, is filled by `controlplane build`. `KUBEBUILDER_ASSETS`, the
//! folder of etcd, kube-apiserver and kubectl that controller developers have anyway, goes before it when set.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::run_folder::local_folder;

/// The folder that is built into.
pub fn bin_folder() -> PathBuf {
    std::env::var_os("TRAINYARD_BIN_DIR").map_or_else(|| local_folder().join("bin"), PathBuf::from)
}

/// A program by name: `etcd`, `kube-apiserver`, `kubectl`, `helm`, ...
pub fn binary(name: &str) -> Result<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let folders: Vec<PathBuf> = assets.into_iter().chain([bin_folder()]).collect();
    if let Some(found) = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
        return Ok(found);
    }
    let searched = folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" and ");
    bail!(
        "no {name} in {searched}; build it with `cargo run -p trainyard-e2e --bin controlplane build` (needs Go)"
    )
}

/// A data file that the build takes from the Go modules.
pub(super) fn asset(name: &str) -> Result<PathBuf> {
    let path = bin_folder().join("assets").join(name);
    if !path.exists() {
        bail!("no {}; run `cargo run -p trainyard-e2e --bin controlplane build` (needs Go)", path.display());
    }
    Ok(path)
}

/// A file of ours under `e2e/controlplane/`.
pub(super) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("controlplane").join(name)
}
