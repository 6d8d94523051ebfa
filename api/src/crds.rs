//! The CRDs of all kinds, made from the types: as objects, and as the YAML of `crds/`.
//!
//! Called by `trainyard crds`, by the test that holds `crds/` and the chart current, and by whoever needs the schema
//! of a kind. Take the CRDs from here, not from `Kind::crd()`: here they are brought into the form we promise.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{Cluster, ClusterNode, Experiment, ProvisioningClass, Run, VmSize};

/// Largest CRD, in bytes: `kubectl apply` keeps a copy in an annotation, which holds 262,144.
pub const CRD_BYTES_MAX: usize = 200_000;

/// The CRDs of all kinds, sorted by name.
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        Cluster::crd(),
        ClusterNode::crd(),
        Experiment::crd(),
        ProvisioningClass::crd(),
        Run::crd(),
        VmSize::crd(),
    ];
    crds.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    crds.into_iter().map(promised_form).collect()
}

/// File name and content of each CRD as it stands in `crds/`: `clusters.yaml` and so on.
pub fn crd_files() -> Vec<(String, String)> {
    all_crds().iter().map(|crd| (format!("{}.yaml", crd.spec.names.plural), yaml(crd))).collect()
}

/// All CRDs as one stream of YAML documents.
pub fn crds_yaml() -> String {
    crd_files().into_iter().flat_map(|(_, text)| ["---\n".to_owned(), text]).collect()
}

fn promised_form(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a CRD is made of maps with string keys");
    forbid_null(&mut value);
    for schema in value.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(status) = schema.pointer_mut("/schema/openAPIV3Schema/properties/status") {
            drop_defaults(status);
        }
    }
    serde_json::from_value(value).expect("a CRD with less in it is still a CRD")
}

/// A field that is there has a value: `has()` in a rule then means what it says, and there is one way to leave a
/// field out.
fn forbid_null(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            map.values_mut().for_each(forbid_null);
        }
        Value::Array(list) => list.iter_mut().for_each(forbid_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Status is what a controller wrote and nothing else. Each map below `properties` is a field, so a field named
/// `default` would be kept.
fn drop_defaults(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("default");
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(drop_defaults);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            drop_defaults(inner);
        }
    }
}

fn yaml(crd: &CustomResourceDefinition) -> String {
    let mut value = serde_json::to_value(crd).expect("a CRD is made of maps with string keys");
    write_whole_numbers(&mut value);
    let text = serde_saphyr::to_string(&value).expect("JSON can be written as YAML");
    if text.ends_with('\n') { text } else { format!("{text}\n") }
}

/// Limits are floating-point in the type of a CRD; `maximum: 1000.0` for an integer reads badly.
fn write_whole_numbers(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(write_whole_numbers),
        Value::Array(list) => list.iter_mut().for_each(write_whole_numbers),
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e16) {
                *number = (float as i64).into();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
