//! `docs/pod-template.md` explains every field of `podTemplate` and every source of a volume, and no other.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use trainyard_api::all_crds;

/// The first cells of the table whose heading begins with `title`.
fn explained(page: &str, title: &str) -> BTreeSet<String> {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(&format!("| {title} |")));
    assert!(lines.next().is_some(), "no table of {title}");
    let word = |line: &str| line.strip_prefix("| `")?.split_once('`').map(|(word, _)| word.to_owned());
    lines.skip(1).map_while(word).collect()
}

#[test]
fn every_field_of_the_pod_template_is_explained() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pod-template.md");
    let page = fs::read_to_string(page).unwrap();
    let crds = all_crds();
    let run = crds.iter().find(|crd| crd.spec.names.kind == "Run").unwrap();
    let version = serde_json::to_value(&run.spec.versions[0]).unwrap();
    let template = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["podTemplate"];
    let names = |schema: &Value| -> BTreeSet<String> {
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(explained(&page, "field"), names(template));
    let kept = names(template);
    for line in page.lines().skip_while(|line| !line.starts_with("| of a pod |")).skip(2) {
        let Some(row) = line.strip_prefix("| ") else { break };
        for word in row.split('|').next().unwrap().split('`').skip(1).step_by(2) {
            assert!(!kept.contains(word), "podTemplate has {word}, and the page says that it has not");
        }
    }
    let mut sources = names(&template["properties"]["volumes"]["items"]);
    assert!(sources.remove("name"));
    assert_eq!(explained(&page, "source"), sources);
    // The fields of the two security contexts are in sentences.
    let pod = names(&template["properties"]["securityContext"]);
    let sidecar = &template["properties"]["sidecars"]["items"]["properties"];
    for field in pod.iter().chain(&names(&sidecar["securityContext"])) {
        assert!(page.contains(&format!("`{field}`")), "{field} is not explained");
    }
}
