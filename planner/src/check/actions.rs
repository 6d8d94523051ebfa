//! Promises about nodes, claims and attempts: what may be asked for, dropped, retired, released and forgotten.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Verdict, require, serves};
use crate::action::{Action, Plan};
use crate::effect;
use crate::identity::{NodeName, RunId};
use crate::snapshot::{Lifetime, Machine, Node, PoolHold, Progress, RetireReason, Snapshot};

fn maximum(snapshot: &Snapshot) -> i64 {
    if snapshot.lifetime == Lifetime::Wanted { snapshot.policy.max_nodes } else { 0 }
}

fn not_gone(nodes: &[Node]) -> i64 {
    nodes.iter().filter(|node| node.machine != Machine::Gone).count() as i64
}

fn by_name(snapshot: &Snapshot) -> BTreeMap<&NodeName, &Node> {
    snapshot.nodes.iter().map(|node| (&node.name, node)).collect()
}

fn dropped(plan: &Plan) -> BTreeSet<(&NodeName, &RunId, i64)> {
    let drop = |action| match action {
        &Action::DropClaim { ref node, ref run, attempt, basis: _ } => Some((node, run, attempt)),
        _ => None,
    };
    plan.all_actions().filter_map(drop).collect()
}

/// As many nodes as the Cluster can have: those that are there, and those that the engine has.
fn within_reach(snapshot: &Snapshot) -> i64 {
    let stock = snapshot.policy.stock.as_ref().map(|stock| stock.free.max(0));
    stock.map_or(i64::MAX, |free| free + not_gone(&snapshot.nodes))
}

/// Nothing is asked for that the engine does not have.
pub fn requests_stay_within_the_stock(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let requests =
        plan.all_actions().filter(|action| matches!(action, Action::RequestNode { .. })).count() as i64;
    let free = snapshot.policy.stock.as_ref().map_or(i64::MAX, |stock| stock.free.max(0));
    require(requests <= free, || format!("{requests} requests, and {free} machines are free"))
}

/// Nothing is asked for beyond `maxNodes`, whatever else of the Cluster may still exist.
pub fn requests_stay_within_maximum(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let requests =
        plan.all_actions().filter(|action| matches!(action, Action::RequestNode { .. })).count() as i64;
    let (there, most) = (not_gone(&snapshot.nodes), maximum(snapshot));
    require(requests == 0 || there + requests <= most, || {
        format!("{there} nodes and {requests} requests, the maximum is {most}")
    })
}

/// The pool is at its minimum, or nothing can be asked for, or leaving nodes take the room. And nothing is given
/// back below it.
pub fn minimum_is_kept(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    if snapshot.lifetime != Lifetime::Wanted || snapshot.policy.hold == PoolHold::Freeze {
        return Ok(());
    }
    let minimum = snapshot.policy.min_nodes.min(snapshot.policy.max_nodes);
    let after = effect::apply(snapshot, plan, now);
    let serving = after.nodes.iter().filter(|node| serves(node)).count() as i64;
    let given_back = plan
        .all_actions()
        .any(|action| matches!(action, Action::Retire { reason, .. } if !reason.is_final()));
    let waits = snapshot.policy.growth_blocked.is_some()
        || plan.report.pool.backoff.iter().any(|entry| entry.until > now)
        || not_gone(&after.nodes) >= snapshot.policy.max_nodes.min(within_reach(snapshot));
    require(serving >= minimum || (waits && !given_back), || {
        format!("{serving} nodes serve or come, the minimum is {minimum}, given back: {given_back}")
    })
}

/// Nothing is asked for where a refusal is being waited out.
pub fn refusals_are_waited_out(_: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    for action in plan.all_actions() {
        let Action::RequestNode { ordinal, zone } = action else { continue };
        let refusal = plan
            .report
            .pool
            .backoff
            .iter()
            .find(|entry| entry.until > now && (entry.zone.is_none() || entry.zone == *zone));
        require(refusal.is_none(), || format!("node {ordinal} is asked for in spite of {refusal:?}"))?;
    }
    Ok(())
}

/// Every new node gets a number that no node ever had, and the highest is reported.
pub fn ordinals_only_grow(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let known =
        snapshot.nodes.iter().map(|node| node.ordinal).chain([snapshot.last_ordinal]).max().unwrap_or(0);
    let mut last = known;
    for action in plan.all_actions() {
        let Action::RequestNode { ordinal, .. } = action else { continue };
        require(*ordinal > last, || format!("node {ordinal} is asked for after {last}"))?;
        last = *ordinal;
    }
    let reported = plan.report.pool.last_ordinal;
    require(reported == last, || format!("the last ordinal is {last}, reported is {reported}"))
}

/// A node with a claim is not released, nor one that gets a claim.
pub fn claimed_nodes_are_not_released(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let before = by_name(snapshot);
    let after = effect::apply(snapshot, plan, now);
    let after = by_name(&after);
    for action in plan.all_actions() {
        let Action::Release { node } = action else { continue };
        let there =
            before.get(node).copied().ok_or_else(|| format!("{node} is released and does not exist"))?;
        require(!there.released, || format!("{node} is released twice"))?;
        let claims = after.get(node).map_or(0, |node| node.claims.len());
        require(claims == 0, || format!("{node} is released with {claims} claims"))?;
    }
    Ok(())
}

/// Only nodes that are marked as leaving are released.
pub fn only_what_leaves_is_released(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let mut marked = snapshot.clone();
    for action in plan.all_actions() {
        if let Action::Release { node } = action {
            let leaves = marked.nodes.iter().any(|other| other.name == *node && other.retired.is_some());
            require(leaves, || format!("{node} is released and was not retired"))?;
        }
        if matches!(action, Action::Retire { .. } | Action::Unretire { .. }) {
            effect::apply_action(&mut marked, action, now);
        }
    }
    Ok(())
}

/// A release that met a pod is not tried again before its time.
pub fn occupied_nodes_are_not_released(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let nodes = by_name(snapshot);
    for action in plan.all_actions() {
        let Action::Release { node } = action else { continue };
        let occupied = nodes.get(node).and_then(|node| node.occupied.as_ref());
        require(occupied.is_none_or(|occupied| occupied.until <= now), || {
            format!("{node} is released, and {occupied:?}")
        })?;
    }
    Ok(())
}

/// A node is forgotten when its machine is gone and no claim is left; a Cluster when no node is.
pub fn only_what_is_gone_is_forgotten(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let before = by_name(snapshot);
    let mut cleared = snapshot.clone();
    plan.actions.iter().for_each(|action| effect::apply_action(&mut cleared, action, now));
    for action in plan.all_actions() {
        match action {
            Action::Forget { node } => {
                let gone = before.get(node).is_some_and(|node| node.machine == Machine::Gone);
                require(gone, || format!("{node} is forgotten and its machine is not gone"))?;
                let free = cleared.nodes.iter().all(|other| other.name != *node || other.claims.is_empty());
                require(free, || format!("{node} is forgotten with claims"))?;
                cleared.nodes.retain(|other| other.name != *node);
            }
            Action::ReleaseFinalizer => {
                require(snapshot.lifetime == Lifetime::Deleting, || {
                    "the Cluster is not being deleted".into()
                })?;
                let left = cleared.nodes.len();
                require(left == 0, || format!("the Cluster is let go with {left} nodes left"))?;
            }
            _ => {}
        }
    }
    let in_actions = plan.actions.iter().any(|action| {
        matches!(action, Action::Forget { .. } | Action::ReleaseFinalizer | Action::RequestNode { .. })
    });
    require(!in_actions, || "something that must wait for the report does not".into())
}

/// What was lost or deleted is not called back; nothing is marked twice or without need. What was deleted by hand and waits for its
/// runs may still be removed from them.
pub fn final_marks_stay(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let nodes = by_name(snapshot);
    let mut marked = BTreeSet::new();
    for action in plan.all_actions() {
        let (Action::Retire { node: name, .. } | Action::Unretire { node: name }) = action else { continue };
        let node = nodes.get(name).ok_or_else(|| format!("{name} is marked and does not exist"))?;
        require(marked.insert(name), || format!("{name} is marked twice"))?;
        require(!node.released, || format!("{name} is marked and was released"))?;
        let is_removed =
            matches!(action, Action::Retire { reason: RetireReason::Removed | RetireReason::Preempted, .. });
        let is_final = node.retired.as_ref().is_some_and(|retired| {
            retired.reason.is_final() && !(is_removed && retired.reason == RetireReason::Deleted)
        });
        require(!is_final, || format!("the mark of {name} is final"))?;
        if let Action::Unretire { .. } = action {
            require(node.retired.is_some() && !node.deleted && node.failure.is_none(), || {
                format!("{name} is called back and cannot serve")
            })?;
        }
    }
    Ok(())
}

/// The claims of a live attempt on its own nodes stay.
pub fn live_claims_are_not_dropped(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let live: BTreeSet<_> = snapshot
        .active
        .iter()
        .flat_map(|run| run.nodes.iter().map(move |node| (node, &run.id, run.attempt)))
        .collect();
    match dropped(plan).intersection(&live).next() {
        Some((node, run, attempt)) => {
            Err(format!("the claim of {run} attempt {attempt} on {node} is dropped"))
        }
        None => Ok(()),
    }
}

/// A directive is final: it is given once, to an attempt that lives.
pub fn directives_are_given_once_to_live_attempts(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let open: BTreeSet<_> = snapshot
        .active
        .iter()
        .filter(|run| run.directive.is_none() && run.progress != Progress::Ended)
        .map(|run| (&run.id, run.attempt))
        .collect();
    let mut given = BTreeSet::new();
    for action in plan.all_actions() {
        let Action::Directive { run, attempt, .. } = action else { continue };
        require(open.contains(&(run, *attempt)), || format!("{run} attempt {attempt} takes no directive"))?;
        require(given.insert(run), || format!("{run} is given two directives"))?;
    }
    Ok(())
}

/// Nothing new begins in a Cluster that goes.
pub fn a_deleted_cluster_starts_nothing(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let begins = |action: &&Action| {
        matches!(action, Action::Allocate { .. } | Action::RequestNode { .. } | Action::Unretire { .. })
    };
    match plan.all_actions().find(begins) {
        Some(action) if snapshot.lifetime != Lifetime::Wanted => {
            Err(format!("{action:?} in a deleted Cluster"))
        }
        _ => Ok(()),
    }
}
