//! Reads sources: which files are in the program, and what each of them names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Path from the root and text of each Rust file below `folder`.
pub fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files_below(&root().join(folder), &mut found);
    found
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| (shown(&path), fs::read_to_string(&path).unwrap()))
        .collect()
}

pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// What was built, and what belongs to version control, is not ours to judge.
pub fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_symlink() || ["target", ".git", ".local"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

pub fn is_test(path: &str) -> bool {
    path.ends_with("_tests.rs")
        || path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.starts_with("tests/")
}

/// Files whose module is declared under `#[cfg(test)]` by the file above them.
fn modules_of_tests(files: &[(String, String)]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, text) in files {
        let folder = path
            .strip_suffix("mod.rs")
            .or_else(|| path.strip_suffix("lib.rs"))
            .map_or_else(|| format!("{}/", path.trim_end_matches(".rs")), ToOwned::to_owned);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let name = pair[1]
                .trim_start_matches("pub ")
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(';'));
            found.extend(name.map(|name| format!("{folder}{name}.rs")));
        }
    }
    found
}

/// The part of a file that is in the program: no comments, no tests at its end.
fn code(text: &str) -> String {
    let mut kept = String::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.trim() == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.trim().ends_with('{')) {
            break;
        }
        kept += line.split("//").next().unwrap();
        kept.push('\n');
    }
    kept
}

/// The files of the program below `folder`.
pub fn program(folder: &str) -> Vec<(String, String)> {
    let all = sources(folder);
    let tests = modules_of_tests(&all);
    all.into_iter()
        .filter(|(path, _)| !is_test(path) && !tests.contains(path))
        .map(|(path, text)| (path, code(&text)))
        .collect()
}

/// Every path that begins with `crate::` or `super::`, with braces multiplied out, as segments from the crate's root.
pub fn paths_named(file: &str, text: &str) -> BTreeSet<Vec<String>> {
    let mut module: Vec<String> =
        file.trim_start_matches("src/").trim_end_matches(".rs").split('/').map(ToOwned::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
        module.pop();
    }
    let mut found = BTreeSet::new();
    for word in ["crate::", "super::"] {
        for (at, _) in text.match_indices(word) {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            if before == ':' || before == '_' || before.is_alphanumeric() {
                continue;
            }
            let mut base = if word == "crate::" { Vec::new() } else { module.clone() };
            let mut rest = &text[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            tree(&base, rest.strip_prefix("crate::").unwrap_or(rest), &mut found);
        }
    }
    found
}

/// One use-tree: `a::b`, `a::{b, c::d}`, `{a, b}`. Returns what follows it.
fn tree<'a>(base: &[String], text: &'a str, found: &mut BTreeSet<Vec<String>>) -> &'a str {
    let mut path = base.to_vec();
    let mut text = text.trim_start();
    loop {
        if let Some(inside) = text.strip_prefix('{') {
            text = inside;
            loop {
                text = text.trim_start().trim_start_matches(',').trim_start();
                match text.strip_prefix('}') {
                    Some(after) => return after,
                    None if text.is_empty() => return text,
                    None => text = tree(&path, text, found),
                }
            }
        }
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, after) = text.split_at(end);
        if !name.is_empty() && name != "self" {
            path.push(name.to_owned());
        }
        if let Some(next) = after.strip_prefix("::") {
            text = next;
            continue;
        }
        found.insert(path);
        // `as other`, `*`, and whatever else belongs to this branch.
        return &after[after.find([',', '}', ';', '\n']).unwrap_or(after.len())..];
    }
}
