//! What to do about one Cluster's machines, and what to say of them. Pure.
//!
//! In: an [`Observation`] and the time. Out: a [`Decision`]. Called twice in a reconcile: before anything is done, for the
//! steps; and after, with what was learnt by doing, for the statuses.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;
use trainyard_api::{
    ClusterNode,
    cluster_node::{ClusterNodeStatus, NodeReason},
};
use trainyard_model::node::{
    Answer, Presence, Situation, assess,
    assess::awaits_machine,
    daemons::Daemon,
    limits,
    seen::{LastWords, Machine, NodeFacts},
};

pub use super::memory::{HeldUp, LookedAt};
use crate::provisioner::{Doomed, Drain, EngineKind, Pool};

/// Everything that bears on a decision about one Cluster's machines.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Whose machines.
    pub pool: Pool,
    /// Its ClusterNodes, by ordinal.
    pub nodes: Vec<SeenNode>,
    /// Machines that no ClusterNode accounts for.
    pub strays: Vec<Stray>,
    /// All DaemonSets.
    pub daemons: Vec<Arc<Daemon>>,
    /// The engine of some of its nodes is not installed. Nothing tells when it is again.
    pub is_blind: bool,
}

/// One ClusterNode and what is seen of its machine.
#[derive(Clone, Debug)]
pub struct SeenNode {
    /// The ClusterNode.
    pub node: Arc<ClusterNode>,
    /// Its engine; none for an engine block of a newer version.
    pub engine: Option<EngineKind>,
    /// Its machine.
    pub machine: SeenMachine,
    /// What the engine said of it.
    pub last_words: Option<LastWords>,
    /// How the wish for a machine was answered, once it was.
    pub answer: Option<Answer>,
    /// What other pods take of its Node, once that was looked at.
    pub strangers: Option<LookedAt>,
    /// What holds up its release.
    pub held_up: Option<HeldUp>,
}

/// Whether there is a machine: [`Presence`], owned.
#[derive(Clone, Debug, PartialEq)]
pub enum SeenMachine {
    /// It is there.
    Here(Box<Machine>),
    /// Not seen, not looked for.
    NotSeen,
    /// A live read found none.
    Gone {
        /// Since when that is known.
        since: Timestamp,
    },
}

/// A machine that no ClusterNode accounts for.
#[derive(Clone, Debug, PartialEq)]
pub struct Stray {
    /// Whose engine knows it.
    pub engine: EngineKind,
    /// The machine.
    pub machine: Machine,
    /// Since when this is known.
    pub since: Timestamp,
    /// It was found in this look, and is to be reported.
    pub is_new: bool,
    /// What holds up its end.
    pub held_up: Option<HeldUp>,
}

/// What to do, what to say, and when to look again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// UIDs of the ClusterNodes that shall get a machine, by ordinal.
    pub launches: Vec<String>,
    /// Machines to destroy.
    pub removals: Vec<Removal>,
    /// The status of each ClusterNode, in the order of the observation.
    pub statuses: Vec<ClusterNodeStatus>,
    /// The first instant at which this observation would lead to another decision.
    pub wake_at: Option<Timestamp>,
}

/// One machine to destroy, and everything that must be done or true before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Why it may go.
    pub warrant: Warrant,
    /// Its engine.
    pub engine: EngineKind,
    /// The machine.
    pub machine: Doomed,
    /// The Node to cordon first.
    pub cordon: Option<NodeId>,
    /// The name of the Node on which, live, no pod of ours may be.
    pub empty: Option<String>,
    /// Whether it was lost: the attempts on it were ended, so no Run vouches for a pod that is still there.
    pub was_lost: bool,
    /// Whether the engine waits for other pods.
    pub drain: Drain,
}

/// Why a machine may be destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warrant {
    /// The ClusterNode with this UID is released.
    Released {
        /// Its UID.
        node_uid: String,
    },
    /// No ClusterNode accounts for it, for long enough; checked once more by a live read.
    Stray,
}

/// Which Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl SeenNode {
    /// Its UID.
    pub fn uid(&self) -> String {
        self.node.uid().unwrap_or_default()
    }

    fn presence(&self) -> Presence<'_> {
        match &self.machine {
            SeenMachine::Here(machine) => Presence::Here(machine),
            SeenMachine::NotSeen => Presence::NotSeen,
            SeenMachine::Gone { since } => Presence::Gone { since: *since },
        }
    }

    fn wants_launch(&self) -> bool {
        awaits_machine(&self.node) && !matches!(self.machine, SeenMachine::Here(_)) && self.answer.is_none()
    }
}

/// Decides. The same observation at the same time gives the same decision.
pub fn decide(observation: &Observation, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    for seen in &observation.nodes {
        let assessment = assess(
            &Situation {
                node: &seen.node,
                machine: seen.presence(),
                last_words: seen.last_words.as_ref(),
                answer: seen.answer.as_ref(),
                daemons: &observation.daemons,
                strangers: seen.strangers.as_ref().map(|looked| &looked.strangers),
                held_up: seen.held_up.as_ref().map(|held_up| held_up.by.as_str()),
            },
            now,
        );
        decision.wake(assessment.wake_at);
        decision.wake(seen.strangers.as_ref().and_then(|looked| looked.again_at));
        if seen.wants_launch() && seen.engine.is_some() {
            decision.launches.push(seen.uid());
        }
        decision.remove_released(seen, &assessment.status, now);
        decision.statuses.push(assessment.status);
    }
    for stray in &observation.strays {
        decision.remove_stray(stray, now);
    }
    decision
}

impl Decision {
    fn wake(&mut self, at: Option<Timestamp>) {
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }

    fn remove_released(&mut self, seen: &SeenNode, status: &ClusterNodeStatus, now: Timestamp) {
        let (SeenMachine::Here(machine), Some(engine)) = (&seen.machine, seen.engine) else { return };
        if seen.node.spec.released.is_none() || status.gone_time.is_some() {
            return;
        }
        let node = machine.node.as_ref();
        if is_quarantined(machine, status.reason) {
            return;
        }
        let is_lost = answers_no_more(status, node) && !machine.found;
        // A Node that the caches lack for the moment is cordoned and looked at all the same.
        let id = node.map(NodeId::of).or_else(|| NodeId::known(status)).filter(|_| !is_lost);
        let Some(drain) = self.drain(machine, is_lost, seen.held_up.as_ref(), now) else { return };
        self.removals.push(Removal {
            warrant: Warrant::Released { node_uid: seen.uid() },
            engine,
            machine: Doomed::of(machine),
            empty: id.as_ref().map(|id| id.name.clone()),
            was_lost: status.reason == Some(NodeReason::Lost),
            cordon: id.filter(|_| needs_cordon(machine)),
            drain,
        });
    }

    fn remove_stray(&mut self, stray: &Stray, now: Timestamp) {
        let end = stray.since + limits::STRAY;
        if now < end {
            self.wake(Some(end));
            return;
        }
        let machine = &stray.machine;
        if is_quarantined(machine, Some(NodeReason::Lost)) {
            return;
        }
        let Some(drain) = self.drain(machine, false, stray.held_up.as_ref(), now) else { return };
        self.removals.push(Removal {
            warrant: Warrant::Stray,
            engine: stray.engine,
            machine: Doomed::of(machine),
            cordon: None,
            empty: machine.node.as_ref().map(|node| node.name.clone()),
            was_lost: false,
            drain,
        });
    }

    /// How the machine is to be drained if there is anything to do about it now.
    fn drain(
        &mut self,
        machine: &Machine,
        is_lost: bool,
        held_up: Option<&HeldUp>,
        now: Timestamp,
    ) -> Option<Drain> {
        if let Some(held_up) = held_up
            && now < held_up.until
        {
            self.wake(Some(held_up.until));
            return None;
        }
        match machine.deleting_since {
            None => Some(if is_lost { Drain::Skip } else { Drain::Wait }),
            Some(_) if machine.drain_skipped || machine.backing.is_none() => None,
            Some(_) if is_lost => Some(Drain::Skip),
            Some(since) => {
                let end = since + limits::DRAIN;
                if now < end {
                    self.wake(Some(end));
                    return None;
                }
                Some(Drain::Skip)
            }
        }
    }
}

impl NodeId {
    fn known(status: &ClusterNodeStatus) -> Option<Self> {
        Some(Self { name: status.node_name.clone()?, uid: status.node_uid.clone()? })
    }

    fn of(node: &NodeFacts) -> Self {
        Self { name: node.name.clone(), uid: node.uid.clone() }
    }
}

fn needs_cordon(machine: &Machine) -> bool {
    let node = machine.node.as_ref();
    machine.deleting_since.is_none()
        && node.is_none_or(|node| !node.cordoned && node.deleting_since.is_none())
}

/// Whether a machine that was found is lost still. It is not given back before it is there again and can be looked at: what
/// runs on it nobody knows, and the next one to take it would run beside it. Its Node tells when; if it is deleted, the
/// machine is gone.
fn is_quarantined(machine: &Machine, reason: Option<NodeReason>) -> bool {
    let is_ready = machine.node.as_ref().is_some_and(|node| node.ready);
    machine.found && !is_ready && reason == Some(NodeReason::Lost)
}

/// Whether no kubelet is there to say what runs on it, so that no drain would end: a released machine is destroyed then without
/// being cordoned, looked at or drained.
///
/// Not the rule by which a run's pods count as gone (`trainyard_model::node::lost`): that was asked before the release, so only
/// pods of others are at stake here. Hence a preempted machine need not be silent for long, which its cloud destroys anyway; and
/// one that was retired as lost, but answers, is drained for the sake of those others.
fn answers_no_more(status: &ClusterNodeStatus, node: Option<&NodeFacts>) -> bool {
    match status.reason {
        Some(NodeReason::Lost) => true,
        // The machine may live on for a notice period, with pods that are still stopping.
        Some(NodeReason::Preempted) => node.is_none_or(|node| !node.ready),
        _ => false,
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
