//! `tally` against what cargo printed for a small package: as a function, and as the program that `make test` runs, with
//! a cargo that repeats the recording.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use trainyard_e2e::tally::expected::{self, Packages};
use trainyard_e2e::tally::{Tally, Target, output};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tally")
}

fn recorded(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// What is there to be tested in the small package.
fn there_is() -> Vec<Target> {
    expected::targets(&recorded("metadata.json"), &Packages::default()).unwrap()
}

fn tally(output: &str) -> (String, Vec<String>) {
    let tally = Tally::of(&output::read(output), &there_is());
    (tally.to_string(), tally.faults().to_vec())
}

#[test]
fn everything_is_counted_datatests_and_doc_tests_included() {
    assert_eq!(there_is().len(), 5);
    assert_eq!(tally(&recorded("whole.txt")), ("6 passed, 0 failed, 0 skipped".to_owned(), vec![]));
}

#[test]
fn an_ignored_test_is_a_fault_wherever_it_is() {
    let (sum, faults) = tally(&recorded("ignored.txt"));
    assert_eq!(sum, "5 passed, 0 failed, 2 skipped");
    assert_eq!(faults, ["tests/whole.rs (whole): 1 ignored", "doc tests of small_yard: 1 ignored"]);
}

#[test]
fn a_test_that_a_filter_leaves_out_is_a_fault() {
    let filtered = recorded("whole.txt").replacen("1 passed", "0 passed", 1);
    let (sum, faults) = tally(&filtered.replacen("0 filtered out", "1 filtered out", 1));
    assert_eq!(sum, "5 passed, 0 failed, 1 skipped");
    assert_eq!(faults, ["unit tests of small_yard (src/lib.rs): 1 filtered out"]);
}

#[test]
fn a_target_that_does_not_run_or_end_or_has_no_test_is_a_fault() {
    let whole = recorded("whole.txt");
    let (before, after) = whole.split_once("     Running tests/whole.rs").unwrap();
    let (suite, docs) = after.split_once("   Doc-tests ").unwrap();
    let missing = format!("{before}   Doc-tests {docs}");
    assert_eq!(tally(&missing).1, ["tests/whole.rs (whole): did not run"]);

    let silent: Vec<&str> = suite.lines().filter(|line| !line.contains("test result")).collect();
    let silent = format!("{before}     Running tests/whole.rs{}\n   Doc-tests {docs}", silent.join("\n"));
    assert_eq!(tally(&silent).1, ["tests/whole.rs (whole): ended without a line `test result:`"]);

    let empty =
        whole.replacen("test works ... ok\n\ntest result: ok. 1 passed", "test result: ok. 0 passed", 1);
    assert_eq!(tally(&empty).1, ["tests/whole.rs (whole): is a file of tests and has none"]);
    assert_eq!(tally("").1.len(), 5);
}

#[test]
fn what_a_child_process_wrote_into_the_line_does_not_hide_it() {
    let spoilt = recorded("whole.txt").replace("test result:", "listening on 127.0.0.1:80test result:");
    assert_eq!(tally(&spoilt), ("6 passed, 0 failed, 0 skipped".to_owned(), vec![]));
}

#[test]
fn packages_are_asked_for_as_cargo_is() {
    let of = |only: &[&str], without: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Packages { only: names(only), without: names(without) }
    };
    assert_eq!(of(&[], &["a"]).arguments(), ["--workspace", "--exclude", "a"]);
    assert_eq!(of(&["a", "b"], &[]).arguments(), ["--package", "a", "--package", "b"]);
    let metadata = recorded("metadata.json");
    assert_eq!(expected::targets(&metadata, &of(&[], &["small-yard"])).unwrap(), []);
    assert!(expected::targets(&metadata, &of(&["other"], &[])).is_err());
}

/// Runs the program with a cargo that prints a recording and ends with `code`.
fn program(recording: &str, code: i32) -> Output {
    let cargo = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cargo-{recording}-{code}"));
    let folder = folder().display().to_string();
    let script = format!(
        "#!/bin/sh\nif [ $1 = metadata ]; then cat {folder}/metadata.json; exit; fi\n\
         cat {folder}/{recording}.txt\necho \"asked: $*\" >&2\nexit {code}\n"
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_tally")).arg("--cargo").arg(&cargo).output().unwrap()
}

#[test]
fn the_program_shows_all_and_ends_as_it_must() {
    for (recording, code, ends, last) in [
        ("whole", 0, 0, "6 passed, 0 failed, 0 skipped"),
        ("ignored", 0, 1, "5 passed, 0 failed, 2 skipped"),
        ("failed", 101, 101, "4 passed, 1 failed, 0 skipped; cargo test ended with 101"),
        // Nothing failed that was counted; cargo knows better.
        ("whole", 101, 101, "6 passed, 0 failed, 0 skipped; cargo test ended with 101"),
    ] {
        let Output { status, stdout, stderr } = program(recording, code);
        let shown = String::from_utf8(stdout).unwrap();
        assert_eq!(status.code(), Some(ends), "{recording}: {shown}{}", String::from_utf8_lossy(&stderr));
        assert!(shown.starts_with(&recorded(&format!("{recording}.txt"))), "{shown}");
        assert!(shown.contains("asked: test --workspace"), "{shown}");
        assert_eq!(shown.lines().last(), Some(last));
    }
}
