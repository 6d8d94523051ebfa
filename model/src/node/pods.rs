//! What every rule about the pods on a machine asks of one.

use k8s_openapi::api::core::v1::Pod;

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
