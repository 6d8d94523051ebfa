//! When what runs on a machine counts as gone, because nobody will ever tell what became of it.

use trainyard_api::cluster_node::{ClusterNode, NodeReason, RetireReason};

/// Whether the machine is lost: gone, or silent for so long that nobody waits for word from it. Pods on it count as gone then, be
/// they shown as running or not: their attempt ends, the next one may start elsewhere, and the machine is destroyed, or kept from
/// use until it is empty, without asking what is on it.
///
/// Once true it stays true: the reason is stored with a state that is never left, and a retirement as Lost is final. The node
/// controller says it as a fact, the cluster controller as a decision; whoever is first, it holds for all.
///
/// A machine that is merely preempted, unusable or cordoned may still run what it has, and is not lost. Nor is one that somebody
/// deletes: it is retired as Lost when no attempt is on it any more, and not if it was told to go for another reason.
pub fn is_lost(node: &ClusterNode) -> bool {
    let retired = node.spec.retired.as_ref().map(|retired| retired.reason);
    let status = node.status.as_ref();
    retired == Some(RetireReason::Lost)
        || status.is_some_and(|status| {
            status.gone_time.is_some() || matches!(status.reason, Some(NodeReason::Lost | NodeReason::Gone))
        })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::nothing_known(json!(null), json!(null), false)]
    #[case::silent_for_a_while(json!(null), json!({"state": "Running", "reason": "NodeNotReady"}), false)]
    #[case::silent_for_too_long(json!(null), json!({"state": "Unusable", "reason": "Lost"}), true)]
    #[case::its_node_vanished(json!(null), json!({"state": "Failed", "reason": "Lost"}), true)]
    #[case::preempted(json!("Preempted"), json!({"state": "Preempted", "reason": "Preempted"}), false)]
    #[case::preempted_and_silent(json!("Preempted"), json!({"state": "Preempted", "reason": "Lost"}), true)]
    #[case::of_no_use(json!("Unusable"), json!({"state": "Unusable", "reason": "NotUsableInTime"}), false)]
    #[case::being_deleted(json!("IdleTimeout"), json!({"state": "Unusable", "reason": "MachineDeleted"}), false)]
    #[case::told_to_go_and_silent(json!("IdleTimeout"), json!({"state": "Unusable", "reason": "Lost"}), true)]
    #[case::decided_first(json!("Lost"), json!({"state": "Running", "reason": "Claimed"}), true)]
    #[case::gone(json!("ScaleDown"), json!({"state": "Leaving", "reason": "Gone", "goneTime": "2030-01-01T00:00:00Z"}), true)]
    #[case::gone_before_its_time(json!(null), json!({"state": "Failed", "reason": "StockOut", "goneTime": "2030-01-01T00:00:00Z"}), true)]
    fn pods_of_a_lost_machine_count_as_gone_and_of_no_other(
        #[case] retired: Value,
        #[case] status: Value,
        #[case] expected: bool,
    ) {
        let retired = retired.is_string().then(|| json!({"time": "2030-01-01T00:00:00Z", "reason": retired}));
        let node: ClusterNode = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ClusterNode", "metadata": {"name": "n1"},
            "spec": {"cluster": {"name": "c", "uid": "c1"}, "ordinal": 1, "engine": {},
                     "vmSize": {"sizeName": "S", "vcpus": 1, "memory": "1Gi"},
                     "taint": {"key": "k", "effect": "NoSchedule"}, "retired": retired},
            "status": status,
        }))
        .expect("a ClusterNode");
        assert_eq!(is_lost(&node), expected);
    }
}
