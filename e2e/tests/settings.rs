//! `docs/install.md` against what can be set: each flag of the operator and each value of the chart, with its default.
//! Nothing is started.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use clap::{CommandFactory as _, ValueEnum as _};
use serde_json::Value;
use trainyard::settings::Arguments;
use trainyard::telemetry::logging::LogFormat;
use trainyard_e2e::installation::checkout;

/// The rows of the table whose heading begins with `title`, each cell without its marks.
fn rows(title: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(checkout().join("docs/install.md")).unwrap();
    let rows: Vec<Vec<String>> = page
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {title} |")))
        .skip(2)
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" |").map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "no table of {title}");
    rows
}

#[test]
fn every_flag_of_the_operator_is_documented_with_its_variable_and_default() {
    let program = Arguments::command();
    let run = program.find_subcommand("run").unwrap();
    let wanted: Vec<Vec<String>> = run
        .get_arguments()
        .filter(|flag| flag.get_long().is_some_and(|name| name != "help"))
        .map(|flag| {
            let defaults = flag.get_default_values();
            vec![
                format!("--{}", flag.get_long().unwrap()),
                flag.get_env().expect("every flag has a variable").to_str().unwrap().to_owned(),
                defaults.first().map(|text| text.to_str().unwrap().to_owned()).unwrap_or_default(),
            ]
        })
        .collect();
    let mut documented = rows("flag");
    documented.iter_mut().for_each(|row| row.truncate(3));
    assert_eq!(documented, wanted, "docs/install.md and `trainyard run --help`");
    let forms: Vec<_> = LogFormat::value_variants().iter().map(ToString::to_string).collect();
    assert_eq!(forms, ["text", "json"], "docs/install.md names the forms of the log");
}

/// Every value that is not a map with something in it, by its path.
fn leaves(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, found);
            }
        }
        leaf => drop(found.insert(path.to_owned(), leaf.clone())),
    }
}

#[test]
fn every_value_of_the_chart_is_documented_with_its_default() {
    let text = fs::read_to_string(checkout().join("charts/trainyard/values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let mut undocumented = BTreeMap::new();
    leaves("", &values, &mut undocumented);
    for row in rows("value") {
        let [path, default, what] = row.as_slice() else { panic!("three cells: {row:?}") };
        assert!(what.len() > 8, "{path}: what is it?");
        let value = values.pointer(&format!("/{}", path.replace('.', "/")));
        let value = value.unwrap_or_else(|| panic!("the chart has no value {path}"));
        let written = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            // Too long for a cell; said in words where there is something in it.
            Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
        };
        assert_eq!(*default, written, "the default of {path}");
        undocumented.retain(|leaf, _| leaf != path && !leaf.starts_with(&format!("{path}.")));
    }
    assert_eq!(undocumented, BTreeMap::new(), "docs/install.md says nothing of these values");
}

#[test]
fn the_chart_of_the_crds_has_no_values() {
    assert!(!checkout().join("charts/trainyard-crds/values.yaml").exists());
}
