//! Pools of any size, for benchmarks.

use jiff::{SignedDuration, Timestamp};
use trainyard_planner::{
    ActiveRun, Capacity, Claim, Deallocation, EndedAttempt, GrowthBlock, Lifetime, Machine, Node, NodeName,
    Placement, Policy, PoolHold, Priority, Progress, QueuedRun, RequestedShare, RunId, Snapshot,
};

/// Where the pool stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Busy,
    Filling,
    Empty,
    Shared,
    /// Of each node's eight accelerators one to seven are in use, and of its cpu and memory about as much.
    Partly,
    /// The same, and hardly two runs ask for the same cpu and memory.
    Unlike,
    /// The same, and no node can be asked for before a person acts.
    Blocked,
    /// All nodes are there, and nobody has anything of them.
    Unused,
    /// Runs of parts, and no node yet.
    Awaited,
}

impl State {
    pub const ALL: [Self; 9] = [
        Self::Busy,
        Self::Filling,
        Self::Empty,
        Self::Shared,
        Self::Partly,
        Self::Unlike,
        Self::Blocked,
        Self::Unused,
        Self::Awaited,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Self::Busy => "all nodes busy",
            Self::Filling => "half of them just freed",
            Self::Empty => "no node yet",
            Self::Shared => "parts, all busy",
            Self::Partly => "parts, some of each free",
            Self::Unlike => "the same, sizes unlike",
            Self::Blocked => "the same, cannot grow",
            Self::Unused => "parts, all nodes free",
            Self::Awaited => "parts, no node yet",
        }
    }

    pub fn has_nodes(self) -> bool {
        !matches!(self, Self::Empty | Self::Awaited)
    }

    /// What the tenants of a node have of it.
    fn tenants(self, ordinal: i64) -> Vec<Capacity> {
        match self {
            Self::Busy => vec![gpus(8)],
            Self::Filling => vec![gpus(8); usize::from(ordinal % 2 == 0)],
            Self::Shared => vec![gpus(2); 4],
            Self::Partly | Self::Unlike | Self::Blocked => {
                let first = 1 + (ordinal * 31) % 4;
                let rest = (ordinal * 17) % 4;
                [first, rest]
                    .into_iter()
                    .filter(|count| *count > 0)
                    .map(|count| part(count, ordinal))
                    .collect()
            }
            Self::Unused | Self::Empty | Self::Awaited => Vec::new(),
        }
    }

    /// What a waiting run asks for.
    fn share(self, number: i64) -> RequestedShare {
        match self {
            Self::Shared => RequestedShare::Part(gpus(1 + number % 4)),
            // Powers of two and some without accelerators, of five sizes of cpu and memory each.
            Self::Partly | Self::Unused | Self::Awaited => {
                RequestedShare::Part(part([1, 2, 4, 8, 0][(number % 5) as usize], number % 25))
            }
            Self::Unlike | Self::Blocked => {
                RequestedShare::Part(part([1, 2, 4, 8, 0][(number % 5) as usize], number))
            }
            Self::Busy | Self::Filling | Self::Empty => RequestedShare::WholeNode,
        }
    }
}

/// So many accelerators, with cpu and memory of a size that depends on `kind`, up to what is there for each.
fn part(accelerators: i64, kind: i64) -> Capacity {
    let of_eight = accelerators.max(1);
    let percent = |factor: i64| 40 + (kind * factor) % 61;
    Capacity {
        cpu_millis: of_eight * 60 * percent(7_919),
        memory_bytes: (of_eight << 36) / 100 * percent(104_729),
        pods: 0,
        accelerators: (accelerators > 0)
            .then(|| ("nvidia.com/gpu".to_owned(), accelerators))
            .into_iter()
            .collect(),
    }
}

pub fn now() -> Timestamp {
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

pub fn snapshot(nodes: i64, queued: i64, state: State) -> Snapshot {
    let there = if state.has_nodes() { nodes } else { 0 };
    // Of every node so many runs at most, each with a number of its own.
    let claims = |ordinal: i64| {
        let claim = |(share, seat)| Claim { run: id("active", 4 * ordinal + seat), attempt: 1, share };
        state.tenants(ordinal).into_iter().zip(0..4).map(claim).collect::<Vec<_>>()
    };
    let is_free = |ordinal: &i64| state.tenants(*ordinal).is_empty();
    Snapshot {
        cluster: "team-0/pool".into(),
        policy: Policy {
            min_nodes: 0,
            max_nodes: nodes,
            idle_timeout: SignedDuration::from_mins(2),
            node_capacity: gpus(8),
            placement: Placement::Any,
            growth_blocked: (state == State::Blocked).then(|| GrowthBlock {
                code: "ProvisioningClassNotFound".into(),
                message: "make one".into(),
            }),
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
                claims: claims(ordinal),
                idle_since: None,
                retired: None,
                lent: false,
                released: false,
                deleted: false,
                occupied: None,
            })
            .collect(),
        queued: (0..queued).map(|number| waiting(number, state)).collect(),
        active: (1..=there)
            .flat_map(|ordinal| claims(ordinal).into_iter().map(move |claim| (claim.run, ordinal)))
            .map(|(id, ordinal)| ActiveRun {
                id,
                priority: Priority::Normal,
                created: Timestamp::UNIX_EPOCH,
                attempt: 1,
                nodes: vec![name(ordinal)],
                progress: Progress::Launched,
                directive: None,
                started: Some(Timestamp::UNIX_EPOCH + SignedDuration::from_mins(6)),
                limit: SignedDuration::from_hours(168),
                limit_by_user: false,
                whole: false,
            })
            .collect(),
        ended: (1..=there)
            .filter(is_free)
            .map(|ordinal| EndedAttempt { run: id("active", 4 * ordinal), attempt: 1 })
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
        share: state.share(number),
        user_limit: (number % 2 == 0).then(|| SignedDuration::from_hours(1 + number % 300)),
        gang_timeout: SignedDuration::from_mins(20),
        gang_since: None,
        hold: None,
        give_up_at: None,
        given_up: false,
        next_attempt: 1,
    }
}
