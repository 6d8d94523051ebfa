//! A Run without a live attempt: what follows from its last one, and whether the API server would take its pods.

use jiff::SignedDuration;
use trainyard_api::Time;
use trainyard_api::conditions::{self, ConditionStatus, RunCondition};
use trainyard_api::names::Finalizer;
use trainyard_api::retention::CleanPodPolicy;
use trainyard_api::run_status::{AcceptedReason, Attempt, AttemptCause, AttemptTotals, RunPhase, RunReason};
use trainyard_model::run::acceptance::{self, Unacceptable};
use trainyard_model::run::{Process, ValidRun, spec_hash};

use super::draft::Draft;
use super::{Case, Decision, Step, limits};
use crate::controllers::run::observe::{Refused, Rehearsal};
use crate::controllers::run::report::Notice;
use crate::resources::pod::{self, Binding, Machine};

/// How often the API server is asked again whether it would take the pods of a Run it has refused. Quotas and policies
/// are changed by people; ten minutes cost one request for each role, and a person who mends something can touch the Run
/// to have it looked at now.
pub const ASK_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// The same where a webhook did not answer: that is a fault of some minutes, and nobody touches a Run when it is over.
const ASK_WEBHOOK_AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// Decides for a Run of which no attempt is live and all pods are gone.
pub fn go_on(case: &Case<'_>, mut draft: Draft) -> Decision {
    if case.is_deleting() {
        return delete(case, draft);
    }
    if draft.is_terminal() {
        return draft.write();
    }
    let retries = &case.run.spec.retries;
    let totals = draft.status.totals.clone().unwrap_or_default();
    let last = draft.status.attempts.last().cloned().unwrap_or_default();
    let said = last.message.clone().unwrap_or_default();
    match last.cause.map_or(Next::Wait(RunReason::Waiting), |cause| {
        next(cause, &totals, retries.user, retries.infrastructure)
    }) {
        Next::Complete => finish(case, &mut draft, RunPhase::Completed, RunReason::Succeeded, &said),
        Next::Fail(reason) => {
            let spent = format!("attempt {}: {said}{}", last.number, spent(reason, &totals));
            finish(case, &mut draft, RunPhase::Failed, reason, &spent);
        }
        Next::Wait(_) if draft.is_cancelled() => {
            finish(case, &mut draft, RunPhase::Canceled, RunReason::Canceled, "cancelled by its user");
        }
        Next::Wait(_) if limits::is_total_used_up(case, &draft) => {
            let text = format!("attempt {}: {said}; {}", last.number, limits::total_time(case));
            finish(case, &mut draft, RunPhase::Failed, RunReason::TotalTime, &text);
        }
        Next::Wait(_) if limits::is_given_up(&draft) => limits::give_up(case, &mut draft),
        Next::Wait(_) if case.run.spec.suspend => {
            draft.set_phase(
                RunPhase::Suspended,
                RunReason::Suspended,
                "set suspend to false to queue it again",
            );
            draft.set_condition(
                RunCondition::Suspended,
                ConditionStatus::True,
                RunReason::Suspended.as_str(),
                "",
            );
        }
        Next::Wait(reason) => {
            if let Some(rest) = rest_after_quota(case, &draft) {
                let text =
                    format!("{said}; tried again after {rest}, and at once when the Run's spec changes");
                refuse(&mut draft, AcceptedReason::QuotaExceeded, &text);
                return limits::wait_unseen(case, draft, Some(rest));
            }
            return queue(case, draft, reason, &said);
        }
    }
    draft.write()
}

/// What follows from the end of the last attempt.
enum Next {
    Complete,
    Fail(RunReason),
    Wait(RunReason),
}

fn next(cause: AttemptCause, totals: &AttemptTotals, user: i32, infrastructure: i32) -> Next {
    let user_left = totals.user_failures <= user;
    match cause {
        AttemptCause::Succeeded => Next::Complete,
        AttemptCause::UserCode | AttemptCause::Setup if user_left => Next::Wait(RunReason::RetryUser),
        AttemptCause::UserCode => Next::Fail(RunReason::UserCode),
        AttemptCause::Setup => Next::Fail(RunReason::Setup),
        AttemptCause::Infrastructure if totals.infrastructure_failures <= infrastructure => {
            Next::Wait(RunReason::RetryInfrastructure)
        }
        AttemptCause::Infrastructure => Next::Fail(RunReason::Infrastructure),
        AttemptCause::WallClock => Next::Fail(RunReason::WallClock),
        AttemptCause::TotalTime => Next::Fail(RunReason::TotalTime),
        AttemptCause::ClusterDeleted => Next::Fail(RunReason::ClusterDeleted),
        AttemptCause::Deallocated => Next::Fail(RunReason::Deallocated),
        AttemptCause::NotStarted
        | AttemptCause::Suspended
        | AttemptCause::Canceled
        | AttemptCause::Requeue
        | AttemptCause::NamespaceQuota
        | AttemptCause::Deleted
        | AttemptCause::Unknown => Next::Wait(RunReason::Requeued),
    }
}

/// What to do about a budget that is used up.
fn spent(reason: RunReason, totals: &AttemptTotals) -> String {
    match reason {
        RunReason::UserCode | RunReason::Setup => {
            format!("; failures of its own: {}, more than retries.user allows", totals.user_failures)
        }
        RunReason::Infrastructure => {
            format!(
                "; failures of machines: {}, more than retries.infrastructure allows",
                totals.infrastructure_failures
            )
        }
        _ => String::new(),
    }
}

/// Ends the Run in this terminal phase.
pub fn finish(case: &Case<'_>, draft: &mut Draft, phase: RunPhase, reason: RunReason, message: &str) {
    draft.set_phase(phase, reason, message);
    draft.status.completion_time = Some(Time(case.now));
    let condition = match phase {
        RunPhase::Completed => Some(RunCondition::Completed),
        RunPhase::Failed => Some(RunCondition::Failed),
        _ => None,
    };
    if let Some(condition) = condition {
        draft.set_condition(condition, ConditionStatus::True, reason.as_str(), message);
    }
    draft.unset_condition(RunCondition::Suspended, reason.as_str());
    draft.notices.extend(Notice::of_phase(phase, message));
}

/// A Run that is being deleted goes when no pod of it is left that runs or is held.
fn delete(case: &Case<'_>, draft: Draft) -> Decision {
    // Pods with the number of an attempt that was never recorded: whoever made them, they go now.
    let stops = super::stops(case.own.iter().copied(), CleanPodPolicy::Running);
    if !stops.is_empty() {
        return Decision::steps(stops);
    }
    if case.own.iter().any(|pod| case.may_run(pod)) {
        return draft.write();
    }
    if has_finalizer(case) { Decision::steps(vec![Step::RemoveRunFinalizer]) } else { Decision::default() }
}

fn queue(case: &Case<'_>, mut draft: Draft, reason: RunReason, said: &str) -> Decision {
    draft.unset_condition(RunCondition::Suspended, "Resumed");
    let run = match acceptance::judge(case.run, case.valid, case.seen.pool.as_seen()) {
        Ok(run) => run,
        Err(fault) => {
            let text = fault.to_string();
            match &fault {
                Unacceptable::Invalid(_) => refuse(&mut draft, AcceptedReason::Invalid, &text),
                Unacceptable::SpecChanged => refuse(&mut draft, AcceptedReason::SpecChanged, &text),
                Unacceptable::DoesNotFit(_) => refuse(&mut draft, AcceptedReason::DoesNotFit, &text),
                Unacceptable::ClusterNotAllowed { .. } => {
                    refuse(&mut draft, AcceptedReason::ClusterNotAllowed, &text);
                }
                Unacceptable::ClusterNotFound { .. } | Unacceptable::NotChecked { .. } => {
                    draft.set_phase(RunPhase::Queued, fault.reason(), text);
                }
            }
            return limits::wait_unseen(case, draft, None);
        }
    };
    if let Some(when) = rest_after_setup(&draft.status.attempts).filter(|when| case.now < *when) {
        let text = format!("its set-up failed ({said}); tried again after {when}, or create another Run now");
        refuse(&mut draft, AcceptedReason::SetupFailed, &text);
        return limits::wait_unseen(case, draft, Some(when));
    }
    if let Some(leftover) = case.strangers.first() {
        let text = format!("pod {} of an earlier Run of this name is being removed", leftover.seen.name);
        draft.set_phase(RunPhase::Queued, RunReason::NotChecked, text);
        return limits::wait_unseen(case, draft, Some(case.now + LEFTOVER_AGAIN));
    }
    rehearse(case, run, draft, reason, said)
}

/// How often to look again at pods of an earlier Run that are going; the watch tells when they are gone, as a rule.
const LEFTOVER_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// The wait after a failed set-up, doubled with each further one in a row up to [`ASK_AGAIN`]: what is missing is put
/// there by a person, and each try takes nodes from others.
const FIRST_REST: SignedDuration = SignedDuration::from_mins(1);

/// The longest wait after a quota refused pods of an attempt; the first is [`ASK_AGAIN`], doubled with each further one in a
/// row. A rehearsal cannot say whether a quota has room for a whole gang, so each try buys all of its machines; a quota
/// that has not changed in two tries is changed by the day, not by the minute.
const LONGEST_QUOTA_REST: SignedDuration = SignedDuration::from_hours(4);

/// Until when a Run rests whose latest attempts failed in their set-up.
fn rest_after_setup(attempts: &[Attempt]) -> Option<jiff::Timestamp> {
    rest_after(AttemptCause::Setup, attempts, FIRST_REST, ASK_AGAIN)
}

/// Until when a Run rests of whose latest attempts a quota refused pods. The quota that refused the last attempt would refuse
/// the next one: the Run is not accepted before this time, and then not until a rehearsal has said yes.
fn rest_after_quota(case: &Case<'_>, draft: &Draft) -> Option<jiff::Timestamp> {
    let attempts = &draft.status.attempts;
    let rest = rest_after(AttemptCause::NamespaceQuota, attempts, ASK_AGAIN, LONGEST_QUOTA_REST)?;
    if draft.status.phase != Some(RunPhase::Queued) {
        return Some(rest);
    }
    let accepted = conditions::find(&draft.status.conditions, RunCondition::Accepted);
    let is_refused = accepted.is_some_and(|accepted| {
        accepted.status == ConditionStatus::False && accepted.reason == AcceptedReason::QuotaExceeded.as_str()
    });
    (is_refused && looked_at_this(case, draft) && case.now < rest).then_some(rest)
}

/// Until when a Run rests of which the latest attempts ended for this cause: `first` after the end of the last one, doubled for
/// each one before it in a row.
fn rest_after(
    cause: AttemptCause,
    attempts: &[Attempt],
    first: SignedDuration,
    longest: SignedDuration,
) -> Option<jiff::Timestamp> {
    let mut failed = attempts.iter().rev().take_while(|attempt| attempt.cause == Some(cause)).peekable();
    let ended = failed.peek()?.end_time.as_ref()?.0;
    let doublings = (failed.count() - 1).min(10) as u32;
    let rest = first.checked_mul(1 << doublings).unwrap_or(longest).min(longest);
    Some(ended + rest)
}

/// Whether the Run has not been touched since it was last judged.
fn looked_at_this(case: &Case<'_>, draft: &Draft) -> bool {
    draft.status.observed_generation == case.run.metadata.generation
}

/// Asks the API server whether it would take pod 0 of each role, before machines are bought for them.
fn rehearse(case: &Case<'_>, run: &ValidRun, mut draft: Draft, reason: RunReason, said: &str) -> Decision {
    let stored = conditions::find(&draft.status.conditions, RunCondition::Accepted).cloned();
    let is_webhook =
        stored.as_ref().is_some_and(|stored| stored.reason == AcceptedReason::WebhookFailed.as_str());
    let rest = if is_webhook { ASK_WEBHOOK_AGAIN } else { ASK_AGAIN };
    let asked_again_at = case.seen.rehearsed_at.map(|at| at + rest);
    match (&stored, &case.seen.rehearsal) {
        (_, Some(Rehearsal::Taken)) => {
            draft.set_condition(
                RunCondition::Accepted,
                ConditionStatus::True,
                AcceptedReason::DryRun.as_str(),
                "",
            );
        }
        (_, Some(Rehearsal::CannotTell(message))) => {
            let reason = AcceptedReason::NotChecked.as_str();
            draft.set_condition(RunCondition::Accepted, ConditionStatus::Unknown, reason, message);
        }
        (_, Some(Rehearsal::NoAnswer(message))) => {
            refuse(&mut draft, AcceptedReason::WebhookFailed, message);
            return limits::wait_unseen(case, draft, Some(case.now + ASK_WEBHOOK_AGAIN));
        }
        (_, Some(Rehearsal::Refused(refusal))) => {
            let why = match refusal.why {
                Refused::Quota => AcceptedReason::QuotaExceeded,
                Refused::NameTaken => AcceptedReason::NameTaken,
                Refused::Policy | Refused::NamespaceTerminating => AcceptedReason::Refused,
            };
            let text = format!("pod {} would be refused: {}", refusal.name, refusal.message);
            refuse(&mut draft, why, &text);
            return limits::wait_unseen(case, draft, asked_again_at);
        }
        (Some(stored), None) if stored.status != ConditionStatus::False => {}
        (Some(stored), None)
            if is_of_the_api_server(&stored.reason)
                && looked_at_this(case, &draft)
                && asked_again_at.is_some_and(|when| case.now < when) =>
        {
            return limits::wait_unseen(case, draft, asked_again_at);
        }
        (None, None) if case.seen.alike_is_taken => {
            if !has_finalizer(case) {
                return Decision::steps(vec![Step::AddRunFinalizer]);
            }
            draft.set_condition(
                RunCondition::Accepted,
                ConditionStatus::True,
                AcceptedReason::DryRun.as_str(),
                "",
            );
        }
        (_, None) => return ask(case, run),
    }
    if draft.status.spec_hash.is_none() {
        draft.status.spec_hash = Some(spec_hash::of(&case.run.spec));
    }
    let text = match reason {
        RunReason::RetryUser | RunReason::RetryInfrastructure | RunReason::Requeued => {
            format!("queued again; the last attempt: {said}")
        }
        _ => "waiting for nodes; see status.queue".to_owned(),
    };
    draft.set_phase(RunPhase::Queued, reason, text);
    draft.write()
}

fn ask(case: &Case<'_>, run: &ValidRun) -> Decision {
    let (Some(cluster), Some(capacity)) = (&case.seen.pool.cluster, &case.seen.pool.capacity) else {
        return Decision::default();
    };
    let machine = Machine {
        binding: Binding::Rehearsal,
        cluster: cluster.clone(),
        taint: case.seen.pool.taint.clone(),
        tolerations: case.seen.pool.tolerations.clone(),
        share: run.part_of(capacity).unwrap_or_else(|_| capacity.clone()),
    };
    let next_attempt = case.attempts().last().map_or(1, |last| last.number + 1);
    let of_each_role: Vec<Process> =
        run.layout.processes().iter().filter(|process| process.index == 0).copied().collect();
    let pods =
        of_each_role.into_iter().filter_map(|process| pod::pod(run, next_attempt, process, &machine).ok());
    let mut steps = vec![Step::Rehearse(pods.collect())];
    if !has_finalizer(case) {
        steps.push(Step::AddRunFinalizer);
    }
    Decision::steps(steps)
}

fn has_finalizer(case: &Case<'_>) -> bool {
    case.run.metadata.finalizers.iter().flatten().any(|one| one == Finalizer::Run.as_str())
}

/// Whether a stored reason is one that only asking the API server again can change.
fn is_of_the_api_server(stored: &str) -> bool {
    AcceptedReason::ALL.iter().any(|reason| reason.as_str() == stored && reason.is_of_the_api_server())
}

fn refuse(draft: &mut Draft, why: AcceptedReason, message: &str) {
    let was = conditions::find(&draft.status.conditions, RunCondition::Accepted);
    if was.is_none_or(|was| was.status != ConditionStatus::False || was.reason != why.as_str()) {
        draft.notices.push(Notice::not_accepted(message));
    }
    draft.set_condition(RunCondition::Accepted, ConditionStatus::False, why.as_str(), message);
    draft.set_phase(RunPhase::Queued, why.run_reason(), message);
}
