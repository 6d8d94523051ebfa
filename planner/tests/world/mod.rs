//! A small world around the planner: users, machines and run controllers as functions on the true state.
//!
//! Scenarios and histories drive it. It knows nothing of how plans are made; it only does what the protocol says each
//! party does.
#![allow(clippy::unwrap_used)]

pub mod executor;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use trainyard_planner::{
    ActiveRun, EndedAttempt, Failure, FailureCause, Machine, Node, Priority, Progress, QueuedRun,
    RequestedShare, RunId, Snapshot,
};

use crate::fixture::{cluster, run_id};

pub struct World {
    /// The true state, as the API server has it.
    pub live: Snapshot,
    pub now: Timestamp,
    /// What users submitted, by name.
    pub runs: BTreeMap<String, QueuedRun>,
    /// Their `queueDeadline`, by name.
    pub patience: BTreeMap<String, SignedDuration>,
}

impl World {
    pub fn new(now: Timestamp) -> Self {
        Self { live: cluster().0, now, runs: BTreeMap::new(), patience: BTreeMap::new() }
    }

    /// A run of one node; more is said by `change`.
    pub fn submit(&mut self, name: &str, change: impl FnOnce(&mut QueuedRun)) {
        let mut run = QueuedRun {
            id: run_id(name),
            priority: Priority::Normal,
            // Nobody submits two runs in the same instant.
            created: self.now + SignedDuration::from_millis(self.runs.len() as i64),
            node_count: 1,
            share: RequestedShare::WholeNode,
            user_limit: None,
            gang_timeout: SignedDuration::from_mins(20),
            gang_since: None,
            hold: None,
            give_up_at: None,
            given_up: false,
            next_attempt: 1,
        };
        change(&mut run);
        if let Some(deadline) = run.give_up_at {
            self.patience.insert(name.to_owned(), deadline.duration_since(self.now));
        }
        self.live.queued.push(run.clone());
        self.runs.insert(name.to_owned(), run);
    }

    pub fn node(&mut self, ordinal: i64) -> Option<&mut Node> {
        self.live.nodes.iter_mut().find(|node| node.ordinal == ordinal)
    }

    pub fn queued(&mut self, name: &str) -> Option<&mut QueuedRun> {
        self.live.queued.iter_mut().find(|run| run.id.name == name)
    }

    pub fn active(&mut self, name: &str) -> Option<&mut ActiveRun> {
        self.live.active.iter_mut().find(|run| run.id.name == name)
    }

    /// The machine becomes ready for runs.
    pub fn ready(&mut self, ordinal: i64) {
        let now = self.now;
        if let Some(node) = self.node(ordinal) {
            node.machine = Machine::Ready;
            node.first_ready.get_or_insert(now);
            node.not_ready_since = None;
        }
    }

    /// The machine is not ready for the moment: its kubelet is silent, or somebody cordoned it.
    pub fn silence(&mut self, ordinal: i64) {
        let now = self.now;
        if let Some(node) = self.node(ordinal) {
            node.machine = Machine::NotReady;
            node.not_ready_since.get_or_insert(now);
        }
    }

    /// The machine is destroyed, or given back to where it was found.
    pub fn destroyed(&mut self, ordinal: i64) {
        let Some(node) = self.node(ordinal) else { return };
        let was_there = node.machine != Machine::Gone;
        node.machine = Machine::Gone;
        if let Some(stock) = &mut self.live.policy.stock {
            stock.free += i64::from(was_there);
        }
    }

    /// The machine goes bad.
    pub fn fail(&mut self, ordinal: i64, cause: FailureCause, machine: Machine) {
        let now = self.now;
        if let Some(node) = self.node(ordinal) {
            node.machine = machine;
            node.failure = Some(Failure { cause, at: now, message: "the engine said so".into() });
        }
    }

    /// The run controller launches the attempt.
    pub fn launch(&mut self, name: &str) {
        let now = self.now;
        if let Some(run) = self.active(name) {
            (run.progress, run.started) = (Progress::Launched, Some(now));
        }
    }

    /// The attempt's end is recorded; its pods are still there.
    pub fn ending(&mut self, name: &str) {
        if let Some(run) = self.active(name) {
            run.progress = Progress::Ended;
        }
    }

    /// The attempt's pods are gone, and the run is over.
    pub fn finish(&mut self, name: &str) {
        self.end_attempt(name);
    }

    /// The attempt's pods are gone, and the run waits again at its old place.
    pub fn requeue(&mut self, name: &str) {
        let was_launched = self.active(name).is_some_and(|run| run.started.is_some());
        if let Some((id, attempt)) = self.end_attempt(name) {
            if was_launched {
                self.begin_to_wait(name);
            }
            let mut run = self.runs[name].clone();
            run.next_attempt = attempt + 1;
            debug_assert_eq!(run.id, id);
            self.live.queued.push(run);
        }
    }

    /// The run comes into the queue now: its deadline counts from here.
    pub fn begin_to_wait(&mut self, name: &str) {
        let now = self.now;
        if let Some(run) = self.runs.get_mut(name) {
            run.give_up_at = self.patience.get(name).map(|patience| now + *patience);
        }
    }

    fn end_attempt(&mut self, name: &str) -> Option<(RunId, i64)> {
        let at = self.live.active.iter().position(|run| run.id.name == name)?;
        let run = self.live.active.remove(at);
        self.live.ended.push(EndedAttempt { run: run.id.clone(), attempt: run.attempt });
        Some((run.id, run.attempt))
    }

    /// The Run object disappears with all its pods.
    pub fn vanish(&mut self, name: &str) {
        self.live.queued.retain(|run| run.id.name != name);
        self.live.active.retain(|run| run.id.name != name);
        self.live.ended.retain(|run| run.run.name != name);
    }

    /// A waiting run is cancelled or suspended: it leaves the queue.
    pub fn withdraw(&mut self, name: &str) {
        if let Some(at) = self.live.queued.iter().position(|run| run.id.name == name) {
            let run = self.live.queued.remove(at);
            if run.next_attempt > 1 {
                self.live.ended.push(EndedAttempt { run: run.id, attempt: run.next_attempt - 1 });
            }
        }
    }
}

impl World {
    /// A live read: is there a claim of the attempt on each of its nodes?
    pub fn is_fully_claimed(&self, run: &RunId, attempt: i64) -> bool {
        self.live.active.iter().filter(|active| active.id == *run && active.attempt == attempt).all(
            |active| {
                active.nodes.iter().all(|name| {
                    self.live.nodes.iter().any(|node| {
                        node.name == *name
                            && node.claims.iter().any(|claim| claim.run == *run && claim.attempt == attempt)
                    })
                })
            },
        )
    }

    /// The run controller's third step: pods may start only when a live read shows every claim and no directive.
    pub fn launch_if_whole(&mut self, name: &str) {
        let ready = self.live.active.iter().any(|run| {
            run.id.name == name
                && run.progress == Progress::Allocated
                && run.directive.is_none()
                && self.is_fully_claimed(&run.id, run.attempt)
        });
        if ready {
            self.launch(name);
        }
    }

    /// What must be so after every single write, whoever made it.
    pub fn is_safe(&self) -> Result<(), String> {
        for node in &self.live.nodes {
            let running: Vec<_> = self
                .live
                .active
                .iter()
                .filter(|run| run.progress >= Progress::Launched && run.nodes.contains(&node.name))
                .map(|run| &run.id.name)
                .collect();
            if running.len() > 1 {
                return Err(format!("{} runs {running:?} at once", node.name));
            }
            if node.released && !running.is_empty() && node.machine != Machine::Gone {
                return Err(format!("{} is destroyed under {running:?}", node.name));
            }
        }
        for run in self.live.active.iter().filter(|run| run.progress >= Progress::Launched) {
            for name in &run.nodes {
                let Some(node) = self.live.nodes.iter().find(|node| node.name == *name) else {
                    return Err(format!("{name} is forgotten under {}", run.id));
                };
                if !node.claims.iter().any(|claim| claim.run == run.id && claim.attempt == run.attempt) {
                    return Err(format!("{} lost its claim on {name}", run.id));
                }
            }
        }
        Ok(())
    }
}
