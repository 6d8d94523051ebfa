//! Gangs that cannot be completed: how long one keeps what it has, and for how long it then stands aside.

use jiff::{SignedDuration, Timestamp};

use crate::clock;
use crate::snapshot::{Hold, HoldReason, QueuedRun};
use crate::world::World;

/// The first hold: long enough that lower runs can start and get something done on what the gang gave back.
const FIRST_HOLD: SignedDuration = SignedDuration::from_mins(20);

/// Holds grow up to this: a shortage that lasts a night is tried a few times, one that lasts a week some times a day.
const LONGEST_HOLD: SignedDuration = SignedDuration::from_hours(4);

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
    let doublings = (count - 1).clamp(0, 8) as u32;
    let length = std::cmp::min(FIRST_HOLD * (1 << doublings), LONGEST_HOLD);
    Hold { until: clock::after(now, length), count, reason: HoldReason::CapacityHold }
}

fn noted(run: &QueuedRun) -> Option<Timestamp> {
    let since = run.gang_since?;
    run.hold.as_ref().is_none_or(|hold| since >= hold.until).then_some(since)
}
