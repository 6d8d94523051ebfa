//! Who may depend on whom, who may write, and how long a file may be: the arrows that keep the system changeable.
//!
//! Crates: `api ← model → planner`; the operator and the kubectl plugin stand on all three. In the operator:
//! `controllers → {provisioner, resources} → model → api` and `controllers → {kubernetes, telemetry, clock, tasks}`.
//! Read from manifests and sources, so that a new file is held to the rules without being listed here.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

mod sources;

use sources::{files_below, paths_named, program, root, shown, sources};

#[test]
fn use_trees_are_read_right() {
    let text = "use crate::kubernetes::{self, error::{Error, ErrorKind}, read as r};\nuse super::super::run::facts;\n let x = crate::clock::now();";
    let expected: BTreeSet<Vec<String>> = [
        "kubernetes",
        "kubernetes error Error",
        "kubernetes error ErrorKind",
        "kubernetes read",
        "controllers run facts",
        "clock now",
    ]
    .iter()
    .map(|path| path.split(' ').map(ToOwned::to_owned).collect())
    .collect();
    assert_eq!(paths_named("src/controllers/cluster/report.rs", text), expected);
}

/// What a module of the operator may name, besides itself.
fn allowed(module: &str) -> Option<&'static [&'static str]> {
    match module {
        "controllers" => {
            Some(&["provisioner", "resources", "occupancy", "kubernetes", "telemetry", "clock", "tasks"])
        }
        "occupancy" => Some(&["kubernetes"]),
        "provisioner" => Some(&["kubernetes", "telemetry", "clock", "tasks"]),
        "kubernetes" => Some(&["telemetry", "clock", "tasks"]),
        "settings" => Some(&["kubernetes", "telemetry"]),
        "resources" | "telemetry" | "clock" | "tasks" => Some(&[]),
        // They put everything together.
        "main" | "lib" | "operator" => None,
        other => panic!("src/{other} is new: say here what it may depend on"),
    }
}

#[test]
fn modules_of_the_operator_depend_in_one_direction() {
    let mut wrong = Vec::new();
    for (file, text) in program("src") {
        let parts: Vec<&str> = file.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
        let Some(allowed) = allowed(parts[0]) else { continue };
        for path in paths_named(&file, &text) {
            let Some(target) = path.first() else { continue };
            if target != parts[0] && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{file} names crate::{}", path.join("::")));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "who may name whom is said in `allowed`");
}

#[test]
fn no_controller_names_another() {
    let mut wrong = Vec::new();
    for (file, text) in program("src/controllers") {
        let own = file.trim_start_matches("src/controllers/").split('/').next().unwrap();
        if own == "mod.rs" {
            continue;
        }
        for path in paths_named(&file, &text) {
            if let [first, other, ..] = path.as_slice()
                && first == "controllers"
                && other != own
            {
                wrong.push(format!("{file} names crate::{}", path.join("::")));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "controllers meet in the API server, not in calls");
}

#[test]
fn what_is_pure_has_no_client_and_waits_for_nothing() {
    let mut wrong = Vec::new();
    let folders = ["src/resources", "model/src", "planner/src", "api/src"];
    for (file, text) in folders.into_iter().flat_map(program) {
        for word in [
            "kube::Client",
            "kube::Api",
            "kube::client",
            "async fn",
            "async move",
            ".await",
            "tokio",
            "Timestamp::now",
        ] {
            if text.contains(word) {
                wrong.push(format!("{file} has {word}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_plugin_only_reads() {
    let mut wrong = Vec::new();
    for (file, text) in program("cli/src") {
        for request in ["PostParams", "PatchParams", "DeleteParams"] {
            if text.contains(request) {
                wrong.push(format!("{file} has {request}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn foundations_know_no_rule_of_trainyard() {
    let mut wrong = Vec::new();
    for (file, text) in ["src/kubernetes", "src/telemetry"].into_iter().flat_map(program) {
        for part in ["trainyard_model::", "trainyard_planner::"] {
            if text.contains(part) {
                wrong.push(format!("{file} names {part}"));
            }
        }
        for (at, _) in text.match_indices("trainyard_api::") {
            if !text[at..].starts_with("trainyard_api::names") {
                wrong.push(format!("{file} names more of trainyard_api than names"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Writes outside of the files that write, and why they may stay.
const OTHER_WRITERS: [(&str, &str, &str); 2] = [
    (
        "src/controllers/cluster/observe.rs",
        "add_finalizer",
        "a Cluster must not vanish before its first node is planned",
    ),
    ("src/controllers/vm_size/mod.rs", "apply_status", "one write is all this controller does"),
];

#[test]
fn only_the_files_that_say_so_write() {
    let writes: BTreeSet<String> = sources("src/kubernetes")
        .into_iter()
        .filter(|(file, _)| file.ends_with("/apply.rs"))
        .flat_map(|(_, text)| {
            text.lines()
                .filter_map(|line| line.strip_prefix("pub async fn "))
                .map(|rest| rest.split(['<', '(']).next().unwrap().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(writes.len() > 8, "apply.rs is read wrongly: {writes:?}");
    let may_write = |file: &str| {
        let inside = |folder: &str| file.starts_with(folder);
        inside("src/kubernetes/")
            || inside("src/provisioner/")
            || (inside("src/controllers/")
                && file.split('/').skip(3).any(|part| {
                    ["execute", "report", "afterwards"]
                        .iter()
                        .any(|name| part.trim_end_matches(".rs") == *name)
                }))
    };
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (file, text) in program("src") {
        for write in writes.iter().filter(|write| calls(&text, write)) {
            let other = OTHER_WRITERS.iter().position(|(path, call, _)| *path == file && call == write);
            used.extend(other);
            if !may_write(&file) && other.is_none() && !is_in_one_file(&file) {
                wrong.push(format!("{file} calls apply::{write}"));
            }
        }
        for request in [".create(&PostParams", ".patch(", "DeleteParams", "PatchParams", "PostParams"] {
            if text.contains(request) && !may_write(&file) {
                wrong.push(format!("{file} has {request}: writes go through kubernetes::apply"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(used.len(), OTHER_WRITERS.len(), "an exception that nobody needs any more");
}

fn calls(text: &str, write: &str) -> bool {
    [format!("apply::{write}("), format!("apply::{write}::<")].iter().any(|call| text.contains(call.as_str()))
}

/// A controller so small that observing and writing are in one file.
fn is_in_one_file(file: &str) -> bool {
    file == "src/controllers/experiment/mod.rs"
}

/// The dependencies of each of our crates on others of ours, by name; and the features it asks of kube.
fn manifests() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let own = package["dependencies"].as_array().unwrap().iter().filter(|one| one["kind"].is_null());
            let (mut ours, mut kube) = (BTreeSet::new(), BTreeSet::new());
            for dependency in own {
                let name = text(&dependency["name"]);
                if name == "kube" || name.starts_with("kube-") {
                    kube.extend(dependency["features"].as_array().unwrap().iter().map(&text));
                    if dependency["uses_default_features"] == true {
                        kube.insert("default".to_owned());
                    }
                } else if name.contains("trainyard") || name == "tokio" {
                    ours.insert(name);
                }
            }
            (text(&package["name"]), (ours, kube))
        })
        .collect()
}

#[test]
fn crates_depend_in_one_direction_and_only_programs_have_a_client() {
    let found = manifests();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let of = |name: &str| {
        found.get(name).unwrap_or_else(|| panic!("no crate {name} in {:?}", found.keys())).clone()
    };
    assert_eq!(of("trainyard-planner"), (set(&[]), set(&[])));
    assert_eq!(of("trainyard-api"), (set(&[]), set(&["derive"])));
    assert_eq!(of("trainyard-model"), (set(&["trainyard-api", "trainyard-planner"]), set(&[])));
    let program = set(&["trainyard-api", "trainyard-model", "trainyard-planner", "tokio"]);
    // The plugin reads, and does not watch.
    assert_eq!(of("kubectl-trainyard"), (program.clone(), set(&["client", "rustls-tls", "aws-lc-rs"])));
    let (operator, kube) = of("trainyard");
    assert_eq!(operator, program);
    assert!(kube.contains("client"));
    // What stands beside the product knows its wire types at most.
    for outside in ["trainyard-e2e", "trainyard-fake-apiserver"] {
        let (ours, _) = of(outside);
        assert!(ours.is_subset(&set(&["trainyard-api", "tokio"])), "{outside} depends on {ours:?}");
    }
    let known: BTreeSet<&str> = [
        "trainyard",
        "trainyard-api",
        "trainyard-e2e",
        "trainyard-fake-apiserver",
        "trainyard-model",
        "trainyard-planner",
        "kubectl-trainyard",
    ]
    .into();
    assert_eq!(
        found.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        known,
        "a new crate: say what it may depend on"
    );
}

/// Longest file of a program, without the tests at its end. Beyond it there is a second thing to be found.
const LONGEST: usize = 450;

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    for folder in ["src", "api/src", "model/src", "planner/src", "cli/src", "testing/src", "e2e/src"] {
        for (file, text) in program(folder) {
            let lines = text.lines().count();
            if lines > LONGEST {
                wrong.push(format!("{file} has {lines} lines, at most {LONGEST}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "look for the second thing in it");
}

#[test]
fn no_file_tells_of_the_machine_it_was_written_on_or_of_work_undone() {
    // Put together here, so that this file does not have them.
    let words = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["#[ign", "ore"],
        ["unimple", "mented!("],
    ];
    let mut files = Vec::new();
    files_below(root(), &mut files);
    assert!(files.len() > 200, "only {} files found", files.len());
    let mut wrong = Vec::new();
    for path in files {
        // What is not text has no words.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for word in words.map(|parts| parts.concat()) {
            if text.contains(&word) {
                wrong.push(format!("{} has {word}", shown(&path)));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
