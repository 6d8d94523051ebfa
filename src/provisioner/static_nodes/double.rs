//! Machines of an administrator, as Nodes in the API server of tests.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use trainyard_fake_apiserver::FakeServer;

/// The label that classes of tests select by.
pub(crate) const POOL: &str = "example.org/pool";

/// A ready machine of size `Standard_NC6s_v3`, with a mark of its administrator of every kind.
pub(crate) fn machine(name: &str, pool: &str) -> Node {
    let amounts = json!({"cpu": "6", "memory": "110Gi", "nvidia.com/gpu": "1"});
    let labels = json!({POOL: pool, "topology.kubernetes.io/zone": "hall-1", "example.org/rack": "4"});
    let node = json!({
        "metadata": {"name": name, "labels": labels, "annotations": {"example.org/owner": "lab"}},
        "spec": {"taints": [{"key": "example.org/slow-disk", "effect": "PreferNoSchedule"}]},
        "status": {"capacity": amounts, "allocatable": amounts,
                   "conditions": [{"type": "Ready", "status": "True"}]},
    });
    serde_json::from_value(node).unwrap()
}

/// All that is given back of a Node: what an administrator can set.
pub(crate) fn looks(node: &Node) -> Value {
    json!({
        "labels": node.metadata.labels,
        "annotations": node.metadata.annotations,
        "spec": node.spec,
    })
}

/// The kubelet of this machine is heard, or not.
pub(crate) fn kubelet(server: &FakeServer, name: &str, ready: &str) {
    server.edit("", name, |node: &mut Node| {
        let condition = &mut node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0];
        condition.status = ready.to_owned();
        condition.message = Some("Kubelet stopped posting node status.".to_owned());
    });
}

/// A pod there that belongs to nobody here.
pub(crate) fn stranger(name: &str, node: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "others"},
        "spec": {"containers": [], "nodeName": node},
        "status": {"phase": "Running"},
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}
