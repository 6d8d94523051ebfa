//! What pods take of a Node that are neither a run's nor a DaemonSet's: those that its kubelet runs by itself, and those of
//! people and operators that tolerate our taint.
//!
//! The scheduler counts them, so a run that was given the whole Node would find no place there. Nothing tells of them but
//! a list of the pods on the Node, which the node controller makes; what it shows stands until the next one.

use k8s_openapi::api::core::v1::Pod;
use trainyard_api::names::labels;

use super::{daemons, pods, seen::Allocatable};

/// What such pods take of one Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    /// The sum of their requests.
    pub taken: Allocatable,
    /// `<namespace>/<name>` of those that have accelerators or other devices, the first by name.
    pub with_devices: Option<String>,
}

impl Strangers {
    /// Of the pods that are bound to a Node. Finished ones take nothing. A run's are told by their label: whoever puts it on
    /// another pod gains nothing but that the pod is not counted.
    pub fn among(pods: &[Pod]) -> Self {
        let mut found = Self::default();
        for pod in pods.iter().filter(|pod| is_counted(pod)) {
            let Some(spec) = &pod.spec else { continue };
            let requests = daemons::requests(spec);
            if requests.devices.values().any(|count| *count > 0) {
                let metadata = &pod.metadata;
                let name = |part: &Option<String>| part.clone().unwrap_or_default();
                let holder = format!("{}/{}", name(&metadata.namespace), name(&metadata.name));
                found.with_devices = found.with_devices.into_iter().chain([holder]).min();
            }
            found.taken = daemons::plus(&found.taken, &requests);
        }
        found
    }

    /// What is left of `allocatable` beside them.
    pub fn left_of(&self, allocatable: Allocatable) -> Allocatable {
        daemons::minus(allocatable, &self.taken)
    }
}

fn is_counted(pod: &Pod) -> bool {
    let is_of_a_run = pod.metadata.labels.iter().flatten().any(|(name, _)| name == labels::RUN_UID);
    !pods::has_ended(pod) && !pods::is_of_a_daemon_set(pod) && !is_of_a_run
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, requests: &Value, metadata: &Value, phase: &str) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"nodeName": "vm-1", "containers": [{"name": "c", "resources": {"requests": requests}}]},
            "status": {"phase": phase},
        });
        for (key, value) in metadata.as_object().into_iter().flatten() {
            pod["metadata"][key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn pods_of_the_kubelet_and_of_others_count_and_no_others_do() {
        let cpu = json!({"cpu": "100m", "memory": "1Mi"});
        let daemon = json!({"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}
        ]});
        let found = Strangers::among(&[
            pod(
                "kube-proxy-vm-1",
                &cpu,
                &json!({"annotations": {"kubernetes.io/config.mirror": "x"}}),
                "Running",
            ),
            pod("somebodys", &json!({"cpu": "1", "example.org/nic": "1"}), &json!({}), "Pending"),
            pod("a-daemons", &cpu, &daemon, "Running"),
            pod("a-runs", &cpu, &json!({"labels": {labels::RUN_UID: "u"}}), "Running"),
            pod("done", &cpu, &json!({}), "Succeeded"),
        ]);
        let Allocatable { cpu_millis, memory_bytes, pods, devices } = &found.taken;
        assert_eq!((*cpu_millis, *memory_bytes, *pods), (1100, 1 << 20, 2));
        assert_eq!(devices.get("example.org/nic"), Some(&1));
        assert_eq!(found.with_devices.as_deref(), Some("kube-system/somebodys"));
    }

    #[test]
    fn what_is_left_is_never_less_than_nothing() {
        let all = |count| Allocatable {
            cpu_millis: count,
            memory_bytes: count,
            pods: count,
            devices: [("d".to_owned(), count)].into(),
        };
        let strangers = Strangers { taken: all(3), with_devices: None };
        assert_eq!(strangers.left_of(all(5)), all(2));
        assert_eq!(strangers.left_of(all(1)), all(0));
        assert_eq!(Strangers::default().left_of(all(1)), all(1));
    }
}
