//! Promises to runs: whole gangs, enough capacity, fair order, a reason for every wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Verdict, require, serves};
use crate::action::{Action, Plan};
use crate::capacity::Capacity;
use crate::effect;
use crate::identity::{NodeName, RunId};
use crate::report::{RunReport, WaitReason};
use crate::snapshot::{Lifetime, Machine, Node, Progress, QueuedRun, RequestedShare, Snapshot};

fn allocations(plan: &Plan) -> impl Iterator<Item = (&RunId, i64, &[NodeName], &[Capacity])> {
    plan.all_actions().filter_map(|action| match action {
        Action::Allocate { run, attempt, nodes, shares } => {
            Some((run, *attempt, nodes.as_slice(), shares.as_slice()))
        }
        _ => None,
    })
}

fn queued(snapshot: &Snapshot) -> BTreeMap<&RunId, &QueuedRun> {
    snapshot.queued.iter().map(|run| (&run.id, run)).collect()
}

fn place(run: &QueuedRun) -> (Reverse<crate::Priority>, Timestamp, &RunId) {
    (Reverse(run.priority), run.created, &run.id)
}

/// A run gets all of its nodes or none, once, as the attempt that is next, and not while it is held: where machines are
/// counted, it starts whenever all of them are there.
pub fn gangs_start_whole(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let runs = queued(snapshot);
    let mut started = BTreeSet::new();
    for (run, attempt, nodes, shares) in allocations(plan) {
        let asked = runs.get(run).ok_or_else(|| format!("{run} starts and is not queued"))?;
        require(started.insert(run), || format!("{run} starts twice"))?;
        require(attempt == asked.next_attempt, || format!("{run} starts attempt {attempt}"))?;
        let distinct: BTreeSet<_> = nodes.iter().collect();
        let whole = distinct.len() as i64 == asked.node_count && nodes.len() == distinct.len();
        require(whole && shares.len() == nodes.len(), || {
            format!("{run} wants {} nodes and gets {nodes:?} with {} shares", asked.node_count, shares.len())
        })?;
        let is_counted = snapshot.policy.stock.is_some();
        require(is_counted || asked.hold.as_ref().is_none_or(|hold| hold.until <= now), || {
            format!("{run} is held and starts")
        })?;
        if let RequestedShare::Part(share) = &asked.share {
            require(shares.iter().all(|given| given == share), || format!("{run} gets {shares:?}"))?;
        }
    }
    Ok(())
}

/// A run is given up when its deadline has passed, once, and neither before nor without one. A run that is given up does
/// not start.
pub fn deadlines_are_kept(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let is_over = |run: &QueuedRun| run.given_up || run.give_up_at.is_some_and(|deadline| deadline <= now);
    let expected: BTreeSet<_> =
        snapshot.queued.iter().filter(|run| is_over(run) && !run.given_up).map(|run| &run.id).collect();
    let mut given_up = BTreeSet::new();
    for action in plan.all_actions() {
        let Action::GiveUp { run } = action else { continue };
        require(given_up.insert(run), || format!("{run} is given up twice"))?;
    }
    require(given_up == expected, || format!("{given_up:?} are given up, and not {expected:?}"))?;
    let runs = queued(snapshot);
    for (run, ..) in allocations(plan) {
        let over = runs.get(run).is_some_and(|run| is_over(run));
        require(!over, || format!("{run} starts after its deadline"))?;
    }
    Ok(())
}

/// Work starts only where a machine is ready and stays.
pub fn runs_start_on_usable_nodes_only(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let mut nodes: BTreeMap<_, _> = snapshot.nodes.iter().map(|node| (&node.name, node.clone())).collect();
    for action in plan.all_actions() {
        match action {
            Action::Unretire { node } => {
                if let Some(node) = nodes.get_mut(node) {
                    node.retired = None;
                }
            }
            Action::Allocate { run, nodes: chosen, .. } => {
                for name in chosen {
                    let node = nodes.get(name);
                    let usable = node.is_some_and(|node| {
                        serves(node)
                            && node.machine == Machine::Ready
                            && !node.deleted
                            && node.failure.is_none()
                    });
                    require(usable, || format!("{run} starts on {name}, which is {node:?}"))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The claims on a node are never more than it has, and a whole node has one tenant. What was so before is not judged.
pub fn capacity_is_not_exceeded(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let runs = queued(snapshot);
    let after = effect::apply(snapshot, plan, now);
    let after: BTreeMap<_, _> = after.nodes.iter().map(|node| (&node.name, node)).collect();
    for (run, _, nodes, _) in allocations(plan) {
        for name in nodes {
            let node = after.get(name).ok_or_else(|| format!("{name} is allocated and does not exist"))?;
            let taken = node.claims.iter().fold(Capacity::default(), |sum, claim| sum.plus(&claim.share));
            require(node.capacity.holds(&taken), || {
                format!("{name} has {} and {taken} is claimed", node.capacity)
            })?;
            let whole = runs.get(run).is_some_and(|run| run.share == RequestedShare::WholeNode);
            require(!whole || node.claims.len() == 1, || format!("{run} does not have {name} alone"))?;
            let alone = snapshot.active.iter().find(|active| active.whole && active.nodes.contains(name));
            let still_there =
                alone.is_some_and(|active| node.claims.iter().any(|claim| claim.run == active.id));
            require(!still_there || node.claims.len() == 1, || {
                format!("{run} joins a run on {name} that has it alone")
            })?;
            let launched = snapshot
                .active
                .iter()
                .find(|active| active.progress == Progress::Launched && active.nodes.contains(name));
            let shares_it = launched.is_some_and(|active| {
                node.claims.iter().any(|claim| claim.run == active.id && claim.attempt == active.attempt)
            });
            require(launched.is_none() || shares_it, || {
                format!("{run} starts under a launched attempt on {name}")
            })?;
        }
    }
    Ok(())
}

/// The first run that waits and may start at all would not fit on the idle nodes the plan leaves. (Whole nodes only.)
pub fn first_waiting_run_could_not_start(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let after = effect::apply(snapshot, plan, now);
    let passed_over = [
        WaitReason::CapacityHold,
        WaitReason::ExceedsMaxNodes,
        WaitReason::ExceedsNodeSize,
        WaitReason::GrowthBlocked,
        WaitReason::ClusterOnHold,
        WaitReason::NoFreeMachines,
        WaitReason::ClusterDeleting,
        WaitReason::QueueDeadline,
    ];
    let Some(first) = plan.report.runs.iter().find(|run| !passed_over.contains(&run.reason())) else {
        return Ok(());
    };
    let runs = queued(snapshot);
    let run = runs.get(&first.run).ok_or_else(|| format!("{} waits and is not queued", first.run))?;
    if run.share != RequestedShare::WholeNode {
        return Ok(());
    }
    let occupied: BTreeSet<_> = after
        .active
        .iter()
        .filter(|active| active.progress > Progress::Allocated)
        .flat_map(|active| &active.nodes)
        .collect();
    let idle = after
        .nodes
        .iter()
        .filter(|node| serves(node) && node.machine == Machine::Ready && node.claims.is_empty())
        .filter(|node| !occupied.contains(&node.name))
        .count() as i64;
    require(idle < run.node_count, || {
        format!(
            "{} waits for {} nodes while {idle} are idle ({})",
            first.run,
            run.node_count,
            first.message()
        )
    })
}

/// No run that starts in this plan makes the run that waits for busy nodes wait longer than it would without. (Judged
/// where all runs take whole nodes, by counting the nodes that are free at each time.)
pub fn reservation_is_not_delayed(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    let runs = queued(snapshot);
    let shared = snapshot.queued.iter().any(|run| run.share != RequestedShare::WholeNode);
    let Some(head) = plan.report.runs.iter().find(|run| run.reason() == WaitReason::NodesBusy) else {
        return Ok(());
    };
    let Some(head) = runs.get(&head.run).filter(|_| !shared) else { return Ok(()) };
    // When each node is free, if no run behind the head started, and what those that did make of it.
    let ends: BTreeMap<_, _> = snapshot
        .active
        .iter()
        .map(|run| (&run.id, run.started.and_then(|started| started.checked_add(run.limit).ok())))
        .collect();
    let mut cleared = snapshot.clone();
    plan.actions
        .iter()
        .filter(|action| !matches!(action, Action::Allocate { .. } | Action::Directive { .. }))
        .for_each(|action| effect::apply_action(&mut cleared, action, now));
    let mut free_at: BTreeMap<&NodeName, Option<Timestamp>> = cleared
        .nodes
        .iter()
        .filter(|node| node.machine != Machine::Gone)
        .map(|node| {
            // A launched attempt is there, whether or not its claim is to be seen.
            let launched = snapshot
                .active
                .iter()
                .filter(|run| run.progress > Progress::Allocated && run.nodes.contains(&node.name));
            let tenants = node.claims.iter().map(|claim| &claim.run).chain(launched.map(|run| &run.id));
            let last = tenants.map(|run| ends.get(run).copied().flatten());
            // `None` is "never known": it is later than any time.
            let free = last.into_iter().try_fold(now, |latest, end| Some(latest.max(end?)));
            (&node.name, free.filter(|_| !is_given_up(node, now) && !cannot_be_replaced(snapshot, node)))
        })
        .collect();
    let mut behind = Vec::new();
    for (run, _, nodes, _) in allocations(plan) {
        let run = runs.get(run).ok_or_else(|| format!("{run} starts and is not queued"))?;
        if place(run) < place(head) {
            free_at.extend(nodes.iter().map(|name| (name, None)));
        } else {
            behind.push((run.user_limit.and_then(|limit| now.checked_add(limit).ok()), nodes));
        }
    }
    // Runs before the head that wait for machines take idle ones away from it.
    let promised: i64 = plan
        .report
        .runs
        .iter()
        .filter_map(|report| Some((runs.get(&report.run)?, report.reason() == WaitReason::CapacityHold)))
        .filter(|(run, _)| place(run) < place(head))
        .filter(|(run, is_held)| !is_held || run.hold.as_ref().is_none_or(|hold| hold.until <= now))
        .map(|(run, _)| run.node_count)
        .sum();
    // What leaves is replaced, but only within the maximum.
    let free = |free_at: &BTreeMap<&NodeName, Option<Timestamp>>, time: Timestamp| {
        let free = free_at.values().filter(|at| at.is_some_and(|at| at <= time)).count() as i64;
        let busy = free_at.len() as i64 - free;
        free.min(snapshot.policy.max_nodes - busy) - promised
    };
    let without = free_at.clone();
    for (end, nodes) in &behind {
        free_at.extend(nodes.iter().map(|name| (name, *end)));
    }
    let times: BTreeSet<_> = without.values().flatten().copied().collect();
    for time in times {
        if free(&without, time) >= head.node_count {
            let left = free(&free_at, time);
            return require(left >= head.node_count, || {
                format!("{} would have its {} nodes at {time}, and now has {left}", head.id, head.node_count)
            });
        }
    }
    Ok(())
}

/// It leaves or is broken, and nothing comes instead: nothing can be asked for, or it was found, is lost, and keeps its place
/// until it is back.
fn cannot_be_replaced(snapshot: &Snapshot, node: &Node) -> bool {
    !serves(node) && (snapshot.policy.growth_blocked.is_some() || node.may_come_back())
}

/// Not ready, and for too long to be expected back.
fn is_given_up(node: &Node, now: Timestamp) -> bool {
    let trusted = node.not_ready_since.and_then(|since| since.checked_add(SignedDuration::from_mins(2)).ok());
    node.machine == Machine::NotReady && trusted.is_none_or(|until| until <= now)
}

/// Each run that still waits is reported, in order, with a reason and a sentence.
pub fn every_wait_has_a_reason(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let started: BTreeSet<_> = allocations(plan).map(|(run, ..)| run).collect();
    let mut waiting: Vec<_> = snapshot.queued.iter().filter(|run| !started.contains(&run.id)).collect();
    waiting.sort_by_key(|run| place(run));
    let reports = &plan.report.runs;
    require(reports.len() == waiting.len(), || {
        format!("{} wait, {} are reported", waiting.len(), reports.len())
    })?;
    for (ahead, (run, report)) in waiting.iter().zip(reports).enumerate() {
        let RunReport { run: reported, position, .. } = report;
        require(*reported == run.id && *position == ahead as i64 + 1, || {
            format!("{} is reported as {reported} at {position}", run.id)
        })?;
    }
    let deleting = snapshot.lifetime != Lifetime::Wanted;
    let last_words = [WaitReason::ClusterDeleting, WaitReason::QueueDeadline];
    require(!deleting || reports.iter().all(|run| last_words.contains(&run.reason())), || {
        "a run waits for something else than the deletion".into()
    })
}

/// Each node is reported, in order of ordinal.
pub fn every_node_has_a_reason(snapshot: &Snapshot, _: Timestamp, plan: &Plan) -> Verdict {
    let mut nodes: Vec<_> = snapshot.nodes.iter().map(|node| (node.ordinal, &node.name)).collect();
    nodes.sort_unstable();
    let expected: Vec<_> = nodes.into_iter().map(|(_, name)| name).collect();
    let reported: Vec<_> = plan.report.nodes.iter().map(|report| &report.node).collect();
    require(expected == reported && plan.report.nodes.iter().all(|report| !report.message.is_empty()), || {
        format!("expected {expected:?}, reported {reported:?}")
    })
}

/// A plan never asks to be made again at once.
pub fn wake_is_ahead(_: &Snapshot, now: Timestamp, plan: &Plan) -> Verdict {
    require(plan.wake_at.is_none_or(|wake| wake > now), || {
        format!("wake at {:?}, and it is {now}", plan.wake_at)
    })
}
