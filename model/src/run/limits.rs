//! How long a Run may take: in one attempt, in all of them, in the queue.
//!
//! In: a Run as it is stored. Out: times and durations; who acts on them is elsewhere. The clocks are in its status, so
//! a restart of the operator changes none of them: `attempts[].launched` starts that of an attempt, `totals.runningSeconds`
//! has what earlier attempts took, `queuedTime` starts that of the queue.

use jiff::{SignedDuration, Timestamp};
use trainyard_api::Run;
use trainyard_api::run::RunSpec;
use trainyard_api::run_status::{RunPhase, RunStatus};

/// The schema's default of `maxWallClockTime`. The API server fills it in, so a user who writes exactly this cannot be told
/// from one who writes nothing, and counts as the latter: nothing is promised that nobody meant.
pub const DEFAULT_WALL_CLOCK: SignedDuration = SignedDuration::from_hours(168);

/// What of `maxTotalTime` is left for the next attempt, or was left for the live one when it began: nothing or more.
/// `None` without such a limit.
pub fn total_left(spec: &RunSpec, status: Option<&RunStatus>) -> Option<SignedDuration> {
    let total = SignedDuration::from(spec.max_total_time?);
    let used = status.and_then(|status| status.totals.as_ref()).map_or(0, |totals| totals.running_seconds);
    Some((total - SignedDuration::from_secs(used.into())).max(SignedDuration::ZERO))
}

/// The longest that its next or live attempt may take by limits that its user wrote, counted from its launch.
pub fn of_next_attempt(run: &Run) -> Option<SignedDuration> {
    let wall_clock = SignedDuration::from(run.spec.max_wall_clock_time);
    let by_user = Some(wall_clock).filter(|limit| *limit != DEFAULT_WALL_CLOCK);
    by_user.into_iter().chain(total_left(&run.spec, run.status.as_ref())).min()
}

/// When it has waited as long as its `queueDeadline` allows; `None` without one, and while it does not wait.
pub fn queue_deadline(run: &Run) -> Option<Timestamp> {
    let status = run.status.as_ref()?;
    let since = status.queued_time.as_ref().filter(|_| status.phase == Some(RunPhase::Queued))?.0;
    deadline_of_wait(&run.spec, Some(since))
}

/// The same for a wait that began at `since`.
pub fn deadline_of_wait(spec: &RunSpec, since: Option<Timestamp>) -> Option<Timestamp> {
    let most = SignedDuration::from(spec.queue_deadline?);
    Some(since?.saturating_add(most).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::run::fixture;

    fn run(spec: Value, status: Value) -> Run {
        let mut run = fixture::run(spec);
        run.status = serde_json::from_value(status).expect("a status");
        run
    }

    #[rstest]
    #[case::nothing_written(json!({}), 0, None)]
    #[case::the_default_is_no_promise(json!({"maxWallClockTime": "168h"}), 0, None)]
    #[case::one_attempt(json!({"maxWallClockTime": "1h"}), 0, Some(3600))]
    #[case::all_attempts(json!({"maxTotalTime": "1h"}), 0, Some(3600))]
    #[case::the_smaller_of_both(json!({"maxWallClockTime": "1h", "maxTotalTime": "90m"}), 0, Some(3600))]
    #[case::what_earlier_attempts_left(json!({"maxWallClockTime": "1h", "maxTotalTime": "90m"}), 3000, Some(2400))]
    #[case::more_than_the_default(json!({"maxTotalTime": "400h"}), 0, Some(400 * 3600))]
    #[case::nothing_left(json!({"maxTotalTime": "1h"}), 4000, Some(0))]
    fn the_next_attempt_takes_at_most_the_least_of_what_was_written(
        #[case] spec: Value,
        #[case] used: i64,
        #[case] expected: Option<i64>,
    ) {
        let run = run(spec, json!({"totals": {"runningSeconds": used}}));
        assert_eq!(of_next_attempt(&run).map(|limit| limit.as_secs()), expected);
    }

    #[rstest]
    #[case::waiting("Queued", "2h", Some("2030-01-01T02:00:00Z"))]
    #[case::running("Running", "2h", None)]
    #[case::suspended("Suspended", "2h", None)]
    fn a_deadline_counts_only_in_the_queue(
        #[case] phase: &str,
        #[case] deadline: &str,
        #[case] expected: Option<&str>,
    ) {
        let run = run(
            json!({"queueDeadline": deadline}),
            json!({"phase": phase, "queuedTime": "2030-01-01T00:00:00Z"}),
        );
        assert_eq!(queue_deadline(&run), expected.map(|time| time.parse().expect("a time")));
    }
}
