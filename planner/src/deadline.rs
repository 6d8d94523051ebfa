//! Runs that have waited as long as their users allow.
//!
//! Decided here, and not where a Run ends, so that the same plan that gives a run up neither starts it nor asks for
//! machines for it. Waiting in a Cluster that is held, stalled or being deleted is waiting: the user said for how long.

use crate::snapshot::QueuedRun;
use crate::world::World;

/// True for a run whose wait is over; it is given up if that has not been said yet.
pub(crate) fn is_over(world: &mut World, run: &QueuedRun) -> bool {
    if run.given_up {
        return true;
    }
    let Some(deadline) = run.give_up_at else { return false };
    if deadline <= world.now {
        world.give_up(run);
        return true;
    }
    // Also of one that this plan starts: the same snapshot gives it up then.
    world.note_instant(deadline);
    false
}
