//! What every schema keeps: bounds on everything, one meaning for "absent", documented fields, the promised names.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use trainyard_api::all_crds;
use trainyard_api::names::{CATEGORY, GROUP, VERSION};

/// Calls `check` with the path and schema of every field, item and map value.
fn walk(path: &str, schema: &Value, check: &mut impl FnMut(&str, &Value)) {
    check(path, schema);
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, check);
    }
    for (inside, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(inside) {
            walk(&format!("{path}{mark}"), inner, check);
        }
    }
}

/// Kinds that only administrators write; what is wrong with one is said by the Clusters that use it.
const WITHOUT_STATUS: [&str; 1] = ["ProvisioningClass"];

fn each_schema(mut check: impl FnMut(&str, &Value)) {
    for crd in all_crds() {
        let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
        for part in ["spec", "status"] {
            let kind = &crd.spec.names.kind;
            let schema = &version["schema"]["openAPIV3Schema"]["properties"][part];
            if part == "status" && WITHOUT_STATUS.contains(&kind.as_str()) {
                assert!(schema.is_null(), "{kind} has a status now: take it out of WITHOUT_STATUS");
                continue;
            }
            assert!(schema.is_object(), "{kind} has no {part}");
            walk(&format!("{}.{part}", crd.spec.names.kind), schema, &mut check);
        }
    }
}

#[test]
fn every_string_list_map_and_number_is_bounded() {
    each_schema(|path, schema| match schema["type"].as_str() {
        Some("string") => {
            let bounded = schema.get("maxLength").is_some()
                || schema.get("enum").is_some()
                || schema["format"] == "date-time";
            assert!(bounded, "{path} has no maxLength");
        }
        Some("array") => assert!(schema.get("maxItems").is_some(), "{path} has no maxItems"),
        Some("integer") => {
            assert!(schema.get("minimum").is_some(), "{path} has no minimum");
            assert!(schema.get("maximum").is_some(), "{path} has no maximum");
            let format = schema["format"].as_str().unwrap();
            assert!(["int32", "int64"].contains(&format), "{path} has format {format}");
        }
        Some("object") => {
            let is_map = schema.get("additionalProperties").is_some();
            assert!(!is_map || schema.get("maxProperties").is_some(), "{path} has no maxProperties");
            let is_said = schema.get("properties").is_some() || schema["maxProperties"] == 0;
            assert!(is_map || is_said, "{path} says nothing of what it holds");
            assert!(schema.get("x-kubernetes-preserve-unknown-fields").is_none(), "{path} takes anything");
        }
        Some("boolean") => {}
        None if schema["x-kubernetes-int-or-string"] == true => {
            for bound in ["minimum", "maximum", "maxLength", "pattern"] {
                assert!(schema.get(bound).is_some(), "{path} has no {bound}");
            }
        }
        other => panic!("{path} has the type {other:?}"),
    });
}

#[test]
fn every_list_says_how_it_is_merged() {
    each_schema(|path, schema| {
        if schema["type"] == "array" {
            assert!(schema.get("x-kubernetes-list-type").is_some(), "{path} has no x-kubernetes-list-type");
        }
    });
}

#[test]
fn nothing_may_be_null_and_status_has_no_defaults() {
    each_schema(|path, schema| {
        assert!(schema.get("nullable").is_none(), "{path} may be null");
        assert!(!path.contains(".status") || schema.get("default").is_none(), "{path} has a default");
        for value in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
            assert!(value.is_string(), "{path} takes {value}");
        }
    });
}

#[test]
fn every_field_is_described() {
    each_schema(|path, schema| {
        let inside = path.ends_with("[]") || path.ends_with("{}");
        assert!(inside || schema["description"].is_string(), "{path} has no description");
    });
}

#[test]
fn every_default_has_a_value_its_field_takes() {
    each_schema(|path, schema| {
        let Some(default) = schema.get("default") else { return };
        match schema["type"].as_str().unwrap() {
            "string" => {
                let text = default.as_str().unwrap_or_else(|| panic!("{path}: {default}"));
                if let Some(values) = schema.get("enum").and_then(Value::as_array) {
                    assert!(values.contains(&text.into()), "{path}: {default}");
                }
            }
            "integer" => {
                let number = default.as_f64().unwrap();
                assert!(number >= schema["minimum"].as_f64().unwrap(), "{path}: {default}");
                assert!(number <= schema["maximum"].as_f64().unwrap(), "{path}: {default}");
            }
            "object" => assert!(default.is_object(), "{path}: {default}"),
            "boolean" => assert!(default.is_boolean(), "{path}: {default}"),
            other => panic!("{path} is a {other} and has the default {default}"),
        }
    });
}

#[test]
fn defaults_are_those_that_are_documented() {
    let mut defaults = vec![];
    each_schema(|path, schema| {
        if let Some(default) = schema.get("default").filter(|default| !default.is_object()) {
            defaults.push(format!("{path} = {default}"));
        }
    });
    assert_eq!(
        defaults,
        [
            "ClusterNode.spec.claims[].share.cpuMillis = 0",
            "ClusterNode.spec.claims[].share.memoryBytes = 0",
            "ClusterNode.spec.taint.value = \"\"",
            "ClusterNode.spec.tolerations[].operator = \"Equal\"",
            "Cluster.spec.hold = \"None\"",
            "Cluster.spec.scale.deallocation = \"WaitForRunCompletion\"",
            "Cluster.spec.scale.idleSecondsBeforeScaleDown = 120",
            "Cluster.spec.scale.initialNodes = 0",
            "Cluster.spec.scale.minNodes = 0",
            "Cluster.spec.vmPriority = \"Dedicated\"",
            "ProvisioningClass.spec.placement.mode = \"Any\"",
            "ProvisioningClass.spec.taint.effect = \"NoSchedule\"",
            "ProvisioningClass.spec.taint.key = \"trainyard.dev/cluster\"",
            "ProvisioningClass.spec.tolerations[].operator = \"Equal\"",
            "Run.spec.cancel = false",
            "Run.spec.cleanPodPolicy = \"Running\"",
            "Run.spec.distribution.pytorch.processCountPerNode = 1",
            "Run.spec.experiment = \"default\"",
            "Run.spec.gangTimeout = \"20m\"",
            "Run.spec.maxWallClockTime = \"168h\"",
            "Run.spec.nodeCount = 1",
            "Run.spec.priority = \"Normal\"",
            "Run.spec.retries.infrastructure = 10",
            "Run.spec.retries.user = 0",
            "Run.spec.successPolicy = \"Primary\"",
            "Run.spec.suspend = false",
            "VmSize.spec.spotCapable = false",
        ]
    );
}

#[test]
fn names_are_those_that_are_promised() {
    let names: Vec<_> = all_crds()
        .iter()
        .map(|crd| {
            let names = &crd.spec.names;
            assert_eq!(crd.spec.group, GROUP);
            assert_eq!(crd.spec.versions[0].name, VERSION);
            assert_eq!(names.categories.as_deref(), Some(&[CATEGORY.to_owned()][..]));
            let subresources = crd.spec.versions[0].subresources.as_ref();
            let has_status = subresources.is_some_and(|subresources| subresources.status.is_some());
            assert_eq!(has_status, !WITHOUT_STATUS.contains(&names.kind.as_str()), "{}", names.kind);
            assert!(!crd.spec.versions[0].additional_printer_columns.as_ref().unwrap().is_empty());
            format!(
                "{} {} {} {}",
                names.kind,
                names.plural,
                names.short_names.as_ref().unwrap()[0],
                crd.spec.scope
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            "ClusterNode clusternodes tycn Namespaced",
            "Cluster clusters tyc Namespaced",
            "Experiment experiments tye Namespaced",
            "ProvisioningClass provisioningclasses typc Cluster",
            "Run runs tyr Namespaced",
            "VmSize vmsizes tyvm Cluster",
        ]
    );
}

#[test]
fn runs_and_nodes_are_selected_by_what_controllers_watch() {
    for crd in all_crds() {
        let selectable: Vec<_> = crd.spec.versions[0]
            .selectable_fields
            .iter()
            .flatten()
            .map(|field| field.json_path.as_str())
            .collect();
        match crd.spec.names.kind.as_str() {
            "Run" => assert_eq!(selectable, [".status.phase", ".spec.clusterRef.name"]),
            "ClusterNode" => assert_eq!(selectable, [".spec.cluster.uid"]),
            _ => assert!(selectable.is_empty()),
        }
    }
}
