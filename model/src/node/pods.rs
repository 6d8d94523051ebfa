//! What every rule about the pods on a machine asks of one.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

/// The annotation of pods that a kubelet runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId {
    namespace: String,
    name: String,
}

impl PodId {
    /// Of that namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The name of this pod.
    pub fn of(pod: &Pod) -> Self {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        Self { namespace: part(&pod.metadata.namespace), name: part(&pod.metadata.name) }
    }

    /// What the people of a namespace are told: names of other namespaces are for the operator's log.
    pub fn told_in(&self, namespace: &str) -> String {
        if self.namespace == namespace {
            format!("pod {}", self.name)
        } else {
            "a pod of another namespace".to_owned()
        }
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether its kubelet runs it by itself, from a file of the Node.
pub fn is_a_kubelets_own(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// Whether all its processes have ended, so that it takes nothing any more.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// As much of a pod as tells whether it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// All its processes have ended: [`has_ended`].
    pub ended: bool,
    /// It is bound to a Node.
    pub placed: bool,
    /// It is being deleted.
    pub deleting: bool,
}

impl Life {
    /// Reads the pod.
    pub fn of(pod: &Pod) -> Self {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        Self {
            ended: has_ended(pod),
            placed: node.is_some_and(|name| !name.is_empty()),
            deleting: pod.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Whether a process of it may run, or may yet start. One that is being deleted runs on until its kubelet says otherwise; only
    /// one that was never placed runs nowhere and never will, since the API server binds no pod that is being deleted.
    ///
    /// On a machine that [is lost](super::lost::is_lost) it counts as gone all the same; whoever asks knows which machine it is on.
    pub const fn may_run(self) -> bool {
        !self.ended && (self.placed || !self.deleting)
    }
}

/// Whether a DaemonSet keeps it, so that it belongs to its Node.
pub fn is_of_a_daemon_set(pod: &Pod) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::waiting_for_a_place(json!({}), "Pending", false, true)]
    #[case::placed(json!({"nodeName": "vm1"}), "Pending", false, true)]
    #[case::running(json!({"nodeName": "vm1"}), "Running", false, true)]
    #[case::stopping(json!({"nodeName": "vm1"}), "Running", true, true)]
    #[case::of_unknown_phase(json!({"nodeName": "vm1"}), "Unknown", false, true)]
    #[case::never_placed_and_going(json!({}), "Pending", true, false)]
    #[case::placed_nowhere_and_going(json!({"nodeName": ""}), "Pending", true, false)]
    #[case::succeeded(json!({"nodeName": "vm1"}), "Succeeded", false, false)]
    #[case::failed_and_going(json!({"nodeName": "vm1"}), "Failed", true, false)]
    fn a_pod_may_run_until_it_has_ended_or_goes_without_a_place(
        #[case] spec: Value,
        #[case] phase: &str,
        #[case] deleting: bool,
        #[case] expected: bool,
    ) {
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": phase}}))
                .expect("a pod");
        let mut whole = spec;
        whole["containers"] = json!([]);
        pod.spec = serde_json::from_value(whole).expect("a pod's spec");
        let now = trainyard_api::Time("2030-01-01T00:00:00Z".parse().expect("a time"));
        pod.metadata.deletion_timestamp = deleting.then_some(now);
        assert_eq!(Life::of(&pod).may_run(), expected);
    }
}
