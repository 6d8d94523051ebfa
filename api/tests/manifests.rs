//! `crds/` and the chart of the CRDs are what the types say.
//!
//! To write them anew: `UPDATE_MANIFESTS=1 cargo test -p trainyard-api --test manifests`

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use trainyard_api::crds::{CRD_BYTES_MAX, all_crds, crd_files};

const REGENERATE: &str =
    "write it anew with: UPDATE_MANIFESTS=1 cargo test -p trainyard-api --test manifests";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The CRD as it stands in the chart: kept when the chart is uninstalled, or every Run in the cluster would go with it.
fn chart_template(crd: &str) -> String {
    assert!(!crd.contains("{{"), "Helm would read {{{{ in a description as its own");
    let annotated =
        crd.replacen("metadata:\n", "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n", 1);
    assert_ne!(annotated, crd, "the CRD has no metadata to annotate");
    annotated
}

/// Compares the folder with the files, or writes them when asked to.
fn hold(folder: &Path, files: &[(String, String)]) {
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        fs::create_dir_all(folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
    }
    let expected: BTreeSet<_> = files.iter().map(|(name, _)| name.clone()).collect();
    let present: BTreeSet<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}; {REGENERATE}", folder.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(present, expected, "{} has other files; {REGENERATE}", folder.display());
    for (name, content) in files {
        let path = folder.join(name);
        assert!(
            fs::read_to_string(&path).unwrap() == *content,
            "{} is not current; {REGENERATE}",
            path.display()
        );
    }
}

#[test]
fn the_crds_are_current() {
    hold(&root().join("crds"), &crd_files());
}

#[test]
fn the_chart_has_the_same_crds_and_keeps_them() {
    let files: Vec<_> = crd_files().iter().map(|(name, crd)| (name.clone(), chart_template(crd))).collect();
    hold(&root().join("charts/trainyard-crds/templates"), &files);
}

#[test]
fn no_crd_is_too_large_for_kubectl_apply() {
    for (name, text) in crd_files() {
        assert!(text.len() < CRD_BYTES_MAX, "{name} has {} bytes", text.len());
    }
    for crd in all_crds() {
        let json = serde_json::to_string(&crd).unwrap();
        assert!(json.len() < CRD_BYTES_MAX, "{:?} has {} bytes as JSON", crd.metadata.name, json.len());
    }
}
