//! Limits that a Run's user set to its time: of one attempt, of all attempts, of a wait in the queue.
//!
//! All count from times in its status, so that no restart of the operator changes them. The wait of a Run that is accepted is
//! the planner's, which gives it up (`status.queue.givenUp`); one that the planner does not see, because it is not accepted
//! or has no Cluster, is given up here.

use jiff::Timestamp;
use trainyard_api::duration::Duration;
use trainyard_api::run_status::{AttemptCause, GivenUp, QueueReason, RunPhase, RunReason};
use trainyard_model::run::{ValidRun, limits};

use super::draft::Draft;
use super::queued::finish;
use super::verdict::End;
use super::{Case, Decision};

/// When the live attempt reaches the first of its time limits.
pub fn deadline(case: &Case<'_>, run: &ValidRun, launched: Timestamp) -> Timestamp {
    let of_all = of_all_attempts(case, launched).unwrap_or(Timestamp::MAX);
    of_one_attempt(run, launched).min(of_all)
}

fn of_one_attempt(run: &ValidRun, launched: Timestamp) -> Timestamp {
    launched.saturating_add(run.limit).unwrap_or(Timestamp::MAX)
}

/// When the live attempt has used up what earlier ones left of `maxTotalTime`.
fn of_all_attempts(case: &Case<'_>, launched: Timestamp) -> Option<Timestamp> {
    let left = limits::total_left(&case.run.spec, case.run.status.as_ref())?;
    Some(launched.saturating_add(left).unwrap_or(Timestamp::MAX))
}

/// The end of a launched attempt that has reached a limit. Of two that are reached at once, the one of all attempts is told:
/// the next Run needs a longer one.
pub fn took_too_long(case: &Case<'_>, run: &ValidRun, launched: Timestamp) -> Option<End> {
    if of_all_attempts(case, launched).is_some_and(|deadline| case.now >= deadline) {
        return Some(End::plain(AttemptCause::TotalTime, total_time(case)));
    }
    (case.now >= of_one_attempt(run, launched)).then(|| {
        let limit = Duration::from_secs(run.limit.as_secs());
        let message = format!("it ran longer than maxWallClockTime, {limit}; create a Run with a longer one");
        End::plain(AttemptCause::WallClock, message)
    })
}

/// Whether its attempts have used up `maxTotalTime`, so that another one could not even begin.
pub fn is_total_used_up(case: &Case<'_>, draft: &Draft) -> bool {
    limits::total_left(&case.run.spec, Some(&draft.status)).is_some_and(|left| left.is_zero())
}

/// What is said of a Run that has used up `maxTotalTime`.
pub fn total_time(case: &Case<'_>) -> String {
    let limit = case.run.spec.max_total_time.unwrap_or_default();
    format!(
        "its attempts together ran as long as maxTotalTime allows, {limit}; create a Run with a longer one"
    )
}

/// Whether the planner has given the Run up.
pub fn is_given_up(draft: &Draft) -> bool {
    // Unknown: for a reason of a newer version, and as final.
    draft.status.queue.as_ref().is_some_and(|queue| match queue.given_up {
        Some(GivenUp::QueueDeadline | GivenUp::Unknown) => true,
        None => false,
    })
}

/// Ends a Run that waited too long.
pub fn give_up(case: &Case<'_>, draft: &mut Draft) {
    let limit = case.run.spec.queue_deadline.map(|limit| format!(", {limit}")).unwrap_or_default();
    let since = draft.status.queued_time.as_ref().map(|at| format!(" since {}", at.0)).unwrap_or_default();
    let place = draft.status.queue.as_ref().filter(|queue| queue.reason != Some(QueueReason::QueueDeadline));
    let last_wait = place.and_then(|queue| queue.message.clone()).or_else(|| draft.status.message.clone());
    let why = trainyard_api::text::because(last_wait.as_deref().unwrap_or_default());
    let message = format!("it waited{since}, longer than queueDeadline{limit}{why}");
    finish(case, draft, RunPhase::Failed, RunReason::QueueDeadline, &message);
}

/// What a Run does that waits without the planner's seeing it: it waits, and is ended when its deadline passes.
pub fn wait_unseen(case: &Case<'_>, mut draft: Draft, wake_at: Option<Timestamp>) -> Decision {
    let since = draft.status.queued_time.as_ref().map(|time| time.0);
    let deadline = limits::deadline_of_wait(&case.run.spec, since);
    if deadline.is_some_and(|deadline| case.now >= deadline) {
        give_up(case, &mut draft);
        return draft.write();
    }
    draft.write_or_wait(wake_at.into_iter().chain(deadline).min())
}
