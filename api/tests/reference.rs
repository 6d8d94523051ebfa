//! `docs/api.md`: every field of every kind, from the schemas that the API server has.
//!
//! `UPDATE_MANIFESTS=1 cargo test -p trainyard-api --test reference` writes it anew.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Whether to update is asked of the environment.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use trainyard_api::all_crds;

const HEAD: &str = "# Every field\n\n\
    Generated from the types; the same text is behind `kubectl explain`. A field without a default may be left out unless it is\n\
    *required*. Rules between fields are below the table of their kind, in the words with which the API server refuses.\n";

const ORDER: [&str; 6] = ["Run", "Cluster", "Experiment", "ClusterNode", "ProvisioningClass", "VmSize"];

/// `list of string`, `one of A, B`, `integer, 0 to 10`.
fn kind_of(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> =
            words.iter().map(|word| format!("`{}`", word.as_str().unwrap_or_default())).collect();
        return format!("one of {}", words.join(", "));
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return "quantity".to_owned();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "array" => {
            let most =
                schema["maxItems"].as_i64().map(|most| format!(", at most {most}")).unwrap_or_default();
            format!("list of {}{most}", kind_of(&schema["items"]))
        }
        "object" if !schema["additionalProperties"].is_null() => {
            format!("map to {}", kind_of(&schema["additionalProperties"]))
        }
        "integer" => match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
            (Some(least), Some(most)) if most < 1e15 => format!("integer, {least} to {most}"),
            (Some(least), _) => format!("integer, {least} or more"),
            _ => "integer".to_owned(),
        },
        "string" if schema["format"] == "date-time" => "time".to_owned(),
        other => other.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn fields(path: &str, schema: &Value, text: &mut String) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "*required*".to_owned(),
            // What an object defaults to is the defaults of its fields.
            Value::Null | Value::Object(_) => String::new(),
            Value::String(text) if text.is_empty() => "`\"\"`".to_owned(),
            value => format!("`{}`", value.to_string().trim_matches('"')),
        };
        let says = one_line(field["description"].as_str().unwrap_or_default());
        writeln!(text, "| `{at}` | {} | {default} | {says} |", kind_of(field)).unwrap();
        let below = match field["type"].as_str() {
            Some("array") => (format!("{at}[]"), &field["items"]),
            Some("object") if !field["additionalProperties"].is_null() => {
                (format!("{at}.*"), &field["additionalProperties"])
            }
            _ => (at, field),
        };
        fields(&below.0, below.1, text);
    }
}

/// The messages of the rules, once each, in the order of the schema.
fn rules(schema: &Value, found: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = one_line(rule["message"].as_str().unwrap_or_default());
        if !message.is_empty() && !found.contains(&message) {
            found.push(message);
        }
    }
    for (_, field) in schema["properties"].as_object().into_iter().flatten() {
        rules(field, found);
    }
    for inside in ["items", "additionalProperties"] {
        if schema[inside].is_object() {
            rules(&schema[inside], found);
        }
    }
}

fn page() -> String {
    let mut text = HEAD.to_owned();
    let mut crds: Vec<Value> = all_crds().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
    // What users write comes first.
    crds.sort_by_key(|crd| ORDER.iter().position(|kind| crd["spec"]["names"]["kind"] == *kind).unwrap());
    for crd in crds {
        let names = &crd["spec"]["names"];
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let kind = names["kind"].as_str().unwrap();
        write!(text, "\n## {kind}\n\n").unwrap();
        let short: Vec<&str> =
            names["shortNames"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let scope =
            if crd["spec"]["scope"] == "Namespaced" { "in a namespace" } else { "of the whole cluster" };
        let says = one_line(schema["description"].as_str().unwrap_or_default());
        write!(text, "`trainyard.dev/v1alpha1`, {scope}, short name `{}`. {says}\n\n", short.join("`, `"))
            .unwrap();
        text.push_str("| field | is | default | says |\n|---|---|---|---|\n");
        for part in ["spec", "status"] {
            fields(part, &schema["properties"][part], &mut text);
        }
        let mut found = Vec::new();
        rules(schema, &mut found);
        if !found.is_empty() {
            text.push_str("\nRules:\n\n");
            found.iter().for_each(|rule| writeln!(text, "- {rule}").unwrap());
        }
    }
    text
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let wanted = page();
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/api.md is not current; write it anew with: UPDATE_MANIFESTS=1 cargo test -p trainyard-api --test reference"
    );
}

#[test]
fn every_kind_and_its_fields_are_there() {
    let text = page();
    for (row, why) in [
        (
            "| `spec.scale.maxNodes` | integer, 0 to 1000 | *required* |",
            "a bounded integer that must be written",
        ),
        ("| `spec.priority` | one of `Low`, `Normal`, `High` | `Normal` |", "a closed set with a default"),
        ("| `spec.resourcesPerNode.memory` | quantity |", "a quantity"),
        ("| `status.attempts[].podsGone` | boolean |", "a field of a list's items"),
        ("- minNodes must not be greater than maxNodes", "a rule"),
    ] {
        assert!(text.contains(row), "{why}: {row}");
    }
}
