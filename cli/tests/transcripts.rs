//! `kubectl trainyard why` and `queue` as people type them: each `transcript.txt` of `tests/why`, and the page docs/why.md, has
//! commands after a `$` and what they print.
//!
//! `UPDATE_EXPECTED=1 cargo test -p kubectl-trainyard` writes the answers anew; review the difference.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Whether to update is asked of the environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROMPT: &str = "$ kubectl trainyard ";

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn answer(folder: &Path, words: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-trainyard"))
        .current_dir(folder)
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_ne!(output.status.success(), out.is_empty(), "an answer, or an error: {words}: {out}{err}");
    if output.status.success() {
        assert_eq!(err, "", "nothing is said beside an answer");
    }
    format!("{out}{err}")
}

/// The same text with each command answered anew.
fn told(folder: &Path, text: &str) -> (String, usize) {
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with(PROMPT)).collect();
    let blocks: Vec<String> = commands
        .iter()
        .map(|command| format!("{command}\n{}", answer(folder, command.strip_prefix(PROMPT).unwrap())))
        .collect();
    (blocks.join("\n"), commands.len())
}

/// A page with the commands of its `console` blocks answered anew.
fn page_told(folder: &Path, page: &str) -> (String, usize) {
    let (mut told_anew, mut asked) = (String::new(), 0);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        told_anew.extend([line, "\n"]);
        if line == "```console" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let (answers, commands) = told(folder, &block.join("\n"));
            told_anew.extend([&answers, "```\n"]);
            asked += commands;
        }
    }
    (told_anew, asked)
}

fn transcripts() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = here()
        .join("tests/why")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path().join("transcript.txt"))
        .collect();
    found.sort();
    found
}

fn check(path: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(path, found).unwrap();
    } else if fs::read_to_string(path).unwrap() != found {
        wrong.push(format!("{}:\n{found}", path.display()));
    }
}

#[test]
fn every_question_gets_the_answer_that_is_expected() {
    let mut wrong = Vec::new();
    for path in transcripts() {
        let (found, asked) = told(path.parent().unwrap(), &fs::read_to_string(&path).unwrap());
        assert!(asked > 0, "{} asks nothing", path.display());
        check(&path, &found, &mut wrong);
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECTED=1 writes it anew.\n{}", wrong.join("\n"));
}

#[test]
fn every_command_that_the_documentation_shows_prints_what_stands_there() {
    let root = here().parent().unwrap();
    let path = root.join("docs/why.md");
    let (found, asked) = page_told(root, &fs::read_to_string(&path).unwrap());
    assert!(asked > 4, "{asked} commands are shown");
    let mut wrong = Vec::new();
    check(&path, &found, &mut wrong);
    assert!(wrong.is_empty(), "UPDATE_EXPECTED=1 writes it anew.\n{}", wrong.join("\n"));
}
