//! `docs/distribution.md` explains every variable that trainyard keeps for itself, and no other.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use trainyard_api::variables;

/// The names in the first cells of all tables whose heading begins with `variable`.
fn explained(section: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rows = section.lines().skip_while(|line| !line.starts_with("| variable |"));
    assert!(rows.next().is_some(), "no table of variables in {section}");
    for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
        let first = row.split('|').nth(1).unwrap();
        names.extend(first.split('`').skip(1).step_by(2).map(ToOwned::to_owned));
    }
    names
}

#[test]
fn every_variable_is_explained_where_it_is_set() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/distribution.md");
    let page = fs::read_to_string(page).unwrap();
    for (title, names) in [
        ("## Always", &variables::ALWAYS[..]),
        ("## tensorflow", &variables::TENSORFLOW[..]),
        ("## pytorch", &variables::PYTORCH[..]),
        ("## jax", &variables::JAX[..]),
    ] {
        let (_, after) = page.split_once(title).unwrap();
        let section = after.split("\n## ").next().unwrap();
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(explained(section), names, "{title}");
    }
}
