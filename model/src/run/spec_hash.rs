//! The hash of everything in a Run's spec that may not change.
//!
//! The schema refuses changes, but not after a rule was relaxed by hand, an object was restored from elsewhere, or
//! storage was edited. The hash taken at acceptance is kept in `status.specHash`; it is `v1:` and the SHA-256, in
//! hexadecimal, of canonical JSON: keys sorted, no spaces, fields that have their default left out. So a field added
//! later, with a default, changes no hash, and a hash is always checked by the rules of its own version.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use trainyard_api::run::RunSpec;

const V1: &str = "v1:";

/// What a stored hash says about a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The spec is the one that was hashed.
    Same,
    /// The spec is another one.
    Changed,
    /// The hash was made by rules this build does not know. A newer version wrote it; nothing can be said.
    UnknownVersion,
}

/// The hash of the spec, by the newest rules.
pub fn of(spec: &RunSpec) -> String {
    v1(spec)
}

/// Compares a stored hash with the spec, by the rules of the hash's own version.
pub fn check(stored: &str, spec: &RunSpec) -> Verdict {
    if !stored.starts_with(V1) {
        return Verdict::UnknownVersion;
    }
    if stored == v1(spec) { Verdict::Same } else { Verdict::Changed }
}

fn v1(spec: &RunSpec) -> String {
    let digest = Sha256::digest(canonical_v1(spec).as_bytes());
    digest.iter().fold(V1.to_owned(), |mut text, byte| {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
        text
    })
}

/// The text that version 1 hashes. Never change it: add a version.
fn canonical_v1(spec: &RunSpec) -> String {
    // No `..`: a new field must make somebody decide whether it belongs here.
    let RunSpec {
        cluster_ref,
        experiment,
        priority: _,
        node_count,
        resources_per_node,
        container,
        command,
        args,
        environment,
        distribution,
        success_policy,
        max_wall_clock_time,
        max_total_time,
        retries,
        gang_timeout,
        queue_deadline,
        clean_pod_policy,
        ttl_after_finished: _,
        suspend: _,
        cancel: _,
        pod_template,
    } = spec;
    let fields = [
        ("clusterRef", serde_json::to_value(cluster_ref), Value::Null),
        ("experiment", serde_json::to_value(experiment), "default".into()),
        ("nodeCount", serde_json::to_value(node_count), 1.into()),
        ("resourcesPerNode", serde_json::to_value(resources_per_node), Value::Null),
        ("container", serde_json::to_value(container), Value::Null),
        ("command", serde_json::to_value(command), Value::Array(Vec::new())),
        ("args", serde_json::to_value(args), Value::Array(Vec::new())),
        ("environment", serde_json::to_value(environment), Value::Object(Map::new())),
        ("distribution", serde_json::to_value(distribution), Value::Null),
        ("successPolicy", serde_json::to_value(success_policy), "Primary".into()),
        ("maxWallClockTime", serde_json::to_value(max_wall_clock_time), "168h".into()),
        ("retries", serde_json::to_value(retries), serde_json::json!({"user": 0, "infrastructure": 10})),
        ("maxTotalTime", serde_json::to_value(max_total_time), Value::Null),
        ("queueDeadline", serde_json::to_value(queue_deadline), Value::Null),
        ("cleanPodPolicy", serde_json::to_value(clean_pod_policy), "Running".into()),
        ("gangTimeout", serde_json::to_value(gang_timeout), "20m".into()),
        ("podTemplate", serde_json::to_value(pod_template), Value::Null),
    ];
    let mut kept = Map::new();
    for (name, value, default) in fields {
        let value = value.expect("wire types have string keys and finite numbers, so they are JSON");
        if value != default {
            kept.insert(name.to_owned(), value);
        }
    }
    let mut text = String::new();
    write_sorted(&Value::Object(kept), &mut text);
    text
}

/// JSON with sorted keys, whatever order the build's map type keeps.
fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            text.push('{');
            for (position, name) in names.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(name.clone()).to_string());
                text.push(':');
                write_sorted(&fields[name], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write_sorted(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run::fixture::spec;

    #[test]
    fn the_canonical_text_leaves_defaults_out_and_sorts_keys() {
        assert_eq!(
            canonical_v1(&spec(
                json!({"environment": {"B": "2", "A": "1"}, "nodeCount": 1, "gangTimeout": "1200s"})
            )),
            r#"{"clusterRef":{"name":"nc6"},"container":{"image":"registry.example/mnist:1"},"environment":{"A":"1","B":"2"}}"#
        );
    }

    #[test]
    fn the_hash_of_version_1_never_changes() {
        assert_eq!(
            of(&spec(json!({}))),
            "v1:d2df235695d030bcb4c4a8ae3182e883e99157bc63415ccf7e37b2ce7d37d5c5"
        );
    }

    /// Taken before fields were added below `container`, `distribution` and `podTemplate`.
    #[test]
    fn a_hash_taken_before_fields_were_added_still_holds() {
        let pod_template = json!({"annotations": {"team": "vision"}, "env": [
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}]});
        for (stored, earlier) in [
            (
                "v1:27a4d3d70526ef36a626df260d1655b5edffe9d7bb2bf2c42e4e2e694e53e437",
                json!({"podTemplate": pod_template}),
            ),
            (
                "v1:047270c37ce0526789fb0cc43fd593a79144ce2a024ff3ade61c7cc4f78c5727",
                json!({"distribution": {"tensorflow": {"chief": {"args": ["a"]}, "parameterServer": {"count": 2}}}}),
            ),
            (
                "v1:4b3190ce5cea4143dea1ae3bc9d58a84e00e4094c8f8d5605a67032634b6ab02",
                json!({"distribution": {"pytorch": {"processCountPerNode": 4}}}),
            ),
            (
                "v1:cea47503cef8c9a8ed6ddef9b25d73f674b447c5b3ccbf1d09d53a3276c50aad",
                json!({"container": {"image": "i", "imagePullSecrets": ["s"], "workingDir": "/job"}}),
            ),
        ] {
            let earlier = spec(earlier);
            assert_eq!(
                check(stored, &earlier),
                Verdict::Same,
                "{} is {}",
                canonical_v1(&earlier),
                of(&earlier)
            );
        }
    }

    #[test]
    fn what_may_change_does_not_matter_and_what_may_not_does() {
        let stored = of(&spec(json!({})));
        let same =
            spec(json!({"priority": "High", "suspend": true, "cancel": true, "ttlAfterFinished": "1h"}));
        assert_eq!(check(&stored, &same), Verdict::Same);
        for changed in [
            json!({"nodeCount": 2}),
            json!({"command": ["a"]}),
            json!({"args": ["a"]}),
            json!({"experiment": "b"}),
            json!({"environment": {"A": ""}}),
            json!({"distribution": {"pytorch": {}}}),
            json!({"successPolicy": "AllWorkers"}),
            json!({"maxWallClockTime": "1h"}),
            json!({"retries": {"user": 1}}),
            json!({"gangTimeout": "1h"}),
            json!({"maxTotalTime": "1h"}),
            json!({"queueDeadline": "1h"}),
            json!({"cleanPodPolicy": "All"}),
            json!({"podTemplate": {"annotations": {"a": "b"}}}),
            json!({"container": {"image": "other"}}),
            json!({"clusterRef": {"name": "other"}}),
        ] {
            assert_eq!(check(&stored, &spec(changed.clone())), Verdict::Changed, "{changed}");
        }
    }

    #[test]
    fn a_hash_of_a_later_version_says_nothing() {
        assert_eq!(check("v2:00", &spec(json!({}))), Verdict::UnknownVersion);
    }
}
