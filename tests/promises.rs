//! Documents that name tests as proof name tests that there are.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Names of functions that an attribute of a test stands before.
fn tests(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut is_test, mut is_open) = (false, false);
    for line in text.lines().map(str::trim) {
        if is_open || line.starts_with("#[") {
            let named = ["#[test]", "#[tokio::test", "#[rstest", "#[case", "#[test_case"];
            is_test |= named.iter().any(|one| line.starts_with(one));
            is_open = !line.ends_with(']');
            continue;
        }
        if let Some((_, after)) = line.split_once("fn ").filter(|_| is_test) {
            let end = after.find(['(', '<']).unwrap_or(after.len());
            found.insert(after[..end].to_owned());
        }
        is_test &= line.is_empty() || line.starts_with("//");
    }
    found
}

/// What stands between backticks in the last column of each row of a table.
fn named(page: &str) -> Vec<String> {
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let last = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    let names = last.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(ToOwned::to_owned).filter(|name| name.contains('_')).collect()
}

#[test]
fn every_test_that_is_named_as_proof_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    sources(root, &mut text);
    let there = tests(&text);
    for page in ["docs/guarantees.md", "docs/security.md"] {
        let named = named(&fs::read_to_string(root.join(page)).unwrap());
        assert!(named.len() > 15, "{page} names {} tests", named.len());
        let missing: Vec<_> = named.iter().filter(|name| !there.contains(*name)).collect();
        assert!(missing.is_empty(), "{page} names tests that are not there: {missing:?}");
    }
}

#[test]
fn a_test_is_told_from_a_function() {
    let text = "#[test]\nfn one() {}\nfn two() {}\n#[rstest]\n#[case(1)]\n// why\nfn three(#[case] n: i32) {}\n#[tokio::test(start_paused = true)]\nasync fn four() {}\n";
    assert_eq!(tests(text), ["four", "one", "three"].map(ToOwned::to_owned).into());
    assert_eq!(named("| he | it | `a_b`, `c_d` |\n|---|---|---|\n"), ["a_b", "c_d"]);
}
