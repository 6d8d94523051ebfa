//! What a snapshot is like once a plan has been carried out faithfully.
//!
//! For tests and simulations: nothing fails, nobody interferes, no machine moves. It shares no code with the steps that
//! make a plan, so that it can be used to judge them.

use jiff::{SignedDuration, Timestamp};

use crate::action::{Action, Plan};
use crate::identity::{NodeName, RunId};
use crate::snapshot::{
    ActiveRun, Claim, GivenDirective, Lifetime, Machine, Node, Progress, QueuedRun, RequestedShare, Retired,
    Snapshot,
};

/// The limit that a started run without one is given here.
const DEFAULT_LIMIT: SignedDuration = SignedDuration::from_hours(168);

/// `snapshot` after every action of `plan` at `now`, with its report stored.
#[must_use]
pub fn apply(snapshot: &Snapshot, plan: &Plan, now: Timestamp) -> Snapshot {
    let mut next = snapshot.clone();
    for action in &plan.actions {
        apply_action(&mut next, action, now);
    }
    store_report(&mut next, plan);
    for action in &plan.afterwards {
        apply_action(&mut next, action, now);
    }
    next
}

/// Writes what a report asks to be stored.
pub fn store_report(snapshot: &mut Snapshot, plan: &Plan) {
    let pool = &plan.report.pool;
    snapshot.backoff.clone_from(&pool.backoff);
    snapshot.last_ordinal = pool.last_ordinal;
    snapshot.zone.clone_from(&pool.zone);
    snapshot.policy.initial_last_ordinal = pool.initial_last_ordinal;
    let mut reports: Vec<_> = plan.report.runs.iter().collect();
    reports.sort_unstable_by(|one, other| one.run.uid.cmp(&other.run.uid));
    for run in &mut snapshot.queued {
        if let Ok(found) = reports.binary_search_by(|report| report.run.uid.cmp(&run.id.uid)) {
            run.gang_since = reports[found].gang_since;
            run.hold.clone_from(&reports[found].hold);
        }
    }
}

/// `snapshot` after one action at `now`. An action on something that is not there does nothing.
pub fn apply_action(snapshot: &mut Snapshot, action: &Action, now: Timestamp) {
    match action {
        Action::RequestNode { ordinal, zone } => {
            if let Some(stock) = &mut snapshot.policy.stock {
                stock.free -= 1;
            }
            snapshot.nodes.push(Node {
                name: NodeName(format!("n-{ordinal}")),
                ordinal: *ordinal,
                requested_at: now,
                machine: Machine::Coming,
                failure: None,
                first_ready: None,
                not_ready_since: None,
                zone: zone.clone(),
                capacity: snapshot.policy.node_capacity.clone(),
                claims: Vec::new(),
                idle_since: None,
                retired: None,
                lent: snapshot.policy.stock.is_some(),
                released: false,
                deleted: false,
                occupied: None,
            });
        }
        Action::Allocate { run, attempt, nodes, shares } => {
            for (name, share) in nodes.iter().zip(shares) {
                let claim = Claim { run: run.clone(), attempt: *attempt, share: share.clone() };
                change_node(snapshot, name, |node| {
                    node.idle_since = None;
                    if !node.claims.contains(&claim) {
                        node.claims.push(claim);
                    }
                });
            }
            start(snapshot, run, *attempt, nodes);
        }
        Action::DropClaim { node, run, attempt, basis: _ } => change_node(snapshot, node, |node| {
            node.claims.retain(|claim| claim.run.uid != run.uid || claim.attempt != *attempt);
            if node.claims.is_empty() {
                node.idle_since = Some(now);
            }
        }),
        Action::Retire { node, reason } => change_node(snapshot, node, |node| {
            node.retired = Some(Retired { at: now, reason: *reason });
        }),
        Action::Unretire { node } => change_node(snapshot, node, |node| node.retired = None),
        Action::Release { node } => change_node(snapshot, node, |node| node.released = true),
        Action::Forget { node } => snapshot.nodes.retain(|other| other.name != *node),
        Action::Directive { run, attempt, kind, reason, culprit: _ } => {
            let directive = GivenDirective { kind: *kind, reason: *reason };
            let told =
                snapshot.active.iter_mut().find(|active| active.id == *run && active.attempt == *attempt);
            if let Some(active) = told {
                active.directive.get_or_insert(directive);
            }
        }
        Action::Hold { run, hold } => {
            if let Some(queued) = snapshot.queued.iter_mut().find(|queued| queued.id == *run) {
                queued.hold = Some(hold.clone());
            }
        }
        Action::GiveUp { run } => {
            if let Some(queued) = snapshot.queued.iter_mut().find(|queued| queued.id == *run) {
                queued.given_up = true;
            }
        }
        Action::ReleaseFinalizer => snapshot.lifetime = Lifetime::Gone,
    }
}

fn change_node(snapshot: &mut Snapshot, name: &NodeName, change: impl FnOnce(&mut Node)) {
    if let Some(node) = snapshot.nodes.iter_mut().find(|node| node.name == *name) {
        change(node);
    }
}

fn start(snapshot: &mut Snapshot, run: &RunId, attempt: i64, nodes: &[NodeName]) {
    let Some(at) = snapshot.queued.iter().position(|queued| queued.id == *run) else { return };
    let QueuedRun { id, priority, created, user_limit, share, .. } = snapshot.queued.remove(at);
    snapshot.active.push(ActiveRun {
        id,
        priority,
        created,
        attempt,
        nodes: nodes.to_vec(),
        progress: Progress::Allocated,
        directive: None,
        started: None,
        limit: user_limit.unwrap_or(DEFAULT_LIMIT),
        limit_by_user: user_limit.is_some(),
        whole: share == RequestedShare::WholeNode,
    });
}
