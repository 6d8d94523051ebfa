//! Promises about what the owner of a Cluster asks for while it works: holds, lowered maxima, single nodes removed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Verdict, require, serves};
use crate::action::{Action, Plan};
use crate::effect;
use crate::identity::NodeName;
use crate::report::{RunReport, WaitReason};
use crate::snapshot::{Deallocation, DirectiveReason, Lifetime, PoolHold, Progress, RetireReason, Snapshot};

/// On hold, nothing that waits is given nodes.
pub fn a_held_pool_starts_nothing(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let starts = plan.all_actions().find(|action| matches!(action, Action::Allocate { .. }));
    require(snapshot.policy.hold == PoolHold::None || starts.is_none(), || {
        format!("{starts:?} while the pool is on hold")
    })
}

/// Frozen, nothing is asked for and nothing that could serve is given back or called back.
pub fn a_frozen_pool_keeps_its_nodes(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    if snapshot.policy.hold != PoolHold::Freeze || snapshot.lifetime != Lifetime::Wanted {
        return Ok(());
    }
    let marked = {
        let mut marked = snapshot.clone();
        let marks = plan.all_actions().filter(|action| matches!(action, Action::Retire { .. }));
        marks.for_each(|action| effect::apply_action(&mut marked, action, now));
        marked
    };
    for action in plan.all_actions() {
        let scales = match action {
            Action::RequestNode { .. } | Action::Unretire { .. } => true,
            Action::Retire { reason, .. } => !reason.is_final(),
            Action::Release { node } => {
                let reason = marked.nodes.iter().find(|other| other.name == *node);
                let reason = reason.and_then(|node| node.retired.as_ref()).map(|retired| retired.reason);
                !reason.is_some_and(RetireReason::is_final)
            }
            _ => false,
        };
        require(!scales, || format!("{action:?} while the pool is frozen"))?;
    }
    Ok(())
}

/// Runs are told of a hold, and only of one that there is; but for those that wait no longer.
pub fn every_run_on_hold_says_so(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let held = snapshot.policy.hold != PoolHold::None && snapshot.lifetime == Lifetime::Wanted;
    let waits = |run: &&RunReport| run.reason() != WaitReason::QueueDeadline;
    for run in plan.report.runs.iter().filter(waits) {
        let told = run.reason() == WaitReason::ClusterOnHold;
        require(told == held, || {
            format!("{} waits because of {:?}, the hold is {:?}", run.run, run.reason(), snapshot.policy.hold)
        })?;
    }
    Ok(())
}

/// Runs are stopped for a lowered maximum only if their user said so, so many that the pool gets within it, and none
/// without which it would get there as well.
pub fn as_few_runs_as_needed_are_stopped(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let mut ended: BTreeSet<&str> = snapshot
        .active
        .iter()
        .filter(|run| run.progress == Progress::Ended || run.directive.is_some())
        .map(|run| run.id.uid.as_str())
        .collect();
    let mut stopped = BTreeSet::new();
    for action in plan.all_actions() {
        let Action::Directive { run, reason, .. } = action else { continue };
        match reason {
            DirectiveReason::MaxNodesLowered => stopped.insert(run.uid.as_str()),
            _ => ended.insert(run.uid.as_str()),
        };
    }
    let waits = snapshot.policy.deallocation == Deallocation::WaitForRunCompletion;
    let frozen = snapshot.policy.hold == PoolHold::Freeze;
    if waits || frozen || snapshot.lifetime != Lifetime::Wanted {
        return require(stopped.is_empty(), || format!("{stopped:?} are stopped for a lowered maximum"));
    }
    // The nodes that serve once the plan's marks and drops are made, and who is on them.
    let mut marked = snapshot.clone();
    plan.actions
        .iter()
        .filter(|action| matches!(action, Action::Retire { .. } | Action::DropClaim { .. }))
        .for_each(|action| effect::apply_action(&mut marked, action, now));
    let serving: Vec<_> = marked.nodes.iter().filter(|node| serves(node)).collect();
    let mut tenants: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for node in &serving {
        let claims = node.claims.iter().map(|claim| claim.run.uid.as_str());
        tenants.entry(&node.name).or_default().extend(claims);
    }
    for run in snapshot.active.iter().filter(|run| run.progress >= Progress::Launched) {
        for name in &run.nodes {
            if let Some(on_it) = tenants.get_mut(name) {
                on_it.insert(run.id.uid.as_str());
            }
        }
    }
    let excess = serving.len() as i64 - snapshot.policy.max_nodes.max(0);
    let freed_without = |spared: Option<&str>| {
        let gone = |run: &&str| Some(*run) != spared && (ended.contains(*run) || stopped.contains(*run));
        tenants.values().filter(|runs| !runs.is_empty() && runs.iter().all(&gone)).count() as i64
    };
    // Nodes whose claims nobody explains are emptied by others, and counted by nobody.
    require(freed_without(None) >= excess, || {
        format!("{excess} nodes too many, and {} become free", freed_without(None))
    })?;
    for run in &stopped {
        let without = freed_without(Some(run));
        require(without < excess, || {
            format!("{run} is stopped, and without it {without} nodes become free, {excess} are too many")
        })?;
    }
    Ok(())
}

/// A node that somebody wants gone is marked for that, or for something worse; and no other is.
pub fn only_what_is_asked_for_is_removed(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let asked = |name: &NodeName| snapshot.removals.iter().any(|removal| removal.node == *name);
    let mut marked = BTreeSet::new();
    for action in plan.all_actions() {
        let Action::Retire { node, reason } = action else { continue };
        marked.insert(node);
        require(*reason != RetireReason::Removed || asked(node), || {
            format!("nobody asked for {node} to go")
        })?;
    }
    for node in snapshot.nodes.iter().filter(|node| asked(&node.name) && serves(node) && !node.released) {
        require(marked.contains(&node.name), || format!("{} shall go and stays", node.name))?;
    }
    Ok(())
}
