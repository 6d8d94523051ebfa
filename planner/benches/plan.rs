//! What one plan costs, from a small pool to a very large one. Prints; judges nothing.
//!
//! `cargo bench -p trainyard-planner`
#![allow(clippy::disallowed_methods, missing_docs)] // A benchmark reads the clock.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use trainyard_planner::{
    ActiveRun, Capacity, Claim, Deallocation, Lifetime, Machine, Node, NodeName, Placement, Policy, PoolHold,
    Priority, Progress, QueuedRun, RequestedShare, RunId, Snapshot, plan,
};

/// Enough rounds for a stable median in a few seconds.
const ROUNDS: usize = 30;

/// Pairs of nodes and waiting runs.
const SIZES: [(i64, i64); 4] = [(10, 100), (100, 1_000), (1_000, 10_000), (1_000, 50_000)];

fn main() {
    println!("{:>7} {:>8} {:<24} {:>10} {:>10} {:>10}", "nodes", "queued", "state", "min", "median", "max");
    for (nodes, queued) in SIZES {
        for state in [State::Busy, State::Filling, State::Shared, State::Empty] {
            let snapshot = snapshot(nodes, queued, state);
            let mut times: Vec<Duration> = (0..ROUNDS).map(|_| time(&snapshot)).collect();
            times.sort_unstable();
            let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
            println!(
                "{nodes:>7} {queued:>8} {:<24} {least:>10.1?} {median:>10.1?} {most:>10.1?}",
                state.words()
            );
        }
    }
}

/// Where the pool stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Busy,
    Filling,
    Shared,
    Empty,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Busy => "all nodes busy",
            Self::Filling => "half of them just freed",
            Self::Shared => "quarter nodes, all busy",
            Self::Empty => "no node yet",
        }
    }
}

fn time(snapshot: &Snapshot) -> Duration {
    let begin = Instant::now();
    let plan = plan(snapshot, now());
    let end = begin.elapsed();
    assert!(plan.report.pool.queued >= 0);
    end
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24)
}

fn gpus(count: i64) -> Capacity {
    Capacity {
        cpu_millis: count * 6_000,
        memory_bytes: count << 36,
        pods: 0,
        accelerators: [("nvidia.com/gpu".to_owned(), count)].into(),
    }
}

fn id(kind: &str, number: i64) -> RunId {
    RunId {
        namespace: format!("team-{}", number % 7),
        name: format!("{kind}-{number}"),
        uid: format!("6f1c3a7e-0000-4000-8000-{number:012}-{kind}"),
    }
}

fn name(ordinal: i64) -> NodeName {
    NodeName(format!("pool-a1b2c3-{ordinal}"))
}

fn snapshot(nodes: i64, queued: i64, state: State) -> Snapshot {
    let there = if state == State::Empty { 0 } else { nodes };
    let busy = |ordinal: i64| state != State::Filling || ordinal % 2 == 0;
    let share = if state == State::Shared { gpus(2) } else { gpus(8) };
    let tenants = |ordinal: i64| match state {
        State::Shared => 4 * ordinal..4 * ordinal + 4,
        _ => ordinal..ordinal + 1,
    };
    Snapshot {
        cluster: "team-0/pool".into(),
        policy: Policy {
            min_nodes: 0,
            max_nodes: nodes,
            idle_timeout: SignedDuration::from_mins(2),
            node_capacity: gpus(8),
            placement: Placement::Any,
            growth_blocked: None,
            max_limited: None,
            initial_nodes: 0,
            initial_last_ordinal: None,
            deallocation: Deallocation::default(),
            hold: PoolHold::default(),
            stock: None,
        },
        lifetime: Lifetime::Wanted,
        nodes: (1..=there)
            .map(|ordinal| Node {
                name: name(ordinal),
                ordinal,
                requested_at: Timestamp::UNIX_EPOCH,
                machine: Machine::Ready,
                failure: None,
                first_ready: Some(Timestamp::UNIX_EPOCH + SignedDuration::from_mins(5)),
                not_ready_since: None,
                zone: None,
                capacity: gpus(8),
                claims: tenants(ordinal)
                    .map(|run| Claim { run: id("active", run), attempt: 1, share: share.clone() })
                    .collect(),
                idle_since: None,
                retired: None,
                released: false,
                deleted: false,
                occupied: None,
            })
            .collect(),
        queued: (0..queued).map(|number| waiting(number, state)).collect(),
        active: (1..=there)
            .filter(|ordinal| busy(*ordinal))
            .flat_map(|at| tenants(at).map(move |run| (run, at)))
            .map(|(run, ordinal)| ActiveRun {
                id: id("active", run),
                priority: Priority::Normal,
                created: Timestamp::UNIX_EPOCH,
                attempt: 1,
                nodes: vec![name(ordinal)],
                progress: Progress::Launched,
                directive: None,
                started: Some(Timestamp::UNIX_EPOCH + SignedDuration::from_mins(6)),
                limit: SignedDuration::from_hours(168),
                limit_by_user: false,
            })
            .collect(),
        ended: (1..=there)
            .filter(|ordinal| !busy(*ordinal))
            .map(|ordinal| trainyard_planner::EndedAttempt { run: id("active", ordinal), attempt: 1 })
            .collect(),
        backoff: Vec::new(),
        last_ordinal: there,
        removals: Vec::new(),
        zone: None,
    }
}

/// Not sorted by time, of three priorities, every third a gang, every other with a limit of its own.
fn waiting(number: i64, state: State) -> QueuedRun {
    let shuffled = (number * 7_919) % 50_021;
    QueuedRun {
        id: id("queued", number),
        priority: [Priority::Normal, Priority::Normal, Priority::Low, Priority::High][(number % 4) as usize],
        created: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(shuffled),
        node_count: 1 + (number % 3) * 3,
        share: match state {
            State::Shared => RequestedShare::Part(gpus(1 + number % 4)),
            State::Busy | State::Filling | State::Empty => RequestedShare::WholeNode,
        },
        user_limit: (number % 2 == 0).then(|| SignedDuration::from_hours(1 + number % 300)),
        gang_timeout: SignedDuration::from_mins(20),
        gang_since: None,
        hold: None,
        give_up_at: None,
        given_up: false,
        next_attempt: 1,
    }
}
