//! `kubectl trainyard plan` as people run it: each folder of `tests/plan` has files and, in `expected.txt`, the answer.
//!
//! `UPDATE_EXPECTED=1 cargo test -p kubectl-trainyard` writes the answers anew; review the difference.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Whether to update is asked of the environment.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const NOW: &str = "2030-01-01T12:00:00Z";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan")
}

fn plan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-trainyard"))
        .current_dir(folder)
        .args(["plan", "--namespace", "ml", "--now", NOW])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        assert_eq!(err, "", "nothing is said beside an answer");
        out.into_owned()
    } else {
        assert_eq!(out, "", "a failure has no answer");
        format!("exit {}\n{err}", output.status.code().unwrap())
    }
}

fn scenarios() -> Vec<PathBuf> {
    let mut found: Vec<_> = folder().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn each_folder_gets_the_answer_that_is_expected() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut wrong = Vec::new();
    for scenario in scenarios() {
        let name = scenario.file_name().unwrap().to_string_lossy().into_owned();
        let output = plan(&scenario, &["-f", "."]);
        assert_eq!(output.status.success(), !name.starts_with("error_"), "{name}: {output:?}");
        let (found, path) = (told(&output), scenario.join("expected.txt"));
        if update {
            std::fs::write(&path, &found).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != found {
            wrong.push(format!("{name}:\n{found}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "not as expected.txt has it; UPDATE_EXPECTED=1 writes it anew.\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_same_files_give_the_same_answer() {
    for scenario in scenarios().iter().filter(|path| path.join("exported.yaml").exists()) {
        let (one, other) =
            (plan(scenario, &["-f", ".", "-o", "json"]), plan(scenario, &["-f", ".", "-o", "json"]));
        assert_eq!(one, other, "{}", scenario.display());
    }
}

#[test]
fn standard_input_is_read_as_a_file() {
    let scenario = folder().join("a_gang_waits");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-trainyard"))
        .args(["plan", "-f", "-", "-n", "ml", "--now", NOW])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = std::fs::read_to_string(scenario.join("exported.yaml")).unwrap();
    text += &std::fs::read_to_string(scenario.join("new.yaml")).unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let piped = child.wait_with_output().unwrap();
    assert_eq!(told(&piped), std::fs::read_to_string(scenario.join("expected.txt")).unwrap());
}

#[test]
fn json_has_the_plan_that_the_text_tells() {
    let output = plan(&folder().join("the_shortest_files"), &["-f", ".", "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let cluster = &answer["clusters"][0];
    assert_eq!(answer["now"], NOW);
    assert_eq!(cluster["cluster"], "ml/nc6");
    assert_eq!(cluster["resolved"]["vmSize"]["sizeName"], "Standard_NC6s_v3");
    let asked: Vec<_> = cluster["plan"]["afterwards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| action["requestNode"]["ordinal"].as_i64().unwrap())
        .collect();
    assert_eq!(asked, [1, 2]);
    assert_eq!(cluster["plan"]["report"]["runs"][0]["run"]["name"], "mnist-00001");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = plan(&folder(), &["-f", "no-such.yaml"]);
    assert!(
        told(&output).starts_with("exit 1\nerror: no-such.yaml: cannot be read: No such file"),
        "{output:?}"
    );
}

#[test]
fn a_time_that_is_none_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-trainyard"))
        .args(["plan", "-f", ".", "--now", "noon"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--now"), "{output:?}");
    assert!(!output.status.success());
}
