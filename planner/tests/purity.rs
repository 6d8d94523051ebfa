//! The planner decides from what it is given and from nothing else. Besides the crate's few dependencies, its text says so.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// What would let the world in, and hash order, which differs from process to process.
const IMPURE: [&str; 12] = [
    "kube",
    "k8s_openapi",
    "tokio",
    "async ",
    "HashMap",
    "HashSet",
    "RandomState",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "std::env",
    "rand::",
];

#[test]
fn nothing_but_the_input_enters_a_plan() {
    let mut read = 0;
    let mut found = Vec::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |path, text| {
        read += 1;
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (number, line) in code {
            let words = IMPURE.iter().filter(|word| line.contains(**word));
            found.extend(words.map(|word| format!("{}:{}: {word}", path.display(), number + 1)));
        }
    });
    assert!(read > 15, "only {read} files were read");
    assert!(found.is_empty(), "{found:#?}");
}

fn visit(folder: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, look);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            look(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}
