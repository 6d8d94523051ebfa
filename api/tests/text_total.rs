//! A Run holds so much text and no more, wherever it is written.

#![allow(clippy::unwrap_used)]

use kube::core::cel::{Validator, compile_schema};
use rstest::rstest;
use serde_json::{Value, json};
use trainyard_api::all_crds;
use trainyard_api::text_total::MOST;

/// The rule alone: the schema of a Run's spec without all other rules.
fn rule() -> Value {
    let crd = all_crds().into_iter().find(|crd| crd.spec.names.kind == "Run").unwrap();
    let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
    let mut spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
    let rules = spec["x-kubernetes-validations"].as_array().unwrap();
    let ours = rules.iter().find(|rule| rule["message"].as_str().unwrap().contains(&MOST.to_string()));
    let inner = ours.unwrap()["rule"].as_str().unwrap().strip_prefix("oldSelf.hasValue() || (").unwrap();
    let alone = json!({"rule": inner.strip_suffix(')').unwrap(), "message": "too much"});
    spec["x-kubernetes-validations"] = json!([alone]);
    spec["properties"].as_object_mut().unwrap().values_mut().for_each(without_rules);
    spec
}

fn without_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("x-kubernetes-validations");
            fields.values_mut().for_each(without_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rules),
        _ => {}
    }
}

fn is_taken(spec: &Value) -> bool {
    let compiled = compile_schema(&rule());
    match Validator::new().validate_compiled(&compiled, spec, None) {
        Ok(()) => true,
        Err(errors) => {
            let messages: Vec<_> = errors.into_vec().into_iter().map(|error| error.message).collect();
            assert_eq!(messages, ["too much"]);
            false
        }
    }
}

fn list(count: usize, entry: &Value) -> Value {
    Value::Array(vec![entry.clone(); count])
}

fn map(count: usize, value: &str) -> Value {
    (0..count).map(|number| (format!("k{number:02}"), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

/// Each is the most that its own bounds allow, or less, and more than a Run may hold.
#[rstest]
#[case::command(json!({"command": list(5, &json!("x".repeat(16384)))}))]
#[case::args(json!({"args": list(5, &json!("x".repeat(16384)))}))]
#[case::environment(json!({"environment": map(9, &"x".repeat(8192))}))]
#[case::chief(json!({"distribution": {"tensorflow": {"chief": {"args": list(5, &json!("x".repeat(16384)))}}}}))]
#[case::worker(json!({"distribution": {"tensorflow": {"worker": {"command": list(5, &json!("x".repeat(16384)))}}}}))]
#[case::servers(json!({"distribution": {"tensorflow": {"parameterServer": {"environment": map(9, &"x".repeat(8192))}}}}))]
#[case::evaluator(json!({"distribution": {"tensorflow": {"evaluator": {"environment": map(9, &"x".repeat(8192))}}}}))]
#[case::annotations(json!({"podTemplate": {"annotations": map(9, &"x".repeat(8192))}}))]
#[case::env(json!({"podTemplate": {"env": list(9, &json!({"name": "A", "value": "x".repeat(8192)}))}}))]
#[case::keys_of_secrets(json!({"podTemplate": {"env": list(100, &json!({
    "name": "A".repeat(256), "valueFrom": {"secretKeyRef": {"name": "s".repeat(253), "key": "k".repeat(253)}}}))}}))]
#[case::mounts(json!({"podTemplate": {"sidecars": list(8, &json!({"volumeMounts": list(32, &json!({
    "mountPath": "/".repeat(200), "subPath": "s".repeat(200)}))}))}}))]
#[case::sidecars(json!({"podTemplate": {"sidecars": list(8, &json!({"args": list(1, &json!("x".repeat(8192)))}))}}))]
#[case::variables_of_sidecars(json!({"podTemplate": {"sidecars": list(8, &json!({"env": list(2, &json!({
    "name": "A", "value": "x".repeat(8192)}))}))}}))]
#[case::config_maps(json!({"podTemplate": {"volumes": list(32, &json!({"configMap": {"items": list(64, &json!({
    "key": "k".repeat(10), "path": "p".repeat(10)}))}}))}}))]
#[case::secrets(json!({"podTemplate": {"volumes": list(32, &json!({"secret": {"items": list(64, &json!({
    "key": "k".repeat(10), "path": "p".repeat(10)}))}}))}}))]
#[case::projected(json!({"podTemplate": {"volumes": list(8, &json!({"projected": {"sources": list(16, &json!({
    "secret": {"items": list(32, &json!({"key": "k", "path": "p"}))}}))}}))}}))]
#[case::attributes(json!({"podTemplate": {"volumes": list(3, &json!({"csi": {
    "volumeAttributes": map(32, &"x".repeat(1024))}}))}}))]
fn no_place_takes_more_than_a_run_may_hold(#[case] spec: Value) {
    assert!(!is_taken(&spec));
}

#[test]
fn what_is_within_the_bound_is_taken_and_all_counts_together() {
    let half = json!("x".repeat(16384));
    let both = json!({"args": list(2, &half), "environment": map(3, &"x".repeat(8192))});
    assert!(is_taken(&both));
    assert!(is_taken(&json!({})));
    let mut more = both;
    more["podTemplate"] = json!({"annotations": map(1, &"x".repeat(8192))});
    assert!(!is_taken(&more));
}
