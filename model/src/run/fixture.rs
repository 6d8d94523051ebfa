//! Runs as users write them, for tests: the shortest one, and what a test is about.

use serde_json::{Value, json};
use trainyard_api::Run;
use trainyard_api::capacity::Capacity;
use trainyard_api::run::RunSpec;

pub fn spec(extra: Value) -> RunSpec {
    let mut whole =
        json!({"clusterRef": {"name": "nc6"}, "container": {"image": "registry.example/mnist:1"}});
    if let (Some(whole), Value::Object(extra)) = (whole.as_object_mut(), extra) {
        whole.extend(extra);
    }
    serde_json::from_value(whole).expect("a spec as users write it")
}

pub fn run(extra: Value) -> Run {
    serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run",
        "metadata": {"name": "r1", "namespace": "ml", "uid": "u1", "creationTimestamp": "2030-01-01T00:00:00Z"},
        "spec": spec(extra),
    }))
    .expect("a Run as an API server returns it")
}

/// A machine of 8 cpus, 16 GiB and that many accelerators.
pub fn machine(gpus: i64) -> Capacity {
    Capacity {
        cpu_millis: 8000,
        memory_bytes: 16 << 30,
        pods: 110,
        accelerators: [("nvidia.com/gpu".to_owned(), gpus)].into_iter().collect(),
    }
}
