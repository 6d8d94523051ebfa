//! Asking for machines: where, whether refusals forbid it now, and how many.

use jiff::Timestamp;

use crate::action::Action;
use crate::identity::Zone;
use crate::refusals::Refusals;
use crate::snapshot::{Backoff, Placement};
use crate::world::World;

/// Whether and where machines may be asked for in this plan.
pub(crate) struct Growth {
    /// The zone to require.
    pub zone: Option<Zone>,
    /// Why not now.
    pub refused: Option<Backoff>,
    /// Nodes that serve or come are in that zone, so that it may be no other.
    is_bound: bool,
    /// A person must act first.
    blocked: bool,
    /// When that could change without a change of the snapshot.
    changes: Option<Timestamp>,
}

/// What growth came to.
pub(crate) struct Grown {
    /// Asked for by this plan.
    pub requested: i64,
    /// Wanted, and not asked for because of refusals, a block, or leaving nodes that still take the room.
    pub withheld: i64,
    pub last_ordinal: i64,
}

impl Growth {
    /// Chooses the zone and looks into the memory of refusals.
    pub(crate) fn new(world: &World, refusals: &Refusals) -> Self {
        let now = world.now;
        let blocked = world.snapshot.policy.growth_blocked.is_some();
        let (pinned, zones) = match &world.snapshot.policy.placement {
            Placement::Any => (None, None),
            Placement::SameZone(zones) => (pinned_zone(world), Some(zones)),
        };
        let (is_bound, free_choice) = (pinned.is_some(), pinned.is_none() && zones.is_some());
        let zone = pinned.or_else(|| best_zone(zones?, refusals, now));
        let refused = refusals.against(zone.as_ref(), now).cloned();
        // With a free choice, the end of any refusal may change the choice.
        let changes =
            if free_choice { refusals.ends(now).min() } else { refused.as_ref().map(|entry| entry.until) };
        Self { zone, refused, is_bound, blocked, changes }
    }

    /// The choice that the last node leaves when it goes: a zone is refused, and no node binds the Cluster to it any more.
    pub(crate) fn once_unbound(&self, world: &World, refusals: &Refusals) -> Option<Self> {
        let is_free = self.is_bound && self.refused.is_some() && pinned_zone(world).is_none();
        is_free.then(|| Self::new(world, refusals))
    }

    /// Asks for none, whatever is lacking.
    pub(crate) fn nothing(world: &World) -> Grown {
        let nodes = world.nodes.iter().map(|state| state.node.ordinal);
        Grown { requested: 0, withheld: 0, last_ordinal: nodes.fold(world.snapshot.last_ordinal, Ord::max) }
    }

    /// Asks for the machines the queue was promised, and for what the minimum lacks.
    /// `later` are wanted as soon as leaving nodes have made room.
    pub(crate) fn request(&self, world: &mut World, for_queue: i64, later: i64) -> Grown {
        let mut last_ordinal =
            world.nodes.iter().map(|state| state.node.ordinal).fold(world.snapshot.last_ordinal, Ord::max);
        let forbidden = self.blocked || self.refused.is_some();
        let to_begin_with = (world.initial_nodes_lacking() - for_queue).max(0);
        let come = if forbidden { 0 } else { for_queue + to_begin_with };
        call_back_for_minimum(world, come);
        let lacking = to_begin_with + (world.minimum - world.staying() - for_queue - to_begin_with).max(0);
        let room = (world.maximum - world.total() - for_queue).max(0);
        let wanted = for_queue + lacking.min(room);
        if wanted > 0 && !self.blocked {
            self.changes.into_iter().for_each(|time| world.note_instant(time));
        }
        let requested = if forbidden { 0 } else { wanted };
        for _ in 0..requested {
            last_ordinal += 1;
            world
                .decisions
                .requests
                .push(Action::RequestNode { ordinal: last_ordinal, zone: self.zone.clone() });
        }
        Grown { requested, withheld: for_queue + lacking.max(later) - requested, last_ordinal }
    }
}

/// The zone the Cluster is bound to: that of the nodes that serve or come. Leaving and failed ones bind nothing.
fn pinned_zone(world: &World) -> Option<Zone> {
    let mut bound = world.nodes.iter().filter(|state| state.stays() || !state.tenants.is_empty()).peekable();
    bound.peek()?;
    world.snapshot.zone.clone().or_else(|| bound.find_map(|state| state.node.zone.clone()))
}

/// The first zone that is not refused, else the one that is open again first. No zones are as good as any.
fn best_zone(zones: &[Zone], refusals: &Refusals, now: Timestamp) -> Option<Zone> {
    let refused_until = |zone: &&Zone| refusals.against(Some(zone), now).map(|entry| entry.until);
    // The first of equals is taken, and `None` (not refused) is least.
    zones.iter().min_by_key(refused_until).cloned()
}

/// Nodes that were about to leave are the cheapest ones to be had.
fn call_back_for_minimum(world: &mut World, for_queue: i64) {
    let mut lacking = world.minimum - world.staying() - for_queue;
    for at in world.callable() {
        if lacking <= 0 {
            break;
        }
        world.call_back(at);
        lacking -= 1;
    }
}
