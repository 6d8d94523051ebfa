//! What there is before any run has taken of it: nodes as bins, and the room for more.

use super::hopeless::Hopeless;
use super::{Bin, Count, Service, Stage, Supply};
use crate::capacity::Capacity;
use crate::snapshot::Machine;
use crate::world::{NodeState, World};

impl Supply {
    /// Everything that the world's nodes and maximum offer.
    pub(crate) fn new(world: &World) -> Self {
        let total = world.total();
        let staying = world.staying();
        let may_grow = world.snapshot.policy.growth_blocked.is_none();
        let mut callable = world.callable();
        callable.truncate((world.maximum - staying).max(0) as usize);
        let mut supply = Self {
            bins: Vec::with_capacity(world.nodes.len()),
            shelves: Default::default(),
            sharing: world.sharing,
            room: Count::default(),
            leaving: Count::default(),
            replaceable: 0,
            obtainable: 0,
            attainable: 0,
            new_capacity: expected_capacity(world),
            new: 0,
            later: 0,
            hopeless: Hopeless::default(),
        };
        let mut is_callable = vec![false; world.nodes.len()];
        callable.iter().for_each(|at| is_callable[*at] = true);
        let mut empty_bins = [Vec::new(), Vec::new()];
        for (at, state) in world.nodes.iter().enumerate() {
            // What is stalled takes up room like a node that leaves, which it does if it is idle for long enough.
            let usable = (state.stays() && !state.is_stalled(world.now)) || is_callable[at];
            let ready = state.node.machine == Machine::Ready;
            let empty = usable && state.tenants.is_empty();
            supply.bins.push(Bin {
                stage: if ready { Stage::Ready } else { Stage::Coming },
                free: if usable && world.sharing {
                    state.free.clone().into_owned()
                } else {
                    Capacity::default()
                },
                empty,
                rank: 0,
                reserved: false,
                service: match (usable, state.draining) {
                    (false, _) => Service::None,
                    (true, true) => Service::Draining,
                    (true, false) => Service::Open,
                },
            });
            if empty {
                empty_bins[usize::from(!ready)].push(at);
            }
        }
        let [ready, coming] = &mut empty_bins;
        // Most recently emptied first, so that the others get old enough to leave; called back last.
        ready.sort_by_key(|at| {
            let state = &world.nodes[*at];
            (!state.stays(), state.idle_from.is_some(), std::cmp::Reverse(state.idle_from), *at)
        });
        coming.sort_by_key(|at| (!world.nodes[*at].stays(), *at));
        for (rank, at) in ready.iter().enumerate().chain(coming.iter().enumerate()) {
            supply.bins[*at].rank = rank;
        }
        (0..supply.bins.len()).for_each(|at| supply.change(at, |_| {}));
        let stalled = world
            .nodes
            .iter()
            .filter(|state| state.stays() && state.tenants.is_empty() && state.is_stalled(world.now));
        let serving = staying - stalled.count() as i64 + callable.len() as i64;
        supply.obtainable = world.maximum - world.quarantined;
        supply.attainable = supply.obtainable.max(serving);
        if may_grow {
            supply.room.open = (world.maximum - total).max(0);
            let is_kept = |state: &&NodeState| !state.tenants.is_empty() || state.node.may_come_back();
            let kept = world.nodes.iter().filter(|state| !state.is_gone()).filter(is_kept);
            let empty = ready.len() + coming.len();
            let leaving = total - kept.count() as i64 - empty as i64;
            let most = (supply.obtainable - serving - supply.room.open).max(0);
            supply.leaving.open = leaving.clamp(0, most);
            supply.replaceable = most - supply.leaving.open;
        }
        supply
    }
}

/// What a new machine will have: as the policy says, but never more than was measured on one that came. A size that
/// promises more than it delivers would otherwise be bought again and again.
fn expected_capacity(world: &World) -> Capacity {
    let mut expected = world.snapshot.policy.node_capacity.clone();
    let measured = world.nodes.iter().filter(|state| state.stays() && state.node.machine == Machine::Ready);
    for capacity in measured.map(|state| &state.node.capacity) {
        expected.cpu_millis = expected.cpu_millis.min(capacity.cpu_millis);
        expected.memory_bytes = expected.memory_bytes.min(capacity.memory_bytes);
        expected.pods = expected.pods.min(capacity.pods);
        for (name, count) in &mut expected.accelerators {
            *count = (*count).min(capacity.accelerators.get(name).copied().unwrap_or(0));
        }
    }
    expected
}
