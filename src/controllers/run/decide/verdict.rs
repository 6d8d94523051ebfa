//! How an attempt ended: the failure table.
//!
//! In: the members of a live attempt, its nodes, its directive, the user's wishes, the time. Out: the [`End`] of the
//! attempt, if it has one. The first result that is recorded stays, so this is asked only of an attempt without one.
//!
//! Order: success, then what was ordered, then what the machines did, then what the processes did, then time limits. A
//! peer of a lost machine often dies of the lost connection before anybody knows of the loss; therefore a process's
//! failure beside a machine that is gone or silent counts as the machine's.

use jiff::Timestamp;
use trainyard_api::distribution::RoleName;
use trainyard_api::names::labels;
use trainyard_api::run::SuccessPolicy;
use trainyard_api::run_status::{Attempt, AttemptCause, Directive, DirectiveKind, DirectiveReason};
use trainyard_model::run::{Process, ValidRun};

use super::{Case, limits, patience};
use crate::controllers::run::facts::{PodFacts, Progress};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As far as retries go.
    pub cause: AttemptCause,
    /// The pod or node that made it end.
    pub culprit: Option<String>,
    /// Exit code of the process that decided it.
    pub exit_code: Option<i32>,
    /// The reason of the container, pod or node.
    pub reason: Option<String>,
    /// A sentence for people.
    pub message: String,
    /// When its processes had ended, where all had before anybody noticed and it is known; else it ends when that is recorded.
    pub at: Option<Timestamp>,
}

impl End {
    /// An end that no pod or node is the cause of.
    pub fn plain(cause: AttemptCause, message: impl Into<String>) -> Self {
        Self { cause, culprit: None, exit_code: None, reason: None, message: message.into(), at: None }
    }

    /// An end that a pod or node is the cause of.
    pub fn by(cause: AttemptCause, culprit: &str, reason: &str, message: String) -> Self {
        let reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
        Self { cause, culprit: Some(culprit.to_owned()), exit_code: None, reason, message, at: None }
    }
}

/// Processes of an attempt with their pods, as far as these are there, in the order of the layout.
pub type Members<'a> = [(Process, Option<&'a PodFacts>)];

/// An order that ends the attempt before it was launched: it costs nothing, because nothing ran.
pub fn withdrawn(case: &Case<'_>, directive: Option<&Directive>, cancelled: bool) -> Option<End> {
    let not_started = |message: String| Some(End::plain(AttemptCause::NotStarted, message));
    if let Some(directive) = directive {
        if directive.reason == DirectiveReason::ClusterDeleted {
            return Some(End::plain(
                AttemptCause::ClusterDeleted,
                said(directive, "its Cluster is being deleted"),
            ));
        }
        if (directive.reason, directive.kind) == (DirectiveReason::MaxNodesLowered, DirectiveKind::Fail) {
            return Some(ordered(directive));
        }
        return not_started(said(directive, "its nodes were withdrawn before it started"));
    }
    if case.is_deleting() {
        return not_started("the Run was deleted before it started".to_owned());
    }
    if cancelled {
        return not_started("the Run was cancelled before it started".to_owned());
    }
    if case.run.spec.suspend {
        return not_started("the Run was suspended before it started".to_owned());
    }
    None
}

/// How a launched attempt ended, if it has. `members` are those without which it cannot go on.
pub fn of_launched(
    case: &Case<'_>,
    run: &ValidRun,
    attempt: &Attempt,
    launched: Timestamp,
    members: &Members<'_>,
    cancelled: bool,
) -> Option<End> {
    let allocation = case.run.status.as_ref().and_then(|status| status.allocation.as_ref());
    let directive =
        allocation.filter(|one| one.attempt == attempt.number).and_then(|one| one.directive.as_ref());
    succeeded(run, members)
        .or_else(|| directive.map(ordered))
        .or_else(|| wished(case, cancelled))
        .or_else(|| machine_failed(case, members))
        .or_else(|| process_failed(case, members))
        .or_else(|| member_lost(case, run, attempt.number, members))
        .or_else(|| limits::took_too_long(case, run, launched))
        .or_else(|| patience::lost(run, launched, members, case.now))
}

/// What befell an evaluator, if anything did. The same table as for the others, with nothing to follow from it: an
/// attempt neither waits for its evaluator nor ends with it.
pub fn of_evaluator(
    case: &Case<'_>,
    run: &ValidRun,
    attempt: i32,
    launched: Timestamp,
    evaluator: &Members<'_>,
) -> Option<End> {
    taken_away(evaluator)
        .or_else(|| process_failed(case, evaluator))
        .or_else(|| member_lost(case, run, attempt, evaluator))
        .or_else(|| patience::lost(run, launched, evaluator, case.now))
}

fn succeeded(run: &ValidRun, members: &Members<'_>) -> Option<End> {
    let decides = |process: Process| match run.success {
        SuccessPolicy::Primary => process == run.layout.primary(),
        SuccessPolicy::AllWorkers => matches!(process.role, RoleName::Chief | RoleName::Worker),
    };
    let exited_zero = |pod: Option<&PodFacts>| {
        pod.is_some_and(|pod| {
            matches!(pod.progress, Progress::Exited { code: 0, .. }) && !pod.was_cut_short()
        })
    };
    let all = members.iter().filter(|(process, _)| decides(*process)).all(|(_, pod)| exited_zero(*pod));
    let message = match run.success {
        SuccessPolicy::Primary => format!("{} exited 0", run.host_name(run.layout.primary())),
        SuccessPolicy::AllWorkers => "all workers exited 0".to_owned(),
    };
    all.then(|| End { exit_code: Some(0), ..End::plain(AttemptCause::Succeeded, message) })
}

fn said(directive: &Directive, otherwise: &str) -> String {
    if directive.message.is_empty() { otherwise.to_owned() } else { directive.message.clone() }
}

/// What a directive costs follows from its reason: a machine's failure is a machine's, however it is told.
fn ordered(directive: &Directive) -> End {
    let (cause, otherwise) = match (directive.reason, directive.kind) {
        (DirectiveReason::NodeLost, _) => (AttemptCause::Infrastructure, "a node of it was lost"),
        (DirectiveReason::NodePreempted, _) => (AttemptCause::Infrastructure, "a node of it was preempted"),
        (DirectiveReason::NodeUnusable, _) => (AttemptCause::Infrastructure, "a node of it became unusable"),
        (DirectiveReason::ClusterDeleted, _) => {
            (AttemptCause::ClusterDeleted, "its Cluster is being deleted")
        }
        (DirectiveReason::MaxNodesLowered, DirectiveKind::Fail) => {
            (AttemptCause::Deallocated, "maxNodes of its Cluster was lowered")
        }
        (DirectiveReason::MaxNodesLowered, _) => {
            (AttemptCause::Requeue, "maxNodes of its Cluster was lowered")
        }
        (DirectiveReason::NodeRemoved, _) => (AttemptCause::Requeue, "a node of it was removed on request"),
        (DirectiveReason::Withdrawn, _) => (AttemptCause::Requeue, "its nodes were withdrawn"),
        // Words of a newer version: the kind is what must be obeyed, and to fail for good is not guessed.
        (
            DirectiveReason::Unknown,
            DirectiveKind::Stop | DirectiveKind::Requeue | DirectiveKind::Fail | DirectiveKind::Unknown,
        ) => (AttemptCause::Requeue, "it was stopped by the Cluster"),
    };
    let reason = Some(directive.reason.to_string());
    End { reason, ..End::plain(cause, said(directive, otherwise)) }
}

fn wished(case: &Case<'_>, cancelled: bool) -> Option<End> {
    let end = |cause, message: &str| Some(End::plain(cause, message));
    if case.is_deleting() {
        return end(AttemptCause::Deleted, "the Run was deleted");
    }
    if cancelled {
        return end(AttemptCause::Canceled, "cancelled by its user");
    }
    if case.run.spec.suspend {
        return end(AttemptCause::Suspended, "suspended by its user");
    }
    None
}

/// A machine is gone, or takes a pod away.
fn machine_failed(case: &Case<'_>, members: &Members<'_>) -> Option<End> {
    let allocated = case.run.status.iter().flat_map(|status| &status.allocation).flat_map(|one| &one.nodes);
    for node in allocated {
        if let Some(lost) = case.lost_node_of(&node.node_name) {
            let text = format!("node {} of {lost} was lost", node.node_name);
            return Some(End::by(AttemptCause::Infrastructure, lost, "NodeLost", text));
        }
    }
    taken_away(members)
}

/// A pod was taken off its node, or deleted, before its process was done.
fn taken_away(members: &Members<'_>) -> Option<End> {
    let infrastructure = |culprit: &str, reason, message| {
        Some(End::by(AttemptCause::Infrastructure, culprit, reason, message))
    };
    for pod in members.iter().filter_map(|(_, pod)| *pod) {
        let name = &pod.seen.name;
        if !pod.was_cut_short() {
            continue;
        }
        if let Some(why) = &pod.disruption {
            return infrastructure(
                name,
                "DisruptionTarget",
                format!("pod {name} was taken off its node: {why}"),
            );
        }
        if pod.deleting {
            return infrastructure(name, "PodDeleted", format!("pod {name} was deleted by somebody"));
        }
    }
    None
}

/// A process exited non-zero, or went over its own limits.
fn process_failed(case: &Case<'_>, members: &Members<'_>) -> Option<End> {
    let failed = members
        .iter()
        .filter_map(|(_, pod)| *pod)
        .filter_map(|pod| failure(pod).map(|(at, end)| (at, pod.seen.name.clone(), end)));
    // The first to fail is the cause; the others often fail because it did. Without times, the order of roles.
    let (_, _, mut end) = failed.min_by_key(|(at, _, _)| at.unwrap_or(Timestamp::MAX))?;
    if end.cause == AttemptCause::UserCode
        && let Some(silent) = case.seen.nodes.values().find(|node| node.not_ready)
    {
        end.cause = AttemptCause::Infrastructure;
        end.message = format!(
            "{}; node {} of it is not Ready, which is the likelier cause",
            end.message, silent.key.name
        );
    }
    Some(end)
}

fn failure(pod: &PodFacts) -> Option<(Option<Timestamp>, End)> {
    let name = &pod.seen.name;
    match &pod.progress {
        Progress::Exited { code: 0, .. } | Progress::Running { .. } | Progress::Waiting { .. } => None,
        Progress::Exited { code, reason, message, finished, .. } => {
            let because = trainyard_api::text::because(message);
            let text = if reason == "OOMKilled" {
                format!("pod {name} used more memory than its share of the node and was killed{because}")
            } else {
                format!("pod {name} exited {code}{because}")
            };
            let end = End { exit_code: Some(*code), ..End::by(AttemptCause::UserCode, name, reason, text) };
            Some((*finished, end))
        }
        // An eviction for the node's sake sets DisruptionTarget; without it, the pod went over its own limit.
        Progress::Broken { reason, message } if reason == "Evicted" => Some((
            None,
            End::by(AttemptCause::UserCode, name, reason, format!("pod {name} was evicted: {message}")),
        )),
        Progress::Broken { reason, message } => {
            let text = format!("pod {name} failed without an exit code: {reason} {message}");
            Some((None, End::by(AttemptCause::Infrastructure, name, reason, text)))
        }
    }
}

/// After the launch a pod that is not there is a lost member; but only a live list says that it is not there.
fn member_lost(case: &Case<'_>, run: &ValidRun, attempt: i32, members: &Members<'_>) -> Option<End> {
    if !case.seen.pods_are_live {
        return None;
    }
    let (process, _) = members.iter().find(|(_, pod)| pod.is_none())?;
    let name = run.pod_name(*process, attempt);
    if case.own.iter().any(|pod| pod.seen.name == name) {
        let text = format!(
            "pod {name} has lost its owner or its label {}, so it cannot be followed any more; leave the labels and \
             owners of a run's pods as they are",
            labels::RUN_UID
        );
        return Some(End::by(AttemptCause::Infrastructure, &name, "PodChanged", text));
    }
    let text = format!("pod {name} is gone, and nobody knows how it ended");
    Some(End::by(AttemptCause::Infrastructure, &name, "PodGone", text))
}

/// When [`of_launched`] may say something else although nothing happens.
pub fn next_look(case: &Case<'_>, run: &ValidRun, launched: Timestamp, members: &Members<'_>) -> Timestamp {
    let waits = patience::limits(run, launched, members).map(|limit| limit.until);
    waits.filter(|when| *when > case.now).fold(limits::deadline(case, run, launched), Timestamp::min)
}
