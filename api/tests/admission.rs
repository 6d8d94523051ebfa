//! The table of accepted and refused objects against the rules of the schemas, without an API server.
//!
//! Only an API server judges the rest of a schema (bounds, patterns, unknown fields); the end-to-end tests give it every
//! case of the table. Here every rule is proven to refuse something, with its message, and to leave the accepted alone.

#![allow(clippy::unwrap_used)]

#[path = "admission/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};

use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::de::DeserializeOwned;
use serde_json::Value;
use trainyard_api::{Cluster, ClusterNode, Experiment, ProvisioningClass, Run, VmSize, all_crds};

use table::{Case, merge, tables};

/// The object after each step.
fn steps(case: &Case, base: &Value) -> Vec<Value> {
    let mut steps = vec![case.created(base)];
    for (_, patch) in case.changes() {
        let mut object = steps[steps.len() - 1].clone();
        merge(&mut object, patch);
        steps.push(object);
    }
    steps
}

fn schemas() -> BTreeMap<String, Value> {
    all_crds()
        .into_iter()
        .map(|crd| {
            let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
            (crd.spec.names.kind, version["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

/// The messages of all rules below a schema.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                let message =
                    rule["message"].as_str().unwrap_or_else(|| panic!("a rule has no message: {rule}"));
                found.insert(message.to_owned());
            }
            map.values().for_each(|value| messages(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| messages(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Puts the items of keyed lists that both objects have at the same places. An API server pairs such items by key, the
/// evaluator used here by place.
fn pair(schema: &Value, now: &mut Value, before: &mut Value) {
    match (now, before) {
        (Value::Object(now), Value::Object(before)) => {
            for (name, field) in now {
                if let Some(old) = before.get_mut(name) {
                    pair(&schema["properties"][name], field, old);
                }
            }
        }
        (Value::Array(now), Value::Array(before)) => {
            let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() else { return };
            let key = |item: &Value| -> Vec<Value> {
                keys.iter().map(|name| item[name.as_str().unwrap()].clone()).collect()
            };
            let (old, current): (Vec<_>, Vec<_>) =
                (before.iter().map(key).collect(), now.iter().map(key).collect());
            now.sort_by_key(|item| old.iter().position(|k| *k == key(item)).unwrap_or(usize::MAX));
            before.retain(|item| current.contains(&key(item)));
            for (item, old) in now.iter_mut().zip(before) {
                pair(&schema["items"], item, old);
            }
        }
        _ => {}
    }
}

/// The validator does not know `optionalOldSelf`: rules for the creation only stand by themselves at creation, and are left
/// out of what judges a change.
fn without_optional_old_self(schema: &mut Value, at_creation: bool) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(rules)) = fields.get_mut("x-kubernetes-validations") {
                rules.retain(|rule| at_creation || rule.get("optionalOldSelf").is_none());
            }
            if fields.remove("optionalOldSelf").is_some() {
                let rule = fields["rule"].as_str().unwrap();
                let inner =
                    rule.strip_prefix("oldSelf.hasValue() || (").and_then(|rule| rule.strip_suffix(')'));
                let inner = inner.expect("made by at_creation").to_owned();
                fields.insert("rule".to_owned(), inner.into());
            }
            fields.values_mut().for_each(|field| without_optional_old_self(field, at_creation));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without_optional_old_self(item, at_creation)),
        _ => {}
    }
}

/// The rules of one kind, compiled once: those for a creation, and those for a change.
struct Rules {
    schema: Value,
    of_creation: CompiledSchema,
    of_change: CompiledSchema,
    validator: Validator,
}

impl Rules {
    fn of(schema: &Value) -> Self {
        let compiled = |at_creation| {
            let mut schema = schema.clone();
            without_optional_old_self(&mut schema, at_creation);
            compile_schema(&schema)
        };
        let (of_creation, of_change) = (compiled(true), compiled(false));
        Self { schema: schema.clone(), of_creation, of_change, validator: Validator::new() }
    }

    /// The messages with which the rules refuse this object, or this change.
    fn judge(&self, object: &Value, before: Option<&Value>) -> Vec<String> {
        let (mut object, mut before) = (object.clone(), before.cloned());
        if let Some(before) = &mut before {
            pair(&self.schema, &mut object, before);
        }
        let rules = if before.is_some() { &self.of_change } else { &self.of_creation };
        match self.validator.validate_compiled(rules, &object, before.as_ref()) {
            Ok(()) => vec![],
            Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
        }
    }
}

fn read_as<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    serde_json::from_value::<T>(object.clone()).map(drop).map_err(|error| error.to_string())
}

fn read(kind: &str, object: &Value) -> Result<(), String> {
    match kind {
        "Cluster" => read_as::<Cluster>(object),
        "ClusterNode" => read_as::<ClusterNode>(object),
        "Experiment" => read_as::<Experiment>(object),
        "ProvisioningClass" => read_as::<ProvisioningClass>(object),
        "Run" => read_as::<Run>(object),
        "VmSize" => read_as::<VmSize>(object),
        other => panic!("no kind {other}"),
    }
}

#[test]
fn every_kind_has_a_table() {
    let kinds: BTreeSet<_> = tables().into_iter().map(|table| table.kind).collect();
    assert_eq!(kinds, schemas().into_keys().collect());
}

#[test]
fn accepted_objects_pass_every_rule_and_can_be_read() {
    let schemas = schemas();
    for table in tables() {
        let rules = Rules::of(&schemas[&table.kind]);
        for case in table.cases.iter().filter(|case| case.refused.is_empty()) {
            let mut before = None;
            for object in steps(case, &table.base) {
                let refusals = rules.judge(&object, before.as_ref());
                assert_eq!(refusals, Vec::<String>::new(), "{}: {}", table.kind, case.name);
                assert_eq!(read(&table.kind, &object), Ok(()), "{}: {}", table.kind, case.name);
                before = Some(object);
            }
        }
    }
}

#[test]
fn each_rule_refuses_with_the_message_of_the_table() {
    let schemas = schemas();
    for table in tables() {
        let schema = &schemas[&table.kind];
        let rules = Rules::of(schema);
        let mut known = BTreeSet::new();
        messages(schema, &mut known);
        for case in &table.cases {
            let wanted: Vec<_> =
                case.refused.iter().filter(|part| known.iter().any(|m| m.contains(part.as_str()))).collect();
            if wanted.is_empty() {
                continue;
            }
            let steps = steps(case, &table.base);
            let (last, earlier) = steps.split_last().unwrap();
            let refusals = rules.judge(last, earlier.last());
            for part in wanted {
                assert!(
                    refusals.iter().any(|message| message.contains(part.as_str())),
                    "{}: {}: no {part:?} in {refusals:?}",
                    table.kind,
                    case.name
                );
            }
        }
    }
}

#[test]
fn no_rule_is_without_a_case_it_refuses() {
    let schemas = schemas();
    for table in tables() {
        let mut rules = BTreeSet::new();
        messages(&schemas[&table.kind], &mut rules);
        rules.retain(|message| {
            !table.cases.iter().flat_map(|case| &case.refused).any(|part| message.contains(part.as_str()))
        });
        assert_eq!(rules, BTreeSet::new(), "{} has rules that no case proves", table.kind);
    }
}

#[test]
fn every_refusal_names_a_part_of_the_message() {
    for table in tables() {
        let names: BTreeSet<_> = table.cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), table.cases.len(), "{}: two cases have one name", table.kind);
        for case in &table.cases {
            assert!(case.refused.iter().all(|part| part.len() > 8), "{}: {}", table.kind, case.name);
        }
    }
}
