//! Runs that are stopped because `maxNodes` was lowered below what runs, where the Cluster asks for that.
//!
//! As few as can be: the runs that have lost least are taken first, and one that turns out not to be needed is let be. A
//! node counts as free when every tenant of it is leaving, so runs that share one are judged together.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::action::Action;
use crate::snapshot::{ActiveRun, Deallocation, DirectiveKind, DirectiveReason, Priority, Progress};
use crate::world::World;

/// Stops runs until no more than the maximum is in use, or will be when what already ends has ended.
pub(crate) fn down_to_maximum(world: &mut World) {
    let kind = match world.snapshot.policy.deallocation {
        Deallocation::WaitForRunCompletion => return,
        Deallocation::Requeue => DirectiveKind::Stop,
        Deallocation::Terminate => DirectiveKind::Fail,
    };
    let mut leaving: BTreeSet<&str> = world
        .active
        .values()
        .filter(|run| run.progress == Progress::Ended || run.directive.is_some() || is_told(world, run))
        .map(|run| run.id.uid.as_str())
        .collect();
    let excess = |leaving: &BTreeSet<&str>| in_use(world, leaving) - world.maximum;
    if excess(&leaving) <= 0 {
        return;
    }
    let mut candidates: Vec<&ActiveRun> =
        world.active.values().copied().filter(|run| !leaving.contains(run.id.uid.as_str())).collect();
    candidates.sort_by_key(|run| loss(run));
    let mut chosen = Vec::new();
    for run in candidates {
        if excess(&leaving) <= 0 {
            break;
        }
        leaving.insert(&run.id.uid);
        chosen.push(run);
    }
    // The last ones taken have lost most: whoever of all is not needed is let be, those first.
    for at in (0..chosen.len()).rev() {
        leaving.remove(chosen[at].id.uid.as_str());
        if excess(&leaving) <= 0 {
            chosen.remove(at);
        } else {
            leaving.insert(&chosen[at].id.uid);
        }
    }
    let directives = chosen.into_iter().map(|run| Action::Directive {
        run: run.id.clone(),
        attempt: run.attempt,
        kind,
        reason: DirectiveReason::MaxNodesLowered,
        culprit: None,
    });
    let directives: Vec<_> = directives.collect();
    world.decisions.directives.extend(directives);
}

/// What stopping a run loses, least first: nothing, where it has not started; then by priority, and the youngest first.
fn loss(
    run: &ActiveRun,
) -> (bool, Priority, Reverse<Option<jiff::Timestamp>>, Reverse<jiff::Timestamp>, &crate::RunId) {
    (run.started.is_some(), run.priority, Reverse(run.started), Reverse(run.created), &run.id)
}

/// Whether this plan has ended its attempt already, for another reason.
fn is_told(world: &World, run: &ActiveRun) -> bool {
    world.decisions.directives.iter().any(|action| {
        matches!(action, Action::Directive { run: told, attempt, .. } if *told == run.id && *attempt == run.attempt)
    })
}

/// Nodes that stay and are used by a run that does not leave.
fn in_use(world: &World, leaving: &BTreeSet<&str>) -> i64 {
    let used = |state: &&crate::world::NodeState| {
        state.stays() && state.tenants.iter().any(|tenant| !leaving.contains(tenant.run.uid.as_str()))
    };
    world.nodes.iter().filter(used).count() as i64
}
