//! Worlds small enough to try everything: at most a handful of nodes and runs, amounts in accelerators, times in minutes.
//!
//! Said in words of their own, so that [`reference`] cannot lean on anything of the planner; [`World::snapshot`] says the same
//! to the planner.
#![allow(clippy::unwrap_used)]

pub mod reference;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use trainyard_planner::{
    ActiveRun, Claim, FailureCause, Priority, Progress, RetireReason, Retired, Snapshot,
};

use crate::fixture::{at, cluster, gpus, minutes, run_id};

/// What a node has by its size.
pub const SIZE: i64 = 4;

/// The limit of a run whose user wrote none: a week.
pub const DEFAULT_LIMIT: i64 = 7 * 24 * 60;

/// One pool and its queue.
#[derive(Clone)]
pub struct World {
    pub min: i64,
    pub max: i64,
    pub nodes: Vec<Node>,
    pub queue: Vec<Run>,
}

/// One machine, with what it has for runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub size: i64,
    pub standing: Standing,
    pub tenants: Vec<Tenant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Ready,
    /// Booting.
    Coming,
    /// It was ready and is not, since a moment ago.
    Silent,
    /// Its machine is being destroyed.
    Leaving,
    /// It came and cannot be used.
    Unusable,
}

/// One running run's part of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub share: i64,
    /// It must end within so many minutes: its user wrote that. Without, it has the default limit.
    pub promise: Option<i64>,
}

/// One waiting run. Its place in the queue is its place in the list, within its priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub nodes: i64,
    /// Of each node; nothing means the whole of it, however large.
    pub share: Option<i64>,
    /// In minutes, as its user wrote it.
    pub limit: Option<i64>,
    pub priority: Priority,
    /// It stands aside for the moment.
    pub held: bool,
}

pub fn now() -> Timestamp {
    at("12:00")
}

pub fn node(standing: Standing) -> Node {
    Node { size: SIZE, standing, tenants: Vec::new() }
}

pub fn busy(tenants: &[(i64, Option<i64>)]) -> Node {
    let tenants =
        tenants.iter().map(|(share, promise)| Tenant { share: *share, promise: *promise }).collect();
    Node { size: SIZE, standing: Standing::Ready, tenants }
}

pub fn run(nodes: i64, share: Option<i64>, limit: Option<i64>) -> Run {
    Run { nodes, share, limit, priority: Priority::Normal, held: false }
}

impl World {
    /// How many nodes count against the maximum. Worlds are made with no more than there may be.
    pub fn counted(&self) -> i64 {
        self.nodes.len() as i64
    }

    /// The same, as the planner is told. Idle timers are long and patience is fresh, so that neither has a say.
    pub fn snapshot(&self) -> Snapshot {
        let mut world = cluster().min(self.min).max(self.max).idle_timeout(minutes(600));
        for (ordinal, node) in (1..).zip(&self.nodes) {
            world = world.node(ordinal);
            match node.standing {
                Standing::Ready => {}
                Standing::Coming => world = world.coming("11:58"),
                Standing::Silent => world = world.not_ready_since("11:59:30"),
                Standing::Leaving => world = world.retired(RetireReason::Idle).released(),
                Standing::Unusable => world = world.failed(FailureCause::Unusable, "11:59"),
            }
            let last = world.0.nodes.last_mut().unwrap();
            last.capacity = gpus(node.size);
            last.idle_since = node.tenants.is_empty().then(|| at("11:55"));
            if node.standing == Standing::Unusable {
                last.retired = Some(Retired { at: at("11:59"), reason: RetireReason::Unusable });
            }
            for (number, tenant) in node.tenants.iter().enumerate() {
                let id = run_id(&format!("a{ordinal}-{number}"));
                last.claims.push(Claim { run: id.clone(), attempt: 1, share: gpus(tenant.share) });
                let length = tenant.promise.unwrap_or(DEFAULT_LIMIT - 60);
                world.0.active.push(ActiveRun {
                    id,
                    priority: Priority::Normal,
                    created: at("10:00"),
                    attempt: 1,
                    nodes: vec![last.name.clone()],
                    progress: Progress::Launched,
                    directive: None,
                    started: Some(at("11:00")),
                    limit: SignedDuration::from_mins(60 + length),
                    limit_by_user: tenant.promise.is_some(),
                    whole: false,
                });
            }
        }
        for (number, run) in self.queue.iter().enumerate() {
            world = world.queued(&format!("q{number}")).nodes(run.nodes);
            if let Some(share) = run.share {
                world = world.part(gpus(share));
            }
            let last = world.last_queued();
            last.priority = run.priority;
            last.user_limit = run.limit.map(SignedDuration::from_mins);
            last.hold = run.held.then(|| trainyard_planner::Hold {
                until: at("12:20"),
                count: 1,
                reason: trainyard_planner::HoldReason::CapacityHold,
            });
        }
        world.0
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "min {} max {}", self.min, self.max)?;
        for (ordinal, node) in (1..).zip(&self.nodes) {
            write!(f, "n-{ordinal}: {:?} of {}", node.standing, node.size)?;
            for Tenant { share, promise } in &node.tenants {
                write!(f, ", {share} taken until {promise:?}")?;
            }
            writeln!(f)?;
        }
        for (number, Run { nodes, share, limit, priority, held }) in self.queue.iter().enumerate() {
            writeln!(
                f,
                "q{number}: {nodes} nodes, share {share:?}, limit {limit:?}, {priority:?}, held {held}"
            )?;
        }
        Ok(())
    }
}
