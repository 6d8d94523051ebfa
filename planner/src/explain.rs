//! The report: what every run and node waits for, and how the pool stands.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;

use crate::action::Action;
use crate::growth::{Grown, Growth};
use crate::identity::Zone;
use crate::refusals::Refusals;
use crate::report::{
    HeldUp, NodeCounts, NodeReason, NodeReport, PoolHealth, PoolReport, Report, RunReport, Shortage,
    WaitReason,
};
use crate::shrink::Shrunk;
use crate::snapshot::{FailureCause, Lifetime, Machine, Placement, PoolHold, RetireReason};
use crate::wait::{Wait, because, counted};
use crate::world::{NodeState, World};

/// Everything a reader of status wants to know after this plan.
pub(crate) fn report(
    world: &World,
    runs: Vec<RunReport>,
    growth: &Growth,
    grown: &Grown,
    shrunk: &Shrunk,
    refusals: Refusals,
) -> Report {
    let pool = pool(world, &runs, growth, grown, shrunk, refusals);
    let nodes = world.nodes.iter().map(|state| node(world, state, shrunk)).collect();
    Report { pool, runs, nodes }
}

fn pool(
    world: &World,
    waiting: &[RunReport],
    growth: &Growth,
    grown: &Grown,
    shrunk: &Shrunk,
    refusals: Refusals,
) -> PoolReport {
    let mut counts = NodeCounts { preparing: grown.requested, ..NodeCounts::default() };
    let mut current = grown.requested;
    for state in &world.nodes {
        if let Some(count) = counter(state, &mut counts) {
            *count += 1;
        }
        let never_came = state.node.machine == Machine::Failed && state.node.first_ready.is_none();
        current += i64::from(!state.is_gone() && !never_came);
    }
    // A stalled node stays until its timer ends, and what waits for its room is counted as well.
    let target = (world.staying() + grown.requested + grown.withheld).min(world.maximum.max(world.staying()));
    let shortage = shortage(world, waiting);
    let (health, message) = health(world, waiting, growth, grown, &counts, shortage.as_ref());
    PoolReport {
        current_nodes: current,
        target_nodes: target,
        counts,
        resizing: counts.preparing > 0 || counts.leaving > 0,
        queued: waiting.len() as i64,
        active: world.active.len() as i64 + world.decisions.allocations.len() as i64,
        oldest_queued: oldest_waiting(world),
        next_scale_down: shrunk.next,
        backoff: refusals.into_entries(),
        last_ordinal: grown.last_ordinal,
        zone: zone(world, growth, grown),
        initial_last_ordinal: world.initial_last_ordinal(),
        held_up: held_up(world),
        shortage,
        health,
        message,
    }
}

/// What the first run that lacks machines lacks, or the minimum, if that is more.
fn shortage(world: &World, waiting: &[RunReport]) -> Option<Shortage> {
    let stock = world.snapshot.policy.stock.as_ref()?;
    let of_a_run = waiting.iter().find_map(|run| match run.wait {
        Wait::NoFreeMachines { needed, there, .. } => Some(needed - there),
        _ => None,
    });
    let nodes = of_a_run.unwrap_or(0).max(world.written.minimum - world.minimum);
    (nodes > 0).then(|| Shortage { nodes, message: stock.message.clone() })
}

fn held_up(world: &World) -> Option<HeldUp> {
    let mut met =
        world.nodes.iter().filter_map(|state| Some((occupied_by(state)?, &state.node.name))).peekable();
    let (pod, node) = *met.peek()?;
    let message = format!(
        "node {node} is given back when pod {pod} has ended, which carries a run's label and belongs to no run that \
         has the node: delete it if it is not needed"
    );
    Some(HeldUp { nodes: met.count() as i64, message })
}

/// The pod that was met when the node was to be released. Still told while this plan tries again.
fn occupied_by<'a>(state: &NodeState<'a>) -> Option<&'a str> {
    let occupied = state.node.occupied.as_ref()?;
    let leaves = state.retired.is_some() && !state.node.released && !state.is_gone();
    (leaves && state.tenants.is_empty()).then_some(occupied.pod.as_str())
}

/// Creation time of the run that has waited longest.
fn oldest_waiting(world: &World) -> Option<Timestamp> {
    let started: BTreeSet<_> = world
        .decisions
        .allocations
        .iter()
        .filter_map(|action| match action {
            Action::Allocate { run, .. } => Some(run),
            _ => None,
        })
        .collect();
    let waiting = world.snapshot.queued.iter().filter(|run| started.is_empty() || !started.contains(&run.id));
    waiting.map(|run| run.created).min()
}

/// The zone that is stored changes only when machines are asked for in another one.
fn zone(world: &World, growth: &Growth, grown: &Grown) -> Option<Zone> {
    match world.snapshot.policy.placement {
        Placement::Any => None,
        Placement::SameZone(_) if grown.requested > 0 => growth.zone.clone(),
        Placement::SameZone(_) => world.snapshot.zone.clone(),
    }
}

/// The count a node belongs to; what is gone belongs to none.
fn counter<'c>(state: &NodeState, counts: &'c mut NodeCounts) -> Option<&'c mut i64> {
    let preempted =
        state.node.failure.as_ref().is_some_and(|failure| failure.cause == FailureCause::Preempted);
    Some(match state.node.machine {
        Machine::Gone => return None,
        _ if preempted => &mut counts.preempted,
        Machine::Failed => &mut counts.unusable,
        _ if state.released => &mut counts.leaving,
        _ if !state.tenants.is_empty() => &mut counts.running,
        _ if state.retired.is_some() => &mut counts.leaving,
        Machine::Coming => &mut counts.preparing,
        Machine::Ready => &mut counts.idle,
        Machine::NotReady => &mut counts.unusable,
    })
}

fn health(
    world: &World,
    waiting: &[RunReport],
    growth: &Growth,
    grown: &Grown,
    counts: &NodeCounts,
    shortage: Option<&Shortage>,
) -> (PoolHealth, String) {
    if world.snapshot.lifetime != Lifetime::Wanted {
        let left = world.nodes.iter().filter(|state| !state.is_gone()).count() as i64;
        return (PoolHealth::Deleting, format!("being deleted: {} left", counted(left, "node")));
    }
    let blocked_run = || waiting.iter().any(|waiting| waiting.reason() == WaitReason::GrowthBlocked);
    if let Some(block) = &world.snapshot.policy.growth_blocked
        && (grown.withheld > 0 || blocked_run())
    {
        return (
            PoolHealth::Blocked,
            format!("no nodes can be asked for ({}){}", block.code, because(&block.message)),
        );
    }
    let policy = &world.snapshot.policy;
    if let Some(limit) = policy.max_limited.as_ref().filter(|_| policy.min_nodes > world.written.maximum) {
        let minimum = policy.min_nodes;
        let why = because(&limit.message);
        return (PoolHealth::Blocked, format!("minNodes {minimum} cannot be reached ({}){why}", limit.code));
    }
    if let Some(refusal) = growth.refused.as_ref().filter(|_| grown.withheld > 0) {
        let (wanted, cause, until) = (counted(grown.withheld, "node"), refusal.cause, refusal.until);
        let why = because(&refusal.message);
        let message = format!("{wanted} wanted; refused ({cause:?}), asked again at {until:.0}{why}");
        return (PoolHealth::BackingOff, message);
    }
    if let Some(Shortage { nodes, message }) = shortage {
        let message = format!("{} more wanted; {message}", counted(*nodes, "node"));
        return (PoolHealth::BackingOff, message);
    }
    let serving = counts.idle + counts.running;
    let too_many = world.total() - world.maximum;
    if too_many > 0 {
        let message =
            format!("{} more than maxNodes {}, leaving when free", counted(too_many, "node"), world.maximum);
        (PoolHealth::Resizing, message)
    } else if serving < world.minimum {
        (PoolHealth::Resizing, format!("{serving} of minNodes {} ready", world.minimum))
    } else {
        let NodeCounts { preparing, idle, running, leaving, unusable, preempted } = *counts;
        let mut message = format!("{running} running, {idle} idle");
        let others = [
            (preparing, "preparing"),
            (leaving, "leaving"),
            (unusable, "unusable"),
            (preempted, "preempted"),
        ];
        let others = others.into_iter().filter(|(count, _)| *count > 0);
        message.extend(others.map(|(count, word)| format!(", {count} {word}")));
        if policy.hold != PoolHold::None {
            let _ = write!(message, "; on hold ({:?})", policy.hold);
        }
        (PoolHealth::Steady, message)
    }
}

fn node(world: &World, state: &NodeState, shrunk: &Shrunk) -> NodeReport {
    let (reason, message) = explain(world, state, shrunk);
    NodeReport { node: state.node.name.clone(), reason, message }
}

fn explain(world: &World, state: &NodeState, shrunk: &Shrunk) -> (NodeReason, String) {
    let why = state.retired.map_or("leaving", retired_because);
    let failure = state.node.failure.as_ref().map(|failure| because(&failure.message)).unwrap_or_default();
    if state.is_gone() {
        return (NodeReason::Gone, format!("its machine is gone{failure}"));
    }
    if let Some(pod) = occupied_by(state) {
        return (NodeReason::Draining, format!("leaves after pod {pod} ({why}{failure})"));
    }
    if state.released {
        return leaving(state, why, &failure);
    }
    if let Some(first) = state.tenants.first() {
        let more = match state.tenants.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        return if state.retired.is_some() {
            (NodeReason::Draining, format!("leaves after {}{more} ({why}{failure})", first.run))
        } else {
            (NodeReason::Working, format!("works for {}{more}", first.run))
        };
    }
    match state.node.machine {
        Machine::Coming => {
            (NodeReason::Coming, format!("asked for at {:.0}, not ready yet", state.node.requested_at))
        }
        Machine::NotReady if state.is_stalled(world.now) => {
            let since =
                state.node.not_ready_since.map(|since| format!(" since {since:.0}")).unwrap_or_default();
            (NodeReason::NotReady, format!("not ready for runs{since}, and no run counts on it"))
        }
        Machine::NotReady => (NodeReason::NotReady, "for the moment not ready for runs".to_owned()),
        _ if world.snapshot.policy.hold == PoolHold::Freeze => {
            (NodeReason::Frozen, "idle, kept because the cluster is on hold (Freeze)".to_owned())
        }
        _ if state.promised => (NodeReason::KeptForQueue, "idle, kept for a waiting run".to_owned()),
        _ => {
            let timeout = world.snapshot.policy.idle_timeout;
            let leaves = crate::clock::after(state.idle_from.unwrap_or(world.now), timeout);
            if shrunk.surplus == 0 || leaves <= world.now {
                let minimum = world.written.minimum;
                (NodeReason::KeptForMinimum, format!("idle, kept because minNodes is {minimum}"))
            } else {
                (NodeReason::IdleTimer, format!("idle, leaves at {leaves:.0}"))
            }
        }
    }
}

/// Of a node that is released.
fn leaving(state: &NodeState, why: &str, failure: &str) -> (NodeReason, String) {
    let node = state.node;
    if node.may_come_back() {
        let message = "lost, and given back when it is ready again and empty".to_owned();
        return (NodeReason::Quarantined, message);
    }
    let end = if node.lent { "given back" } else { "destroyed" };
    (NodeReason::Leaving, format!("its machine is being {end} ({why}{failure})"))
}

fn retired_because(reason: RetireReason) -> &'static str {
    match reason {
        RetireReason::Idle => "idle for too long",
        RetireReason::ScaleDown => "more than maxNodes",
        RetireReason::NotNeeded => "nobody waits for it",
        RetireReason::ClusterDeleted => "the cluster is being deleted",
        RetireReason::Deleted => "deleted by hand",
        RetireReason::Lost => "lost",
        RetireReason::Preempted => "taken back by the provider",
        RetireReason::Unusable => "unusable",
        RetireReason::Failed => "it never came",
        RetireReason::Removed => "removed on request",
    }
}
