//! An attempt, from the answer to its allocation until its pods are gone.

use trainyard_api::Time;
use trainyard_api::conditions::{self, ConditionStatus, RunCondition};
use trainyard_api::run_status::{Allocation, Attempt, AttemptCause, RunPhase, RunReason};
use trainyard_model::run::ValidRun;

use super::draft::Draft;
use super::members::{self, Evaluation};
use super::verdict::{self, End, Members};
use super::{Case, Decision, Step, queued};
use crate::controllers::run::facts::{PodFacts, Progress};
use crate::controllers::run::observe::Refused;
use crate::resources::pod::{self, Binding, Machine};

/// How long to wait for the Cluster's word about an allocation whose claims are not on every node. It comes as a change
/// of the Run; this is only in case it was missed.
const LOOK_AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);

/// How long a process may try to launch an attempt that is answered. What passes while no operator is there to try is no
/// sign of trouble. Its machines are paid for meanwhile. Pods are made within
/// seconds; what keeps them from being made for longer than this (an API server that answers with errors, somebody's
/// finalizer on a pod that must go) is not mended by waiting on these machines.
pub const START_PATIENCE: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// How often to look for the end of a pod that the watch does not show. Only somebody who takes labels off makes one.
const LOOK_FOR_HIDDEN: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// Answers an allocation that has no attempt yet; true when it did. An attempt that nobody wants any more is answered as
/// ended, so that its claims become free.
pub fn answer(case: &Case<'_>, draft: &mut Draft) -> bool {
    let Some(Allocation { attempt: number, nodes, directive }) = draft.status.allocation.clone() else {
        return false;
    };
    if draft.status.attempts.last().is_some_and(|last| last.number >= number) {
        return false;
    }
    let node_count = nodes.len() as i32;
    draft.status.attempts.push(Attempt { number, node_count, ..Attempt::default() });
    draft.status.totals.get_or_insert_default().attempts += 1;
    draft.status.exit_code = None;
    draft.status.start_time = None;
    let cancelled = draft.is_cancelled();
    if draft.is_terminal() {
        draft.end(number, End::plain(AttemptCause::NotStarted, "the Run was over before it started"));
    } else if let Some(end) = verdict::withdrawn(case, directive.as_ref(), cancelled) {
        draft.end(number, end);
    } else if let Err(invalid) = case.valid {
        draft.end(number, End::plain(AttemptCause::Setup, invalid.to_string()));
    } else {
        let text = format!("attempt {number}: creating its pods on {node_count} node(s)");
        draft.set_phase(RunPhase::Preparing, RunReason::CreatingPods, text);
        draft.set_condition(RunCondition::Allocated, ConditionStatus::True, "Allocated", "");
        draft.unset_condition(RunCondition::Started, "NewAttempt");
        draft.unset_condition(RunCondition::Suspended, "Resumed");
        draft.status.roles = case.valid.map(|run| members::roles(run, &[], false)).unwrap_or_default();
    }
    true
}

/// A live attempt: starts it, follows it, ends it.
pub fn go_on(case: &Case<'_>, draft: Draft) -> Decision {
    let Some(attempt) = draft.unfreed().cloned() else { return Decision::default() };
    let run = match case.valid {
        Ok(run) => run,
        // It was valid when it was answered, so an older or newer version wrote it; it cannot be started, and what
        // runs cannot be judged.
        Err(invalid) => return ended(draft, &attempt, End::plain(AttemptCause::Setup, invalid.to_string())),
    };
    let members = members::of(case, run, attempt.number);
    match &attempt.launched {
        None => start(case, run, draft, &attempt, &members),
        Some(Time(launched)) => follow(case, run, draft, &attempt, *launched, &members),
    }
}

fn ended(mut draft: Draft, attempt: &Attempt, end: End) -> Decision {
    draft.end(attempt.number, end);
    draft.write()
}

/// Before the launch: creates what is missing, looks at the claims, launches.
fn start(
    case: &Case<'_>,
    run: &ValidRun,
    draft: Draft,
    attempt: &Attempt,
    members: &Members<'_>,
) -> Decision {
    let number = attempt.number;
    let Some(allocation) = draft.status.allocation.clone().filter(|one| one.attempt == number) else {
        // Its allocation was overwritten, so the claims are another attempt's.
        let end = End::plain(AttemptCause::NotStarted, "its allocation was replaced before it started");
        return ended(draft, attempt, end);
    };
    let cancelled = draft.is_cancelled();
    if let Some(end) = verdict::withdrawn(case, allocation.directive.as_ref(), cancelled) {
        return ended(draft, attempt, end);
    }
    if let Some(refusal) = case.seen.refusals.first() {
        if refusal.why == Refused::NamespaceTerminating {
            // The Run is about to go with its namespace; there is nothing to record that anybody would read.
            return draft.write_or_wait(Some(case.now + LOOK_AGAIN));
        }
        let text = format!("{} could not be created: {}", refusal.name, refusal.message);
        let costs = match refusal.why {
            Refused::Quota => AttemptCause::NamespaceQuota,
            Refused::Policy | Refused::NameTaken | Refused::NamespaceTerminating => AttemptCause::Setup,
        };
        let end = End { culprit: Some(refusal.name.clone()), ..End::plain(costs, text) };
        return ended(draft, attempt, end);
    }

    // A pod that somebody deletes before the launch is let go, and made again when it is gone.
    let dying: Vec<Step> = members
        .iter()
        .filter_map(|(_, pod)| *pod)
        .filter(|pod| pod.deleting || pod.finished)
        .filter_map(|pod| Step::stop(pod, true))
        .collect();
    if !dying.is_empty() {
        return Decision::steps(dying);
    }
    // Where something is still to be waited for, not for ever. An attempt that lacks nothing starts, however late.
    let out_of_patience = case.now >= tried_since(case, &draft) + START_PATIENCE;
    let given_up = |draft: Draft| {
        let text = "it could not be started within 10 minutes, so its machines are given back";
        ended(draft, attempt, End::plain(AttemptCause::Infrastructure, text))
    };
    if members.iter().filter_map(|(_, pod)| *pod).any(|pod| pod.deleting) {
        let again = Some(case.now + LOOK_AGAIN);
        return if out_of_patience { given_up(draft) } else { draft.write_or_wait(again) };
    }

    // What the pods are made from: the claim on every node, and that its Node is the one that was allocated.
    let look = |draft: Draft| {
        if case.seen.nodes_are_live && out_of_patience {
            given_up(draft)
        } else if case.seen.nodes_are_live {
            draft.write_or_wait(Some(case.now + LOOK_AGAIN))
        } else {
            Decision::steps(vec![Step::ReadNodes])
        }
    };
    let mut machines = Vec::new();
    for allocated in &allocation.nodes {
        let node = case.seen.nodes.get(&allocated.name);
        let Some((node, claim)) = node.and_then(|node| Some((node, node.claim(case.uid, number)?))) else {
            return look(draft);
        };
        if node.node_uid.as_deref() != Some(allocated.node_uid.as_str()) || node.lost {
            if !case.seen.nodes_are_live {
                return Decision::steps(vec![Step::ReadNodes]);
            }
            let text = format!("node {} is not the machine that was allocated any more", allocated.name);
            let end =
                End { culprit: Some(allocated.name.clone()), ..End::plain(AttemptCause::NotStarted, text) };
            return ended(draft, attempt, end);
        }
        machines.push(Machine {
            binding: Binding::Node(allocated.node_name.clone()),
            cluster: node.cluster.clone(),
            taint: Some(node.taint.clone()),
            tolerations: node.tolerations.clone(),
            share: claim.share.clone(),
        });
    }

    if members
        .iter()
        .any(|(process, pod)| pod.is_none() && case.has_stranger(&run.pod_name(*process, number)))
    {
        // Told to go already; made anew when it is gone.
        let again = Some(case.now + LOOK_AGAIN);
        return if out_of_patience { given_up(draft) } else { draft.write_or_wait(again) };
    }
    let mut steps = Vec::new();
    steps.extend(service(case, run, number));
    for (process, _) in members.iter().filter(|(_, pod)| pod.is_none()) {
        let built = machines
            .get(process.node)
            .ok_or_else(|| format!("allocation {number} has no node for {}", run.host_name(*process)))
            .and_then(|machine| {
                pod::pod(run, number, *process, machine).map_err(|invalid| invalid.to_string())
            });
        match built {
            Ok(pod) => steps.push(Step::CreatePod(Box::new(pod))),
            Err(message) => return ended(draft, attempt, End::plain(AttemptCause::Setup, message)),
        }
    }
    if !steps.is_empty() {
        return if out_of_patience { given_up(draft) } else { Decision::steps(steps) };
    }
    // All pods are there. The claims above may come from a cache; the launch needs them from the API server, read after
    // the last pod was made. The Run itself needs no read of its own: the write below carries the version that all of
    // this was decided on, so it fails if anything about the Run (its allocation, directive, wishes, deletion) changed.
    // And claims of an allocation that is unchanged and not ended are never dropped, so it does not matter that they
    // are read one by one, or a moment before the write.
    if !case.seen.nodes_are_live {
        return Decision::steps(vec![Step::ReadNodes]);
    }
    launch(case, run, draft, number, members)
}

/// Since when somebody has tried to start the attempt: since it was answered, or since this process has been there to try.
fn tried_since(case: &Case<'_>, draft: &Draft) -> jiff::Timestamp {
    let answered = conditions::find(&draft.status.conditions, RunCondition::Allocated)
        .filter(|allocated| allocated.status == ConditionStatus::True)
        .map_or(case.now, |allocated| allocated.last_transition_time.0);
    case.seen.starting_since.map_or(answered, |since| since.max(answered))
}

/// What makes the names of the attempt's hosts known, where they are told. Somebody may delete the Service later.
fn service(case: &Case<'_>, run: &ValidRun, attempt: i32) -> Option<Step> {
    let is_needed = run.names_hosts() && case.seen.service_for != Some(attempt);
    is_needed.then_some(Step::EnsureService { attempt })
}

fn launch(case: &Case<'_>, run: &ValidRun, mut draft: Draft, number: i32, members: &Members<'_>) -> Decision {
    if let Some(attempt) = draft.attempt_mut(number) {
        attempt.launched = Some(Time(case.now));
    }
    let text = format!("attempt {number}: waiting for its containers to start");
    draft.set_phase(RunPhase::Preparing, RunReason::StartingContainers, text);
    draft.set_condition(RunCondition::Started, ConditionStatus::True, "Launched", "");
    draft.status.roles = members::roles(run, members, false);
    draft.write()
}

/// After the launch: removes gates, and waits for the end.
fn follow(
    case: &Case<'_>,
    run: &ValidRun,
    mut draft: Draft,
    attempt: &Attempt,
    launched: jiff::Timestamp,
    members: &Members<'_>,
) -> Decision {
    let cancelled = draft.is_cancelled();
    let essential = members::essential(members);
    let evaluation = Evaluation::of(case, &draft, run, attempt.number, launched, members);
    let roles = members::roles(run, members, evaluation.has_failed);
    if let Some(end) = verdict::of_launched(case, run, attempt, launched, &essential, cancelled) {
        draft.status.roles = roles;
        // Whatever else ends the attempt takes the evaluator along.
        if end.cause == AttemptCause::Succeeded {
            evaluation.tell(&mut draft, attempt);
        }
        // Nothing has used its machines since, however long nobody was there to record it.
        return ended(draft, attempt, End { at: members::all_ended_at(members), ..end });
    }
    let mut steps: Vec<Step> = members
        .iter()
        .filter_map(|(_, pod)| *pod)
        .filter(|pod| pod.gate.is_some() && !pod.deleting)
        .map(|pod| Step::RemoveGate(pod.clone()))
        .collect();
    // What was refused is tried again with a later look: the processes may have found each other long ago.
    let is_refused = !case.seen.refusals.is_empty();
    if !is_refused {
        steps.extend(service(case, run, attempt.number));
    }
    let missing = members.iter().filter(|(_, pod)| pod.is_none());
    let expected: Vec<String> = missing
        .filter(|(process, _)| process.is_essential() || !evaluation.has_failed)
        .map(|(process, _)| run.pod_name(*process, attempt.number))
        .collect();
    if !expected.is_empty() {
        steps.push(Step::ListPods { expected });
    }
    if !case.seen.nodes_are_live && case.has_unknown_node() {
        steps.push(Step::ReadNodes);
    }
    if !steps.is_empty() {
        return Decision::steps(steps);
    }
    if evaluation.is_news() {
        draft.status.roles.clone_from(&roles);
        evaluation.tell(&mut draft, attempt);
    }
    let all_started = essential.iter().all(|(_, pod)| pod.is_some_and(|pod| pod.progress.has_started()));
    // One write when all run, none for each of them.
    if all_started && attempt.start_time.is_none() {
        let since = essential.iter().filter_map(|(_, pod)| started(pod.as_ref()?)).max().unwrap_or(case.now);
        if let Some(attempt) = draft.attempt_mut(attempt.number) {
            attempt.start_time = Some(Time(since));
        }
        draft.status.start_time = Some(Time(since));
        draft.status.roles = roles;
        let text = format!("attempt {}: {} process(es) running", attempt.number, essential.len());
        draft.set_phase(RunPhase::Running, RunReason::ContainersRunning, text);
    }
    let next_look = verdict::next_look(case, run, launched, members);
    draft.write_or_wait(Some(if is_refused { next_look.min(case.now + LOOK_AGAIN) } else { next_look }))
}

fn started(pod: &PodFacts) -> Option<jiff::Timestamp> {
    match &pod.progress {
        Progress::Running { since } => *since,
        Progress::Exited { started, .. } => *started,
        Progress::Waiting { .. } | Progress::Broken { .. } => None,
    }
}

/// The names of an attempt's pods.
fn expected_pods(case: &Case<'_>, attempt: i32) -> Vec<String> {
    let Ok(run) = case.valid else { return Vec::new() };
    run.layout.processes().iter().map(|process| run.pod_name(*process, attempt)).collect()
}

/// An ended attempt: its pods have been told to stop; it is free when a live list shows none that runs.
pub fn free(case: &Case<'_>, mut draft: Draft) -> Decision {
    let unfreed: Vec<i32> = draft
        .status
        .attempts
        .iter()
        .filter(|attempt| attempt.cause.is_some() && !attempt.pods_gone)
        .map(|attempt| attempt.number)
        .collect();
    // Whatever number a pod has: none of a later attempt is made before this one is free. Whoever owns it by now, too: by
    // its name it was of this attempt.
    let of_these = |pod: &&&PodFacts| pod.attempt.is_none_or(|number| unfreed.contains(&number));
    let strangers = case.strangers.iter().filter(of_these);
    let mut holding = case.own.iter().chain(strangers).filter(|pod| case.may_run(pod)).peekable();
    if holding.peek().is_some() {
        // A ClusterNode that the cache does not show may be gone, and with it whatever would stop the pod.
        if !case.seen.nodes_are_live && case.has_unknown_node() {
            return Decision::steps(vec![Step::ReadNodes]);
        }
        // A pod that has lost its label goes without any word from the watch.
        let look_again = holding.filter_map(|pod| {
            let is_hidden = !pod.labelled || pod.run_uid != case.uid;
            is_hidden.then(|| case.now + LOOK_FOR_HIDDEN).or_else(|| pod.closes_until())
        });
        return draft.write_or_wait(look_again.min());
    }
    if !case.seen.pods_are_live {
        let expected = unfreed.iter().flat_map(|number| expected_pods(case, *number)).collect();
        return Decision::steps(vec![Step::ListPods { expected }]);
    }
    for number in unfreed {
        if let Some(attempt) = draft.attempt_mut(number) {
            attempt.pods_gone = true;
        }
    }
    match draft.unfreed() {
        // A later attempt waited for this one.
        Some(_) => draft.write(),
        None => queued::go_on(case, draft),
    }
}
