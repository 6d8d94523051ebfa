//! `Run.status.queue` from a run's report.
//!
//! A queue of thousands moves by one place with each finished run. So that this does not rewrite thousands of Runs,
//! positions beyond [`EXACT_POSITIONS`] are rounded up, and a message that only differs in its numbers is left as it
//! was. `kubectl trainyard why` computes the exact answer.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_api::{
    run_status::{GivenUp, Hold as WireHold, HoldReason as WireHoldReason, QueueReason, RunQueue},
    text,
};
use trainyard_planner::{Hold, HoldReason, RunReport, WaitReason};

/// Positions up to this one are exact.
pub const EXACT_POSITIONS: i64 = 20;

/// A queue entry's text for one run.
pub fn queue_entry(report: &RunReport) -> RunQueue {
    RunQueue {
        position: Some(rounded_position(report.position) as i32),
        reason: Some(wire_reason(report.reason())),
        message: Some(sentence(report)),
        estimated_start: report.estimated_start.map(|time| Time(rounded_up(time))),
        gang_since: report.gang_since.map(Time),
        hold: report.hold.as_ref().map(wire_hold),
        given_up: given_up(report),
    }
}

fn given_up(report: &RunReport) -> Option<GivenUp> {
    (report.reason() == WaitReason::QueueDeadline).then_some(GivenUp::QueueDeadline)
}

/// Whether `report` says something that `written` does not, and how soon that must be stored.
///
/// The sentence is made only where it is compared: near the front of the queue.
pub fn change(written: Option<&RunQueue>, report: &RunReport) -> Change {
    let Some(written) = written else {
        let remembers = report.gang_since.is_some() || report.hold.is_some();
        return if remembers { Change::Remembered } else { Change::Shown };
    };
    let gang_since = written.gang_since.as_ref().map(|time| time.0);
    if gang_since != report.gang_since
        || written.hold != report.hold.as_ref().map(wire_hold)
        || written.given_up != given_up(report)
    {
        return Change::Remembered;
    }
    let same_place = written.position.map(i64::from) == Some(rounded_position(report.position))
        && written.reason == Some(wire_reason(report.reason()))
        && written.estimated_start.as_ref().map(|time| time.0) == report.estimated_start.map(rounded_up);
    if same_place
        && (report.position > EXACT_POSITIONS || written.message.as_deref() == Some(&sentence(report)))
    {
        Change::Nothing
    } else {
        Change::Shown
    }
}

fn sentence(report: &RunReport) -> String {
    text::clip(&report.message(), text::MESSAGE_MAX)
}

/// What a queue entry's change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is as written.
    Nothing,
    /// Something people read: may wait for its turn.
    Shown,
    /// Something the next plan needs: must be stored at once.
    Remembered,
}

/// The position that is shown: exact up to 20, then rounded up to 50, 100, 200, 500, 1000, ...
pub fn rounded_position(position: i64) -> i64 {
    if position <= EXACT_POSITIONS {
        return position;
    }
    let mut step = 10;
    loop {
        for factor in [2, 5, 10] {
            let bound = step * factor;
            if bound > EXACT_POSITIONS && position <= bound {
                return bound;
            }
        }
        step *= 10;
    }
}

/// Estimates move with every plan by seconds; people read minutes.
fn rounded_up(time: Timestamp) -> Timestamp {
    let second = time.as_second();
    let up = (60 - second.rem_euclid(60)) % 60;
    Timestamp::from_second(second)
        .ok()
        .and_then(|whole| whole.checked_add(SignedDuration::from_secs(up)).ok())
        .unwrap_or(time)
}

/// A hold as it is written.
pub fn wire_hold(hold: &Hold) -> WireHold {
    WireHold {
        until: Time(hold.until),
        count: hold.count as i32,
        reason: match hold.reason {
            HoldReason::CapacityHold => WireHoldReason::GangTimeout,
        },
    }
}

/// The word of status for what a run waits for.
pub fn wire_reason(reason: WaitReason) -> QueueReason {
    match reason {
        WaitReason::Starting | WaitReason::NodesComing => QueueReason::NodesPreparing,
        WaitReason::CapacityBackoff => QueueReason::CapacityBackoff,
        WaitReason::CapacityHold => QueueReason::CapacityHold,
        WaitReason::NodesBusy => QueueReason::NodesBusy,
        WaitReason::BehindReservation => QueueReason::Reserved,
        WaitReason::BehindInQueue => QueueReason::BehindOthers,
        WaitReason::ExceedsMaxNodes => QueueReason::ExceedsMaxNodes,
        WaitReason::ExceedsNodeSize => QueueReason::ExceedsNode,
        WaitReason::GrowthBlocked => QueueReason::ClusterStalled,
        WaitReason::NoFreeMachines => QueueReason::NoFreeMachines,
        WaitReason::NodesLeaving => QueueReason::NodesLeaving,
        WaitReason::ClusterOnHold => QueueReason::ClusterOnHold,
        WaitReason::ClusterDeleting => QueueReason::ClusterDeleting,
        WaitReason::QueueDeadline => QueueReason::QueueDeadline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_planner::{RunId, Wait};

    fn report(position: i64, busy: i64) -> RunReport {
        RunReport {
            run: RunId { namespace: "ml".into(), name: "r".into(), uid: "u".into() },
            position,
            wait: Wait::NodesBusy { needed: 4, idle: 0, coming: 0, busy, free_at: None },
            estimated_start: None,
            gang_since: None,
            hold: None,
        }
    }

    #[test]
    fn the_first_twenty_positions_are_exact_and_the_rest_are_rounded_up() {
        let shown: Vec<i64> =
            [1, 20, 21, 50, 51, 100, 101, 200, 201, 999, 1000, 1001, 49_999].map(rounded_position).to_vec();
        assert_eq!(shown, [1, 20, 50, 50, 100, 100, 200, 200, 500, 1000, 1000, 2000, 50_000]);
    }

    #[test]
    fn a_run_far_behind_is_not_rewritten_for_numbers_in_its_message() {
        assert_eq!(change(Some(&queue_entry(&report(30, 3))), &report(40, 4)), Change::Nothing);
        assert_eq!(change(Some(&queue_entry(&report(3, 3))), &report(3, 4)), Change::Shown);
        assert_eq!(change(Some(&queue_entry(&report(3, 3))), &report(3, 3)), Change::Nothing);
    }

    #[test]
    fn what_the_next_plan_needs_is_told_apart_from_what_people_read() {
        let until = Hold { until: Timestamp::UNIX_EPOCH, count: 1, reason: HoldReason::CapacityHold };
        let held = RunReport { hold: Some(until), ..report(1, 3) };
        assert_eq!(change(Some(&queue_entry(&report(1, 3))), &held), Change::Remembered);
        assert_eq!(change(None, &report(1, 3)), Change::Shown);
        let asked = RunReport { gang_since: Some(Timestamp::UNIX_EPOCH), ..report(1, 3) };
        assert_eq!(change(None, &asked), Change::Remembered, "also when it is the first entry");
    }

    #[test]
    fn estimates_are_rounded_up_to_the_minute() {
        let at = |second| Timestamp::from_second(second).expect("small numbers of seconds are timestamps");
        assert_eq!(rounded_up(at(120)), at(120));
        assert_eq!(rounded_up(at(121)), at(180));
    }
}
