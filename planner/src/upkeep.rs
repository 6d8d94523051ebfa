//! What is so whatever the queue says: attempts that cannot go on, claims that are over, nodes that will not serve again,
//! and farewells.

use std::collections::BTreeMap;

use crate::action::{Action, DropBasis};
use crate::identity::NodeName;
use crate::snapshot::{
    ActiveRun, Claim, DirectiveKind, DirectiveReason, FailureCause, Lifetime, Machine, Node, Progress,
    RemovalKind, RetireReason,
};
use crate::world::World;

/// Ends attempts whose nodes are lost, whose Cluster goes, or whose claims are not all there.
pub(crate) fn direct_attempts(world: &mut World) {
    let deleting = world.snapshot.lifetime != Lifetime::Wanted;
    let mut live: Vec<_> = world
        .active
        .values()
        .copied()
        .filter(|run| run.progress != Progress::Ended && run.directive.is_none())
        .collect();
    live.sort_by_key(|run| &run.id);
    for run in live {
        let (kind, reason, culprit) = if deleting {
            (DirectiveKind::Fail, DirectiveReason::ClusterDeleted, None)
        } else if let Some((node, reason)) = broken_member(world, run) {
            (DirectiveKind::Requeue, reason, Some(node.clone()))
        } else if run.progress == Progress::Allocated && !is_fully_claimed(world, run) {
            (DirectiveKind::Stop, DirectiveReason::Withdrawn, None)
        } else {
            continue;
        };
        world.decisions.directives.push(Action::Directive {
            run: run.id.clone(),
            attempt: run.attempt,
            kind,
            reason,
            culprit,
        });
    }
}

/// The first node, in rank order, that took the attempt with it.
fn broken_member<'r>(world: &World, run: &'r ActiveRun) -> Option<(&'r NodeName, DirectiveReason)> {
    run.nodes.iter().find_map(|name| {
        let reason = match world.node(name) {
            // An attempt that was launched had its claims, and a claimed node is never forgotten; but pods cannot run
            // on a node of which nothing is known. Whoever carries this out looks for it once more: a cache may lack it.
            None if run.progress == Progress::Launched => DirectiveReason::NodeLost,
            None => return None,
            Some(at) => {
                let state = &world.nodes[at];
                let retired = state.retired.filter(|reason| reason.is_final());
                match does_not_wait(world, state.node).or(retired)? {
                    RetireReason::Preempted => DirectiveReason::NodePreempted,
                    RetireReason::Removed => DirectiveReason::NodeRemoved,
                    RetireReason::Unusable => DirectiveReason::NodeUnusable,
                    RetireReason::Lost | RetireReason::Failed => DirectiveReason::NodeLost,
                    // Deleted by hand: replaced after its runs.
                    RetireReason::Deleted
                    | RetireReason::Idle
                    | RetireReason::ScaleDown
                    | RetireReason::NotNeeded
                    | RetireReason::ClusterDeleted => return None,
                }
            }
        };
        Some((name, reason))
    })
}

fn is_fully_claimed(world: &World, run: &ActiveRun) -> bool {
    run.nodes.iter().all(|name| {
        world.node(name).is_some_and(|at| {
            let claims = &world.nodes[at].node.claims;
            claims.iter().any(|claim| claim.run.uid == run.id.uid && claim.attempt == run.attempt)
        })
    })
}

/// Drops claims whose attempt is over or never came to be. Whoever carries this out checks each on fresh reads.
pub(crate) fn drop_claims(world: &mut World) {
    let snapshot = world.snapshot;
    // Only the few runs with a claim that no live attempt explains are looked up: the queue may be long.
    let mut stray: Vec<(usize, &Claim)> = Vec::new();
    for at in 0..world.nodes.len() {
        let node = world.nodes[at].node;
        for claim in &node.claims {
            match world.active.get(claim.run.uid.as_str()) {
                Some(run) if run.attempt == claim.attempt && run.nodes.contains(&node.name) => {}
                Some(run) if claim.attempt < run.attempt => world.drop_claim(at, claim, DropBasis::PodsGone),
                Some(_) => world.drop_claim(at, claim, DropBasis::NotAllocated),
                None => stray.push((at, claim)),
            }
        }
    }
    if stray.is_empty() {
        return;
    }
    // Number of the last attempt that is over, and whether the run is queued.
    let mut last: BTreeMap<&str, Option<(i64, bool)>> =
        stray.iter().map(|(_, claim)| (claim.run.uid.as_str(), None)).collect();
    for ended in &snapshot.ended {
        if let Some(entry) = last.get_mut(ended.run.uid.as_str()) {
            let known = entry.map_or(0, |(attempt, _)| attempt);
            *entry = Some((known.max(ended.attempt), false));
        }
    }
    for queued in &snapshot.queued {
        if let Some(entry) = last.get_mut(queued.id.uid.as_str()) {
            *entry = Some((queued.next_attempt - 1, true));
        }
    }
    for (at, claim) in stray {
        match last.get(claim.run.uid.as_str()).copied().flatten() {
            None => world.drop_claim(at, claim, DropBasis::RunGone),
            Some((attempt, _)) if claim.attempt <= attempt => {
                world.drop_claim(at, claim, DropBasis::PodsGone);
            }
            Some((_, true)) => world.set_aside(at, claim),
            Some((_, false)) => world.drop_claim(at, claim, DropBasis::NotAllocated),
        }
    }
}

/// Marks nodes that can never serve again, and all of a Cluster that is being deleted.
pub(crate) fn retire_broken(world: &mut World) {
    let deleting = world.snapshot.lifetime != Lifetime::Wanted;
    for at in 0..world.nodes.len() {
        let state = &world.nodes[at];
        // A gone node without claims is forgotten by this plan: a mark would be one more write for nobody.
        if state.released || (state.is_gone() && state.tenants.is_empty()) {
            continue;
        }
        let reason = match does_not_wait(world, state.node).or_else(|| breakdown(state.node)) {
            Some(reason) if may_be_marked(state.retired, reason) => reason,
            None if deleting && state.retired.is_none() => RetireReason::ClusterDeleted,
            _ => continue,
        };
        world.retire(at, reason);
    }
}

/// Why a node goes whatever runs on it. Deleted by hand it waits for its runs, unless somebody then does not want to wait.
fn does_not_wait(world: &World, node: &Node) -> Option<RetireReason> {
    let broken = breakdown(node).filter(|reason| *reason != RetireReason::Deleted);
    broken.or_else(|| removal(world, &node.name))
}

/// A final mark stays, but for one: a node that was deleted by hand waits for its runs, and may be removed from them.
fn may_be_marked(retired: Option<RetireReason>, reason: RetireReason) -> bool {
    match retired {
        Some(RetireReason::Deleted) => matches!(reason, RetireReason::Removed | RetireReason::Preempted),
        Some(retired) => !retired.is_final(),
        None => true,
    }
}

/// What somebody asked for about this node.
fn removal(world: &World, name: &NodeName) -> Option<RetireReason> {
    let asked = world.snapshot.removals.iter().filter(|removal| removal.node == *name);
    // A preemption is the harder of the two, should both be asked for.
    asked.map(|removal| removal.kind).max().map(|kind| match kind {
        RemovalKind::Remove => RetireReason::Removed,
        RemovalKind::RehearsePreemption => RetireReason::Preempted,
    })
}

/// Why a node can never serve again.
pub(crate) fn breakdown(node: &Node) -> Option<RetireReason> {
    let cause = node.failure.as_ref().map(|failure| failure.cause);
    match (cause, node.machine) {
        (Some(FailureCause::Lost), _) => Some(RetireReason::Lost),
        (Some(FailureCause::Preempted), _) => Some(RetireReason::Preempted),
        (Some(FailureCause::Unusable), _) => Some(RetireReason::Unusable),
        (None, Machine::Gone) if node.first_ready.is_some() => Some(RetireReason::Lost),
        (_, Machine::Failed | Machine::Gone) => Some(RetireReason::Failed),
        _ if node.deleted => Some(RetireReason::Deleted),
        _ => None,
    }
}

/// Releases what has left, forgets what is gone, and lets the Cluster go when nothing of it is left.
pub(crate) fn say_farewell(world: &mut World) {
    for at in 0..world.nodes.len() {
        let state = &world.nodes[at];
        if !state.tenants.is_empty() {
            continue;
        }
        if state.is_gone() {
            let node = state.node.name.clone();
            world.decisions.farewells.push(Action::Forget { node });
        } else if !state.released
            && state.retired.is_some_and(|reason| reason.is_final() || !world.is_frozen())
        {
            match state.node.occupied.as_ref().map(|occupied| occupied.until) {
                // To ask more often would help nobody: whoever owns the pod decides when it ends.
                Some(until) if until > world.now => world.note_instant(until),
                _ => world.release(at),
            }
        }
    }
    let all_forgotten = world.decisions.farewells.len() == world.nodes.len();
    if world.snapshot.lifetime == Lifetime::Deleting && all_forgotten {
        world.decisions.farewells.push(Action::ReleaseFinalizer);
    }
}
