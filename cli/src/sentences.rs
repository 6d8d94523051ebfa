//! Actions as sentences for people.

use trainyard_planner::{
    Action, DirectiveKind, DirectiveReason, DropBasis, NodeName, RetireReason, Snapshot,
};

use crate::words::ordinal;

/// What would be done to what was decided on, without a full stop.
pub fn sentence(action: &Action, snapshot: &Snapshot) -> String {
    match action {
        Action::RequestNode { ordinal, zone: None } => format!("ask for a machine: node {ordinal}"),
        Action::RequestNode { ordinal, zone: Some(zone) } => {
            format!("ask for a machine in zone {zone}: node {ordinal}")
        }
        Action::Allocate { run, attempt, nodes, shares: _ } => {
            format!("start attempt {attempt} of {run} on {}", listed(nodes))
        }
        Action::DropClaim { node, run, attempt, basis } => {
            let because = match basis {
                DropBasis::PodsGone => "its pods are gone",
                DropBasis::NotAllocated => "it was never told to use it",
                DropBasis::RunGone => "the Run is gone",
            };
            format!("take {node} back from attempt {attempt} of {run}: {because}")
        }
        Action::Retire { node, reason } => {
            format!("give nothing more to {node}, it shall leave: {}", retired(*reason))
        }
        Action::Unretire { node } => format!("keep {node} after all"),
        Action::Release { node } => {
            let is_lent = snapshot.nodes.iter().any(|one| one.name == *node && one.lent);
            let verb = if is_lent { "give back" } else { "destroy" };
            format!("{verb} the machine of {node}, which is empty")
        }
        Action::Forget { node } => format!("remove the object {node}: its machine is gone"),
        Action::Directive { run, attempt, kind, reason, culprit } => {
            let verb = match kind {
                DirectiveKind::Stop => "stop, at no cost to its retries, and queue again,",
                DirectiveKind::Requeue => "stop, as a failure of the infrastructure, and queue again,",
                DirectiveKind::Fail => "end for good",
            };
            let at = culprit.as_ref().map(|node| format!(" ({node})")).unwrap_or_default();
            format!("{verb} attempt {attempt} of {run}: {}{at}", ordered(*reason))
        }
        Action::Hold { run, hold } => format!(
            "pass {run} over until {:.0}, for the {} time: its machines were not complete within gangTimeout",
            hold.until,
            ordinal(hold.count)
        ),
        Action::GiveUp { run } => {
            format!("end {run} as Failed: it has waited longer than its queueDeadline")
        }
        Action::ReleaseFinalizer => "let the Cluster go: nothing of it is left".to_owned(),
    }
}

fn listed(nodes: &[NodeName]) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| node.0.as_str()).collect();
    names.join(", ")
}

/// Why a node shall leave.
pub fn retired(reason: RetireReason) -> &'static str {
    match reason {
        RetireReason::Idle => "it idled longer than idleSecondsBeforeScaleDown",
        RetireReason::ScaleDown => "there are more nodes than maxNodes",
        RetireReason::NotNeeded => "nobody waits for it any more",
        RetireReason::ClusterDeleted => "the Cluster is being deleted",
        RetireReason::Deleted => "somebody deleted it",
        RetireReason::Removed => "somebody wants it gone now",
        RetireReason::Lost => "it is gone or stopped answering",
        RetireReason::Preempted => "the provider took it back",
        RetireReason::Unusable => "runs cannot use it",
        RetireReason::Failed => "it never came",
    }
}

fn ordered(reason: DirectiveReason) -> &'static str {
    match reason {
        DirectiveReason::Withdrawn => "it was not launched, and not all of its nodes are its own",
        DirectiveReason::NodeLost => "a node was lost",
        DirectiveReason::NodePreempted => "the provider took a node back",
        DirectiveReason::NodeUnusable => "a node became unusable",
        DirectiveReason::ClusterDeleted => "the Cluster is being deleted",
        DirectiveReason::NodeRemoved => "somebody wants a node of it gone now",
        DirectiveReason::MaxNodesLowered => "maxNodes was lowered below what runs",
    }
}
