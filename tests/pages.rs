//! The pages lead where they say: links and the files that the architecture page names are there.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages for people: the README and everything under `docs/`.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.push(root().join("README.md"));
    pages.push(root().join("CHANGELOG.md"));
    pages
}

/// Where the links of a page lead.
fn links(page: &str) -> Vec<&str> {
    page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// A heading as the anchor that stands for it: small letters, digits and dashes.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.trim()
        .chars()
        .filter(|at| at.is_alphanumeric() || " -_".contains(*at))
        .collect::<String>()
        .replace(' ', "-")
}

fn has_anchor(page: &str, wanted: &str) -> bool {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.starts_with("http")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let leads = target.exists()
                && (heading.is_empty() || has_anchor(&fs::read_to_string(&target).unwrap(), heading));
            if !leads {
                broken.push(format!("{}: {link}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn every_page_is_linked_from_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        assert!(name == "README.md" || links(&readme).contains(&name.as_str()), "{name} is not linked");
    }
}

/// Program files of the repository, as paths from its root.
fn files(folder: &Path, found: &mut Vec<String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.push(format!("{}/", path.strip_prefix(root()).unwrap().display()));
            files(&path, found);
        } else if path.is_file() {
            found.push(path.strip_prefix(root()).unwrap().display().to_string());
        }
    }
}

/// What stands between backticks outside code blocks and looks like a file or a folder of the repository.
fn files_named(page: &str) -> Vec<&str> {
    let prose = page.split("```").step_by(2);
    let spans = prose.flat_map(|text| text.split('`').skip(1).step_by(2));
    spans
        .filter(|span| span.contains(".rs") || (span.contains('/') && !span.contains([' ', '.', ':'])))
        .collect()
}

#[test]
fn the_architecture_page_names_files_that_are_there() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut there = Vec::new();
    files(root(), &mut there);
    let is_there = |name: &str| {
        let name = name.trim_end_matches('/');
        there
            .iter()
            .map(|file| file.trim_end_matches('/'))
            .any(|file| file == name || file.ends_with(&format!("/{name}")))
    };
    let named = files_named(&page);
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "docs/architecture.md names {missing:?}");
}

#[test]
fn what_is_read_from_a_page_is_what_stands_there() {
    assert_eq!(links("see [a](b.md#c), [d](http://e)"), ["b.md#c", "http://e"]);
    assert!(has_anchor("# One\n\n## The queue, again\n", "the-queue-again"));
    assert_eq!(files_named("`a.rs` and `b/` not `c d/` nor `X.y`\n```\n`z.rs`\n```\n"), ["a.rs", "b/"]);
}
