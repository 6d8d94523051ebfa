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

/// Whether a DaemonSet keeps it, so that it belongs to its Node.
pub fn is_of_a_daemon_set(pod: &Pod) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")
}
