//! What people are told: Events about a Cluster, its nodes and the runs of its queue.
//!
//! In: what was just stored. Out: one Event for each change that somebody may wait for. Status says the same and more; none is
//! told for numbers that change, and never is one a reason for a plan to fail. `docs/events.md` has all of them.

use k8s_openapi::api::core::v1::ObjectReference;
use trainyard_api::cluster::{Cluster, ClusterErrorCode, ClusterStatus};
use trainyard_api::names::API_VERSION;
use trainyard_api::names::event::EventReason;
use trainyard_api::run_status::{QueueReason, RunQueue};
use trainyard_api::text::because;
use trainyard_model::snapshot::run::LightRun;
use trainyard_model::status::queue::EXACT_POSITIONS;
use trainyard_planner::{Action, RetireReason, RunId};

use super::Context;
use super::observe::Scope;

/// Why something is told, and the sentence.
type Notice = (EventReason, String);

/// Tells what a Cluster's status says for the first time.
pub fn tell_of_status(context: &Context, cluster: &Cluster, before: &ClusterStatus, after: &ClusterStatus) {
    for (reason, note) in of_status(before, after) {
        context.events.tell(cluster, reason, note);
    }
}

/// Tells that a run waits for something else than before.
pub fn tell_of_wait(context: &Context, run: &LightRun, entry: &RunQueue) {
    if let Some((reason, note)) = of_wait(run.queue.as_ref(), entry) {
        context.events.tell_about(about("Run", &run.id.namespace, &run.id.name, &run.id.uid), reason, note);
    }
}

/// Tells of an action that was carried out.
pub fn tell_of_action(context: &Context, scope: &Scope, action: &Action) {
    let Some((reason, note)) = of_action(action) else { return };
    let object = match action {
        Action::Allocate { run: RunId { namespace, name, uid }, .. }
        | Action::Hold { run: RunId { namespace, name, uid }, .. } => about("Run", namespace, name, uid),
        Action::Retire { node, .. } | Action::Unretire { node } => {
            let Some(node) = scope.nodes.get(&node.0) else { return };
            about("ClusterNode", &node.namespace, &node.name, &node.uid)
        }
        _ => return,
    };
    context.events.tell_about(object, reason, note);
}

fn about(kind: &str, namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// What an error of a Cluster means.
fn meaning(code: ClusterErrorCode) -> Option<EventReason> {
    match code {
        ClusterErrorCode::VmSizeNotFound
        | ClusterErrorCode::VmSizeRetired
        | ClusterErrorCode::VmSizeAmbiguous
        | ClusterErrorCode::LowPriorityNotSold
        | ClusterErrorCode::ProvisioningClassNotFound
        | ClusterErrorCode::NoDefaultProvisioningClass
        | ClusterErrorCode::ManyDefaultProvisioningClasses
        | ClusterErrorCode::NamespaceNotAllowed
        | ClusterErrorCode::VmSizeNotAllowed
        | ClusterErrorCode::NodeLimitReached
        | ClusterErrorCode::ProvisioningClassChanged
        | ClusterErrorCode::ProvisioningClassInvalid => Some(EventReason::GrowthBlocked),
        ClusterErrorCode::StockOut
        | ClusterErrorCode::QuotaExceeded
        | ClusterErrorCode::LaunchFailed
        | ClusterErrorCode::LaunchTimeout
        | ClusterErrorCode::NodesUnusable
        | ClusterErrorCode::NodesTooSmall
        | ClusterErrorCode::NameTaken => Some(EventReason::MachinesRefused),
        ClusterErrorCode::NodesOccupied => Some(EventReason::NodesOccupied),
        ClusterErrorCode::NodeToRemoveNotFound => Some(EventReason::NodeToRemoveNotFound),
        // Told about the machine itself, and what a newer version means is not known.
        ClusterErrorCode::StrayMachines | ClusterErrorCode::Unknown => None,
    }
}

fn of_status(before: &ClusterStatus, after: &ClusterStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    let asked = after.last_node_ordinal - before.last_node_ordinal;
    if asked == 1 {
        notices.push((EventReason::NodesRequested, format!("node {} is asked for", after.last_node_ordinal)));
    } else if asked > 1 {
        let first = before.last_node_ordinal + 1;
        notices.push((
            EventReason::NodesRequested,
            format!("{asked} nodes are asked for: {first} to {}", after.last_node_ordinal),
        ));
    }
    for error in &after.errors {
        let known = before.errors.iter().find(|known| known.code == error.code);
        let Some(reason) = meaning(error.code) else { continue };
        // A refusal that is met again after its back-off is news; an error that merely stays is not.
        let again =
            reason == EventReason::MachinesRefused && known.is_some_and(|known| known.count < error.count);
        if known.is_none() || again {
            notices.push((reason, format!("{}{}", error.code, because(&error.message))));
        }
    }
    let over = before.errors.iter().filter(|known| after.errors.iter().all(|error| error.code != known.code));
    notices.extend(
        over.filter(|known| meaning(known.code).is_some())
            .map(|known| (EventReason::Recovered, format!("{} is over", known.code))),
    );
    notices
}

/// A place that only moves, or is far behind, is no news; nor is it that others come first, or that a hold, told when it was
/// decided, is shown.
fn of_wait(before: Option<&RunQueue>, entry: &RunQueue) -> Option<Notice> {
    let reason = entry.reason?;
    let is_near = entry.position.is_some_and(|position| i64::from(position) <= EXACT_POSITIONS);
    let is_told = !matches!(reason, QueueReason::BehindOthers | QueueReason::CapacityHold);
    let is_new = before.and_then(|before| before.reason) != Some(reason);
    let message = entry.message.as_deref().unwrap_or_default();
    (is_near && is_told && is_new).then(|| (EventReason::Waiting, format!("{reason}{}", because(message))))
}

fn of_action(action: &Action) -> Option<Notice> {
    match action {
        Action::Allocate { attempt, nodes, .. } => {
            let shown: Vec<&str> = nodes.iter().take(4).map(|node| node.0.as_str()).collect();
            let more = nodes.len() - shown.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Some((EventReason::NodesAllocated, format!("attempt {attempt} gets {}{more}", shown.join(", "))))
        }
        Action::Hold { hold, .. } => {
            let note = format!(
                "its machines were not complete within gangTimeout: they are given back, and it is passed over until {:.0} \
                 (hold {})",
                hold.until, hold.count
            );
            Some((EventReason::Held, note))
        }
        Action::Retire { reason, .. } => Some((EventReason::NodeRetired, leaves(*reason).to_owned())),
        Action::Unretire { .. } => {
            Some((EventReason::NodeKept, "a run or minNodes needs it after all".to_owned()))
        }
        Action::RequestNode { .. }
        | Action::DropClaim { .. }
        | Action::Release { .. }
        | Action::Forget { .. }
        | Action::Directive { .. }
        | Action::ReleaseFinalizer
        // Told by the controller of Runs, when the Run has failed.
        | Action::GiveUp { .. } => None,
    }
}

const fn leaves(reason: RetireReason) -> &'static str {
    match reason {
        RetireReason::Idle => "it leaves: it idled longer than idleSecondsBeforeScaleDown",
        RetireReason::ScaleDown => "it leaves: there are more nodes than maxNodes",
        RetireReason::NotNeeded => "it leaves: nobody waits for it any more",
        RetireReason::ClusterDeleted => "it leaves: the Cluster is being deleted",
        RetireReason::Deleted => "it leaves after its runs: somebody deleted the ClusterNode",
        RetireReason::Removed => "it leaves at once: somebody wants it gone (trainyard.dev/remove-now)",
        RetireReason::Lost => "it leaves: its Node is gone or stopped answering",
        RetireReason::Preempted => "it leaves: the provider took it back",
        RetireReason::Unusable => "it leaves: runs cannot use it",
        RetireReason::Failed => "it leaves: its machine never came",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use trainyard_api::Time;
    use trainyard_api::cluster::ClusterError;

    use super::*;

    fn status(ordinal: i64, errors: &[(ClusterErrorCode, i32)]) -> ClusterStatus {
        let error = |(code, count): &(ClusterErrorCode, i32)| ClusterError {
            code: *code,
            message: "why".to_owned(),
            since: Time(Timestamp::UNIX_EPOCH),
            count: *count,
        };
        ClusterStatus {
            last_node_ordinal: ordinal,
            errors: errors.iter().map(error).collect(),
            ..ClusterStatus::default()
        }
    }

    fn told(before: &ClusterStatus, after: &ClusterStatus) -> Vec<String> {
        of_status(before, after).into_iter().map(|(reason, note)| format!("{reason}: {note}")).collect()
    }

    #[test]
    fn nodes_are_told_of_when_they_are_asked_for() {
        assert_eq!(told(&status(0, &[]), &status(1, &[])), ["NodesRequested: node 1 is asked for"]);
        assert_eq!(told(&status(1, &[]), &status(4, &[])), ["NodesRequested: 3 nodes are asked for: 2 to 4"]);
        assert_eq!(told(&status(4, &[]), &status(4, &[])), [""; 0]);
    }

    #[test]
    fn an_error_is_told_when_it_comes_when_machines_are_refused_again_and_when_it_is_over() {
        let (out, class) = (ClusterErrorCode::StockOut, ClusterErrorCode::ProvisioningClassNotFound);
        assert_eq!(told(&status(0, &[]), &status(0, &[(out, 1)])), ["MachinesRefused: StockOut: why"]);
        assert_eq!(told(&status(0, &[(out, 1)]), &status(0, &[(out, 1)])), [""; 0]);
        assert_eq!(
            told(&status(0, &[(out, 1)]), &status(0, &[(out, 2)])),
            ["MachinesRefused: StockOut: why"]
        );
        assert_eq!(told(&status(0, &[(out, 2)]), &status(0, &[])), ["Recovered: StockOut is over"]);
        let blocked = ["GrowthBlocked: ProvisioningClassNotFound: why"];
        assert_eq!(told(&status(0, &[]), &status(0, &[(class, 1)])), blocked);
        let occupied = status(0, &[(ClusterErrorCode::NodesOccupied, 2)]);
        assert_eq!(told(&status(0, &[]), &occupied), ["NodesOccupied: NodesOccupied: why"]);
    }

    #[test]
    fn a_wait_is_told_when_its_reason_changes_near_the_front() {
        let entry = |position, reason| RunQueue {
            position: Some(position),
            reason: Some(reason),
            message: Some("why".to_owned()),
            ..RunQueue::default()
        };
        let busy = entry(1, QueueReason::NodesBusy);
        assert_eq!(of_wait(None, &busy), Some((EventReason::Waiting, "NodesBusy: why".to_owned())));
        assert_eq!(of_wait(Some(&entry(2, QueueReason::NodesBusy)), &busy), None);
        assert!(of_wait(Some(&entry(2, QueueReason::BehindOthers)), &busy).is_some());
        assert_eq!(of_wait(None, &entry(50, QueueReason::NodesBusy)), None);
        assert_eq!(of_wait(None, &entry(2, QueueReason::BehindOthers)), None);
        assert_eq!(of_wait(None, &entry(2, QueueReason::CapacityHold)), None);
    }

    #[test]
    fn a_gang_of_many_nodes_names_the_first() {
        let nodes = (1..=6).map(|number| trainyard_planner::NodeName(format!("n{number}"))).collect();
        let run = RunId { namespace: "ml".into(), name: "r".into(), uid: "u".into() };
        let note = of_action(&Action::Allocate { run, attempt: 2, nodes, shares: Vec::new() });
        let expected = "attempt 2 gets n1, n2, n3, n4 and 2 more".to_owned();
        assert_eq!(note, Some((EventReason::NodesAllocated, expected)));
    }
}
