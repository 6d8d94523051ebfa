//! Gangs that cannot be completed: how long one keeps what it has, and for how long it then stands aside.

use jiff::{SignedDuration, Timestamp};

use crate::clock;
use crate::snapshot::{Hold, HoldReason, QueuedRun};
use crate::world::World;

/// The first hold: long enough that lower runs can start and get something done on what the gang gave back.
const FIRST_HOLD: SignedDuration = SignedDuration::from_mins(20);

/// Holds grow up to this: a shortage that lasts a night is tried a few times, one that lasts a week some times a day.
const LONGEST_HOLD: SignedDuration = SignedDuration::from_hours(4);

/// A hold is served for this part of its time at least, whatever is free: one minute of the first, twelve of the longest. So a
/// gang whose machines are counted free and do not serve takes and returns them ever less often, and one that was short
/// of machines loses next to nothing.
const SHARE_SERVED: i32 = 20;

/// Since when machines have been wanted for a run. What was noted before its last hold is over.
pub(crate) fn since(run: &QueuedRun, now: Timestamp) -> Timestamp {
    noted(run).unwrap_or(now)
}

/// True when it has waited for its machines as long as its user allows.
pub(crate) fn is_over(run: &QueuedRun, since: Timestamp, now: Timestamp) -> bool {
    clock::after(since, run.gang_timeout) <= now
}

/// The plan will be another one when its patience ends.
pub(crate) fn note_timeout(world: &mut World, run: &QueuedRun) {
    if let Some(since) = noted(run) {
        world.note_instant(clock::after(since, run.gang_timeout));
    }
}

/// The hold that follows.
pub(crate) fn next_hold(run: &QueuedRun, now: Timestamp) -> Hold {
    let count = run.hold.as_ref().map_or(0, |hold| hold.count) + 1;
    Hold { until: clock::after(now, length(count)), count, reason: HoldReason::CapacityHold }
}

fn length(count: i64) -> SignedDuration {
    let doublings = (count - 1).clamp(0, 8) as u32;
    std::cmp::min(FIRST_HOLD * (1 << doublings), LONGEST_HOLD)
}

/// Before this a hold is not cut short: the gang's own machines are free again a moment after it gave up on them, and are
/// the same as before.
pub(crate) fn earliest_end(hold: &Hold) -> Timestamp {
    let length = length(hold.count);
    clock::before(hold.until, length - length / SHARE_SERVED)
}

/// Its last hold, which is over: when it asks for machines before the time, it has ended now.
pub(crate) fn ended_hold(run: &QueuedRun, now: Timestamp) -> Option<Hold> {
    run.hold.clone().map(|hold| Hold { until: hold.until.min(now), ..hold })
}

fn noted(run: &QueuedRun) -> Option<Timestamp> {
    let since = run.gang_since?;
    run.hold.as_ref().is_none_or(|hold| since >= hold.until).then_some(since)
}
