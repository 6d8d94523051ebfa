//! The policy, from top to bottom.
//!
//! Each step reads the world as the steps before it leave it. What has to be so whatever the queue says comes first; then
//! the queue takes what it needs; what it leaves over is subject to minimum and idle timers.

use jiff::Timestamp;

use crate::action::Plan;
use crate::deallocate;
use crate::explain;
use crate::growth::Growth;
use crate::placement;
use crate::queue;
use crate::refusals::Refusals;
use crate::shrink::{self, Shrunk};
use crate::snapshot::{PoolHold, Snapshot};
use crate::supply::Supply;
use crate::upkeep;
use crate::world::World;

/// What shall be done with this Cluster, and why. The same input gives the same plan; carrying it out and planning again
/// gives no further action.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut world = World::new(snapshot, now);

    // 1. Remember what was refused.
    let refusals = Refusals::absorb(snapshot, now);
    // 2. End attempts that cannot go on.
    upkeep::direct_attempts(&mut world);
    // 3. Drop claims that are over.
    upkeep::drop_claims(&mut world);
    // 4. Give up nodes that will not serve again.
    upkeep::retire_broken(&mut world);
    // 5. Let go what has been of no use for long, and get within the maximum.
    let is_frozen = world.is_frozen();
    if !is_frozen {
        shrink::stalled(&mut world);
        deallocate::down_to_maximum(&mut world);
        shrink::to_maximum(&mut world);
    }

    // 6. Serve the queue from what there is, comes, or can be asked for.
    let mut growth = Growth::new(&world, &refusals);
    let queue = queue::in_order(&snapshot.queued);
    let mut supply = Supply::new(&world);
    let waiting = match snapshot.policy.hold {
        PoolHold::None => placement::serve(&mut world, &queue, &mut supply, &growth),
        hold => placement::hold_back(&mut world, &queue, hold),
    };
    world.drop_unfinished();

    // 7. Ask for machines: for whole gangs of the queue, then for the minimum.
    let mut grown = if is_frozen {
        Growth::nothing(&world)
    } else {
        growth.request(&mut world, supply.new_machines(), supply.later_machines())
    };
    // 8. Retire what nobody waits for and was idle for too long.
    let shrunk = if is_frozen { Shrunk::default() } else { shrink::idle(&mut world, grown.requested) };
    if !is_frozen && let Some(elsewhere) = growth.once_unbound(&world, &refusals) {
        grown = elsewhere.request(&mut world, supply.new_machines(), supply.later_machines());
        growth = elsewhere;
    }
    // 9. Release what has left, forget what is gone.
    upkeep::say_farewell(&mut world);

    // 10. Say what everything waits for, and when to ask again.
    let report = explain::report(&world, waiting, &growth, &grown, &shrunk, refusals);
    let wake_at = world.first_instant();
    let (actions, afterwards) = world.decisions.into_actions();
    let plan = Plan { actions, report, afterwards, wake_at };
    debug_assert_eq!(crate::check::violation(snapshot, now, &plan), None, "a plan broke a promise");
    plan
}
