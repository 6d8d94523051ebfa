//! Snapshots that no history has to explain: every combination of states a stale or half-written world could show.
#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use trainyard_planner::{
    ActiveRun, Backoff, Capacity, Claim, Deallocation, DirectiveKind, DirectiveReason, EndedAttempt, Failure,
    FailureCause, GivenDirective, GrowthBlock, Hold, HoldReason, Lifetime, Machine, Node, NodeName, Occupied,
    Placement, Policy, PoolHold, Priority, Progress, QueuedRun, Removal, RemovalKind, RequestedShare,
    RetireReason, Retired, RunId, Snapshot, Stock, Zone,
};

use crate::fixture::{at, gpus, run_id, whole};

/// The time at which arbitrary snapshots are planned; everything in them is before it, or a little after.
pub fn now() -> Timestamp {
    at("12:00")
}

fn past() -> impl Strategy<Value = Timestamp> {
    // Whole minutes, so that instants coincide often.
    (0i64..60).prop_map(|ago| now() - SignedDuration::from_mins(ago))
}

fn soon() -> impl Strategy<Value = Timestamp> {
    (-30i64..90).prop_map(|ahead| now() + SignedDuration::from_mins(ahead))
}

fn cause() -> impl Strategy<Value = FailureCause> {
    prop_oneof![
        3 => Just(FailureCause::StockOut),
        1 => Just(FailureCause::Quota),
        1 => Just(FailureCause::Rejected),
        1 => Just(FailureCause::Timeout),
        1 => Just(FailureCause::Unusable),
        1 => Just(FailureCause::Preempted),
        2 => Just(FailureCause::Lost),
    ]
}

fn zone() -> impl Strategy<Value = Zone> {
    prop_oneof![Just(Zone("a".into())), Just(Zone("b".into()))]
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![1 => Just(Priority::Low), 4 => Just(Priority::Normal), 1 => Just(Priority::High)]
}

fn machine() -> impl Strategy<Value = Machine> {
    prop_oneof![
        6 => Just(Machine::Ready),
        3 => Just(Machine::Coming),
        1 => Just(Machine::NotReady),
        1 => Just(Machine::Failed),
        1 => Just(Machine::Gone),
    ]
}

fn retired() -> impl Strategy<Value = Option<Retired>> {
    let reason = prop_oneof![
        Just(RetireReason::Idle),
        Just(RetireReason::ScaleDown),
        Just(RetireReason::NotNeeded),
        Just(RetireReason::Deleted),
        Just(RetireReason::Lost),
    ];
    prop_oneof![4 => Just(None), 1 => (past(), reason).prop_map(|(at, reason)| Some(Retired { at, reason }))]
}

fn node() -> impl Strategy<Value = Node> {
    let silent = 0i64..300;
    let looks =
        (machine(), past(), 0i64..10, silent, prop::option::of(past()), prop::option::weighted(0.1, cause()));
    let occupied = prop::option::weighted(
        0.1,
        soon().prop_map(|until| Occupied { pod: "team/left-over".into(), until }),
    );
    let marks =
        (retired(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::option::of(zone()), occupied);
    (looks, marks).prop_map(
        move |(
            (machine, requested_at, boot, silent, idle_since, cause),
            (retired, released, deleted, zone, occupied),
        )| {
            let came = !matches!(machine, Machine::Coming) && cause != Some(FailureCause::StockOut);
            let ready = (requested_at + SignedDuration::from_mins(boot)).min(now());
            let broken =
                matches!(machine, Machine::Failed | Machine::Gone) || cause == Some(FailureCause::Lost);
            Node {
                name: NodeName(String::new()),
                ordinal: 0,
                requested_at,
                machine,
                failure: cause.filter(|_| broken).map(|cause| Failure {
                    cause,
                    at: ready,
                    message: "no".into(),
                }),
                first_ready: came.then_some(ready),
                not_ready_since: (machine == Machine::NotReady)
                    .then(|| now() - SignedDuration::from_secs(silent)),
                zone,
                capacity: whole(),
                claims: Vec::new(),
                idle_since,
                lent: false,
                released: released && retired.is_some(),
                retired,
                deleted,
                occupied,
            }
        },
    )
}

fn queued(shared: bool) -> impl Strategy<Value = QueuedRun> {
    let share = if shared {
        prop_oneof![
            2 => Just(RequestedShare::WholeNode),
            1 => Just(RequestedShare::Part(gpus(1))),
            1 => Just(RequestedShare::Part(gpus(2))),
            1 => Just(RequestedShare::Part(gpus(8))),
        ]
        .boxed()
    } else {
        Just(RequestedShare::WholeNode).boxed()
    };
    let wants = (priority(), past(), 1i64..6, share, prop::option::weighted(0.4, 1i64..120));
    let holds =
        (prop::option::weighted(0.3, past()), prop::option::weighted(0.2, (soon(), 1i64..4)), 1i64..3);
    let deadlines = (prop::option::weighted(0.3, soon()), prop::bool::weighted(0.1));
    (wants, holds, deadlines).prop_map(
        move |(
            (priority, created, node_count, share, limit),
            (gang_since, hold, next_attempt),
            (give_up_at, given_up),
        )| QueuedRun {
            id: run_id(""),
            priority,
            created,
            node_count,
            share,
            user_limit: limit.map(SignedDuration::from_mins),
            gang_timeout: SignedDuration::from_mins(20),
            gang_since,
            hold: hold.map(|(until, count)| Hold { until, count, reason: HoldReason::CapacityHold }),
            give_up_at,
            given_up,
            next_attempt,
        },
    )
}

/// How an active run looks, apart from where it is.
#[derive(Clone, Debug)]
struct Life {
    size: usize,
    first: usize,
    progress: Progress,
    started: Option<Timestamp>,
    limit: i64,
    limit_by_user: bool,
    told: bool,
    claims_missing: bool,
}

fn life() -> impl Strategy<Value = Life> {
    let progress = prop_oneof![
        1 => Just(Progress::Allocated),
        4 => Just(Progress::Launched),
        1 => Just(Progress::Ended),
    ];
    (1usize..4, 0usize..8, progress, prop::option::of(past()), 1i64..200, any::<bool>(), 0u8..10).prop_map(
        |(size, first, progress, started, limit, limit_by_user, odd)| Life {
            size,
            first,
            progress,
            started: started.filter(|_| progress != Progress::Allocated),
            limit,
            limit_by_user,
            told: odd == 0,
            claims_missing: odd == 1,
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let idle = prop_oneof![Just(0i64), Just(2), Just(10)];
    let deallocation = prop_oneof![
        3 => Just(Deallocation::WaitForRunCompletion),
        1 => Just(Deallocation::Requeue),
        1 => Just(Deallocation::Terminate),
    ];
    let hold = prop_oneof![
        8 => Just(PoolHold::None),
        1 => Just(PoolHold::NoNewRuns),
        1 => Just(PoolHold::Freeze),
    ];
    let initial = prop_oneof![4 => Just(0i64), 1 => 1i64..5];
    let stock = prop::option::weighted(0.3, 0i64..4);
    let asked = (deallocation, hold, initial, stock);
    (0i64..4, 0i64..9, idle, prop::bool::weighted(0.1), any::<bool>(), asked).prop_map(
        |(min, max, idle, blocked, zones, (deallocation, hold, initial_nodes, stock))| Policy {
            initial_nodes,
            initial_last_ordinal: (max == min).then_some(2),
            deallocation,
            hold,
            min_nodes: if max % 3 == 0 { min } else { min.min(max) },
            max_nodes: max,
            idle_timeout: SignedDuration::from_mins(idle),
            node_capacity: whole(),
            placement: if zones {
                Placement::SameZone(vec![Zone("a".into()), Zone("b".into())])
            } else {
                Placement::Any
            },
            growth_blocked: blocked
                .then(|| GrowthBlock { code: "ClassNotFound".into(), message: "make one".into() }),
            // A class may grant less than the minimum that its user wrote.
            max_limited: (max % 3 == 0)
                .then(|| GrowthBlock { code: "NodeLimitReached".into(), message: "ask for more".into() }),
            stock: stock.map(|free| Stock { free, message: "none is like another".into() }),
        },
    )
}

fn backoff() -> impl Strategy<Value = Vec<Backoff>> {
    let entry = (cause(), prop::option::of(zone()), 1i64..5, soon())
        .prop_map(|(cause, zone, count, until)| Backoff { cause, zone, count, until, message: "no".into() });
    prop::collection::btree_map(0u8..3, entry, 0..2).prop_map(|entries| entries.into_values().collect())
}

/// Anything, with at most 8 nodes and 8 waiting runs. `shared`: some runs take parts of nodes.
pub fn snapshot(shared: bool) -> impl Strategy<Value = Snapshot> {
    let nodes = prop::collection::vec(node(), 0..9);
    let runs = prop::collection::vec(queued(shared), 0..8);
    let lives = prop::collection::vec(life(), 0..4);
    let lifetime =
        prop_oneof![12 => Just(Lifetime::Wanted), 1 => Just(Lifetime::Deleting), 1 => Just(Lifetime::Gone)];
    let stray = prop::collection::vec((0usize..8, 0u8..4, 1i64..4), 0..3);
    (policy(), nodes, runs, lives, lifetime, backoff(), stray).prop_map(
        |(policy, mut nodes, mut queued, lives, lifetime, backoff, stray)| {
            for (ordinal, node) in (1..).zip(&mut nodes) {
                (node.ordinal, node.name) = (ordinal, NodeName(format!("n-{ordinal}")));
                node.lent = policy.stock.is_some();
            }
            for (number, run) in queued.iter_mut().enumerate() {
                run.id = run_id(&format!("q{number}"));
            }
            let same_zone = matches!(policy.placement, Placement::SameZone(_));
            let mut snapshot = Snapshot {
                cluster: "team/pool".into(),
                policy,
                lifetime,
                last_ordinal: nodes.len() as i64,
                removals: removals(&nodes),
                zone: (same_zone && !nodes.is_empty()).then(|| Zone("a".into())),
                nodes,
                queued,
                active: Vec::new(),
                ended: Vec::new(),
                backoff,
            };
            lives.iter().enumerate().for_each(|(number, life)| settle(&mut snapshot, number, life));
            for (node, kind, attempt) in stray {
                stray_claim(&mut snapshot, node, kind, attempt);
            }
            snapshot
        },
    )
}

/// Somebody wants a node gone, in some of the worlds.
fn removals(nodes: &[Node]) -> Vec<Removal> {
    let kind = match nodes.len() {
        3 => RemovalKind::Remove,
        5 => RemovalKind::RehearsePreemption,
        _ => return Vec::new(),
    };
    vec![Removal { node: nodes[0].name.clone(), kind }]
}

/// Puts an active run on nodes that nobody has.
fn settle(snapshot: &mut Snapshot, number: usize, life: &Life) {
    let count = snapshot.nodes.len();
    let free: Vec<usize> = (0..count)
        .map(|step| (life.first + step) % count)
        .filter(|at| snapshot.nodes[*at].claims.is_empty() && snapshot.nodes[*at].first_ready.is_some())
        .filter(|at| !snapshot.nodes[*at].released)
        .filter(|at| !snapshot.active.iter().any(|run| run.nodes.contains(&snapshot.nodes[*at].name)))
        .take(life.size)
        .collect();
    if free.len() < life.size {
        return;
    }
    let id = run_id(&format!("a{number}"));
    for at in &free {
        let node = &mut snapshot.nodes[*at];
        node.idle_since = None;
        if !life.claims_missing {
            node.claims.push(Claim { run: id.clone(), attempt: 1, share: whole() });
        }
    }
    let directive = GivenDirective { kind: DirectiveKind::Requeue, reason: DirectiveReason::NodeLost };
    snapshot.active.push(ActiveRun {
        id,
        priority: Priority::Normal,
        created: now(),
        attempt: 1,
        nodes: free.iter().map(|at| snapshot.nodes[*at].name.clone()).collect(),
        progress: life.progress,
        directive: life.told.then_some(directive),
        started: life.started,
        limit: SignedDuration::from_mins(life.limit),
        limit_by_user: life.limit_by_user,
        whole: true,
    });
}

/// A claim that no live attempt explains: of a run that ended, that is queued again, that was never allocated, or that nobody knows.
fn stray_claim(snapshot: &mut Snapshot, node: usize, kind: u8, attempt: i64) {
    let queued = snapshot.queued.first().map(|run| run.id.clone());
    let Some(node) = snapshot.nodes.get_mut(node).filter(|node| node.claims.is_empty() && !node.released)
    else {
        return;
    };
    let run: RunId = match kind {
        0 | 1 => queued.unwrap_or_else(|| run_id("unknown")),
        2 => run_id("finished"),
        _ => run_id("unknown"),
    };
    if kind == 2 {
        snapshot.ended.push(EndedAttempt { run: run.clone(), attempt });
    }
    let share: Capacity = whole();
    node.claims.push(Claim { run, attempt, share });
}
