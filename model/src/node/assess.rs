//! The status of a ClusterNode: what is seen of its machine, held against what is wanted and what was seen before.
//!
//! In: a [`Situation`]. Out: the whole status, and the first instant at which the same situation would read otherwise.
//!
//! Guarantees:
//! * `state` is Leaving when released, Running when claimed, else Idle; Preparing until runs could first use it; and what
//!   is bad about the machine wins over all of these.
//! * Unusable, Preempted and Failed are never left again: pods there were counted as gone because of them.
//! * `firstReadyTime` and the other first times are written once. The same situation gives the same status, so nothing
//!   is written when nothing changed.
//!
//! Assumption: a machine is called gone, and a Node that was known is missing from a machine, only after a live read.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use trainyard_api::{
    ClusterNode, Time,
    capacity::Capacity,
    cluster_node::{ClusterNodeStatus, NodeReason, NodeState},
    conditions::{self, ClusterNodeCondition, Condition, ConditionStatus},
    text,
};

use super::{
    daemons::{self, Daemon},
    limits,
    seen::{GivenUp, LastWords, Machine, NodeFacts, Progress},
    usable::{self, Obstacle},
};

/// How long the engine's reason is waited for after its machine vanished; Events are written after the deletion.
const LAST_WORDS_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// All that bears on one ClusterNode's status.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The ClusterNode as stored.
    pub node: &'a ClusterNode,
    /// Its machine.
    pub machine: Presence<'a>,
    /// What the engine said of it.
    pub last_words: Option<&'a LastWords>,
    /// How the latest wish for a machine was answered, in this look.
    pub answer: Option<&'a Answer>,
    /// All DaemonSets.
    pub daemons: &'a [Arc<Daemon>],
    /// What holds up its release, in words.
    pub held_up: Option<&'a str>,
}

/// Whether there is a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Presence<'a> {
    /// It is there.
    Here(&'a Machine),
    /// It is not seen, and was not looked for.
    NotSeen,
    /// A live read found none.
    Gone {
        /// Since when that is known.
        since: Timestamp,
    },
}

/// How the wish for a machine was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is asked for.
    Requested {
        /// UID of the backing object.
        machine_uid: String,
    },
    /// Its name is taken by somebody else's object.
    NameTaken(String),
    /// The request itself is not taken.
    Rejected(String),
    /// Nothing was asked for: the engine or its class is not usable now.
    Blocked(String),
}

/// The status, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// The whole status.
    pub status: ClusterNodeStatus,
    /// The first instant at which this situation would give another one; none when only a change would.
    pub wake_at: Option<Timestamp>,
}

/// What is concluded.
struct Verdict {
    state: NodeState,
    reason: NodeReason,
    message: String,
    gone: bool,
}

impl Verdict {
    fn new(state: NodeState, reason: NodeReason, message: impl Into<String>) -> Self {
        Self { state, reason, message: message.into(), gone: false }
    }

    fn gone(mut self) -> Self {
        self.gone = true;
        self
    }
}

/// Whether this state is never left again.
pub const fn is_bad(state: NodeState) -> bool {
    match state {
        NodeState::Unusable | NodeState::Preempted | NodeState::Failed => true,
        NodeState::Preparing
        | NodeState::Idle
        | NodeState::Running
        | NodeState::Leaving
        | NodeState::Unknown => false,
    }
}

/// Computes the status.
pub fn assess(situation: &Situation<'_>, now: Timestamp) -> Assessment {
    let before = situation.node.status.clone().unwrap_or_default();
    if before.gone_time.is_some() {
        // Its story is over; what turns up under its name afterwards is a stray.
        return Assessment { status: before, wake_at: None };
    }
    let mut look = Look { s: situation, now, status: before, wake_at: None };
    look.take_facts();
    let verdict = look.verdict();
    look.conclude(verdict)
}

struct Look<'a> {
    s: &'a Situation<'a>,
    now: Timestamp,
    status: ClusterNodeStatus,
    wake_at: Option<Timestamp>,
}

impl<'a> Look<'a> {
    fn machine(&self) -> Option<&'a Machine> {
        match self.s.machine {
            Presence::Here(machine) => Some(machine),
            Presence::NotSeen | Presence::Gone { .. } => None,
        }
    }

    /// The machine's Node, if it is the one the ClusterNode has.
    fn seen_node(&self) -> Option<&'a NodeFacts> {
        let node = self.machine()?.node.as_ref()?;
        (self.status.node_uid.as_ref() == Some(&node.uid)).then_some(node)
    }

    fn is_released(&self) -> bool {
        self.s.node.spec.released.is_some()
    }

    fn is_claimed(&self) -> bool {
        !self.s.node.spec.claims.is_empty()
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether `limit` has passed since `start`; if not, a look is due when it will have.
    fn is_over(&mut self, start: Option<&Time>, limit: SignedDuration) -> bool {
        let end = start.map_or(self.now, |start| start.0) + limit;
        if self.now >= end {
            return true;
        }
        self.wake(end);
        false
    }

    fn take_facts(&mut self) {
        let now = Time(self.now);
        if let Some(Answer::Requested { machine_uid }) = self.s.answer {
            self.status.machine_uid.get_or_insert_with(|| machine_uid.clone());
            self.status.requested_time.get_or_insert_with(|| now.clone());
        }
        let Some(machine) = self.machine() else { return };
        if let Some(backing) = &machine.backing {
            self.status.machine_uid = Some(machine.uid.clone());
            self.status.requested_time.get_or_insert(Time(backing.created));
        }
        if machine.progress >= Progress::Launched {
            self.status.launched_time.get_or_insert_with(|| now.clone());
        }
        self.status.provider_id = machine.provider_id.clone().or(self.status.provider_id.take());
        self.status.zone = machine.zone.clone().or(self.status.zone.take());
        if machine.progress == Progress::Registered
            && self.status.node_uid.is_none()
            && let Some(node) = &machine.node
        {
            self.status.node_name = Some(node.name.clone());
            self.status.node_uid = Some(node.uid.clone());
            self.status.registered_time.get_or_insert_with(|| now.clone());
        }
        self.status.not_ready_since = match self.seen_node() {
            Some(node) if !node.ready => self.status.not_ready_since.take().or(Some(now)),
            _ => None,
        };
    }

    fn verdict(&mut self) -> Verdict {
        if let Some(state) = self.status.state.filter(|state| is_bad(*state)) {
            let reason = self.status.reason.unwrap_or(NodeReason::Unknown);
            let verdict = Verdict::new(state, reason, self.status.message.clone().unwrap_or_default());
            return if self.is_gone() { verdict.gone() } else { verdict };
        }
        match self.s.answer {
            Some(Answer::NameTaken(message)) => {
                return Verdict::new(NodeState::Failed, NodeReason::NameTaken, message).gone();
            }
            Some(Answer::Rejected(message)) => {
                return Verdict::new(NodeState::Failed, NodeReason::LaunchFailed, message).gone();
            }
            Some(Answer::Requested { .. } | Answer::Blocked(_)) | None => {}
        }
        match self.s.machine {
            Presence::Gone { since } => self.without_machine(since),
            Presence::NotSeen => self.not_seen(),
            Presence::Here(machine) => self.with_machine(machine),
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.s.machine, Presence::Gone { .. })
    }

    fn without_machine(&mut self, since: Timestamp) -> Verdict {
        if self.is_released() {
            return Verdict::new(NodeState::Leaving, NodeReason::Gone, "its machine is gone").gone();
        }
        if self.status.machine_uid.is_none() {
            return self.not_seen();
        }
        let waits_for_words = self.status.registered_time.is_none() && self.s.last_words.is_none();
        if waits_for_words && !self.is_over(Some(&Time(since)), LAST_WORDS_WITHIN) {
            return self.as_before();
        }
        self.end().gone()
    }

    fn not_seen(&mut self) -> Verdict {
        if self.is_released() {
            return Verdict::new(NodeState::Leaving, NodeReason::Released, "its machine is being looked for");
        }
        if self.status.machine_uid.is_some() {
            if matches!(self.s.answer, Some(Answer::Requested { .. })) {
                return self.requested(None);
            }
            return self.as_before();
        }
        match self.s.answer {
            Some(Answer::Blocked(message)) => {
                Verdict::new(NodeState::Preparing, NodeReason::EngineUnavailable, message)
            }
            _ => Verdict::new(
                NodeState::Preparing,
                NodeReason::Pending,
                "its machine is about to be asked for",
            ),
        }
    }

    /// What was concluded last time, while it is not known what to conclude now.
    fn as_before(&self) -> Verdict {
        Verdict::new(
            self.status.state.unwrap_or(NodeState::Preparing),
            self.status.reason.unwrap_or(NodeReason::Requested),
            self.status.message.clone().unwrap_or_default(),
        )
    }

    fn with_machine(&mut self, machine: &Machine) -> Verdict {
        let is_registered = self.status.registered_time.is_some();
        if self.is_released() {
            return self.leaving(machine);
        }
        if machine.backing.is_none()
            && self.status.machine_uid.as_ref().is_some_and(|uid| *uid != machine.uid)
        {
            // The engine's object is gone and a Node stays behind: it is nobody's machine any more.
            return self.end();
        }
        if let Some(words) = self.s.last_words
            && (!is_registered || words.cause == GivenUp::Preempted)
        {
            return given_up(words);
        }
        let node_is_gone = self.status.node_uid.is_some() && self.seen_node().is_none();
        if node_is_gone {
            return self.end();
        }
        if machine.deleting_since.is_some()
            || self.seen_node().is_some_and(|node| node.deleting_since.is_some())
        {
            return self.deleted_by_others();
        }
        if let Some(node) = self.seen_node() {
            if let Some(taint) = usable::preemption_notice(&self.s.node.spec, node) {
                return Verdict::new(
                    NodeState::Preempted,
                    NodeReason::Preempted,
                    format!("the cloud takes it back (taint {taint})"),
                );
            }
            return self.with_node(node);
        }
        if machine.progress == Progress::Requested {
            self.requested(Some(machine))
        } else {
            self.launched(machine)
        }
    }

    fn leaving(&self, machine: &Machine) -> Verdict {
        let message = match (self.s.held_up, machine.deleting_since, machine.drain_skipped) {
            (Some(held_up), _, _) => held_up.to_owned(),
            (None, None, _) => "its machine is about to be destroyed".to_owned(),
            (None, Some(_), false) => "its machine is being drained and destroyed".to_owned(),
            (None, Some(_), true) => "its machine is being destroyed without waiting for pods".to_owned(),
        };
        Verdict::new(NodeState::Leaving, NodeReason::Released, message)
    }

    /// Before Registered a deletion is the engine's refusal, whose reason follows. After it, a claimed node is let
    /// finish where it can: engines wait for its pods. Spot machines do not wait.
    fn deleted_by_others(&mut self) -> Verdict {
        let is_registered = self.status.registered_time.is_some();
        let message = "its machine is being deleted, and not by trainyard";
        if !is_registered {
            let requested = self.status.requested_time.clone();
            let state = if self.is_over(requested.as_ref(), limits::REGISTRATION) {
                NodeState::Failed
            } else {
                NodeState::Preparing
            };
            return Verdict::new(state, NodeReason::MachineDeleted, message);
        }
        if usable::is_spot(&self.s.node.spec) {
            return Verdict::new(NodeState::Preempted, NodeReason::Preempted, "the cloud takes it back");
        }
        if let Some(lost) = self.lost() {
            return lost;
        }
        let state = if self.is_claimed() { NodeState::Running } else { NodeState::Unusable };
        Verdict::new(state, NodeReason::MachineDeleted, message)
    }

    fn requested(&mut self, machine: Option<&Machine>) -> Verdict {
        let trouble = machine.and_then(|machine| machine.trouble.as_deref());
        let requested = self.status.requested_time.clone();
        if self.is_over(requested.as_ref(), limits::LAUNCH) {
            let why = trouble
                .unwrap_or("the engine never answered: is it running, and does it know the class's kind?");
            return Verdict::new(
                NodeState::Failed,
                NodeReason::LaunchTimeout,
                format!("not launched within {}: {why}", minutes(limits::LAUNCH)),
            );
        }
        let message = trouble.unwrap_or("its machine is asked for and not launched yet");
        Verdict::new(NodeState::Preparing, NodeReason::Requested, message)
    }

    fn launched(&mut self, machine: &Machine) -> Verdict {
        let trouble = machine.trouble.as_deref();
        let launched = self.status.launched_time.clone();
        if self.is_over(launched.as_ref(), limits::REGISTRATION) {
            let why = trouble.unwrap_or("it booted without joining, or cannot reach the API server");
            return Verdict::new(
                NodeState::Failed,
                NodeReason::RegistrationTimeout,
                format!("no Node within {} of its launch: {why}", minutes(limits::REGISTRATION)),
            );
        }
        let message = trouble.unwrap_or("its machine is launched and has not joined as a Node yet");
        Verdict::new(NodeState::Preparing, NodeReason::Launched, message)
    }

    /// Lost, if it was ready once and has been silent for too long.
    fn lost(&mut self) -> Option<Verdict> {
        self.status.first_ready_time.as_ref()?;
        let since = self.status.not_ready_since.clone()?;
        self.is_over(Some(&since), limits::LOST_AFTER).then(|| {
            let why = self.seen_node().map(|node| node.not_ready_message.as_str()).unwrap_or_default();
            let seconds = limits::LOST_AFTER.as_secs();
            Verdict::new(
                NodeState::Unusable,
                NodeReason::Lost,
                format!("its Node has not been Ready for {seconds} s: {why}"),
            )
        })
    }

    fn with_node(&mut self, node: &NodeFacts) -> Verdict {
        if let Some(lost) = self.lost() {
            return lost;
        }
        let spec = &self.s.node.spec;
        let Some(obstacle) = usable::obstacle(spec, node) else {
            self.status.allocatable = Some(self.measure(node));
            self.status.first_ready_time.get_or_insert(Time(self.now));
            return match spec.claims.first() {
                None => Verdict::new(NodeState::Idle, NodeReason::Ready, "ready for runs"),
                Some(claim) => Verdict::new(
                    NodeState::Running,
                    NodeReason::Claimed,
                    format!(
                        "held by Run {}/{}, attempt {}",
                        claim.run_namespace, claim.run_name, claim.attempt
                    ),
                ),
            };
        };
        let (reason, message) = self.describe(&obstacle, node);
        if let Some(limit_passed) = self.never_usable(&obstacle, &message) {
            return limit_passed;
        }
        let state = match (&self.status.first_ready_time, self.is_claimed()) {
            (None, _) => NodeState::Preparing,
            (Some(_), true) => NodeState::Running,
            (Some(_), false) => NodeState::Idle,
        };
        Verdict::new(state, reason, message)
    }

    /// What there is for runs: the Node's allocatable less its DaemonSets, and of accelerators those of the size.
    fn measure(&self, node: &NodeFacts) -> Capacity {
        let left = daemons::left_for_runs(node, self.s.daemons);
        let accelerators = self.s.node.spec.vm_size.accelerators.iter().map(|accelerator| {
            let name = accelerator.resource_name.clone();
            let count = left.devices.get(&name).copied().unwrap_or(0);
            (name, count)
        });
        Capacity {
            cpu_millis: left.cpu_millis,
            memory_bytes: left.memory_bytes,
            accelerators: accelerators.collect(),
        }
    }

    /// A Node that stays of no use. One that a person cordoned is that person's matter, and a claimed one is let be.
    fn never_usable(&mut self, obstacle: &Obstacle, why: &str) -> Option<Verdict> {
        let since = match (&self.status.first_ready_time, obstacle) {
            (_, Obstacle::Cordoned) => return None,
            (None, _) => self.status.registered_time.clone(),
            (Some(_), Obstacle::Taint(_) | Obstacle::Accelerators { .. }) if !self.is_claimed() => {
                conditions::find(&self.status.conditions, ClusterNodeCondition::Ready)
                    .filter(|ready| !ready.is_true())
                    .map(|ready| ready.last_transition_time.clone())
            }
            (Some(_), _) => return None,
        };
        self.is_over(since.as_ref(), limits::USABLE).then(|| {
            Verdict::new(
                NodeState::Unusable,
                NodeReason::NotUsableInTime,
                format!("of no use to runs for {}: {why}", minutes(limits::USABLE)),
            )
        })
    }

    fn describe(&mut self, obstacle: &Obstacle, node: &NodeFacts) -> (NodeReason, String) {
        match obstacle {
            Obstacle::NotRegistered => {
                (NodeReason::NodeNotReady, "the engine has not finished registering its Node".to_owned())
            }
            Obstacle::NotReady(why) => (NodeReason::NodeNotReady, format!("its Node is not ready: {why}")),
            Obstacle::Cordoned => (
                NodeReason::Cordoned,
                format!("somebody cordoned it; `kubectl uncordon {}` gives it back to runs", node.name),
            ),
            Obstacle::Taint(taint) => (
                NodeReason::TaintNotTolerated,
                format!(
                    "run pods do not tolerate taint {taint}: add {{key: {}, operator: Exists, effect: {}}} to \
                     tolerations of the ProvisioningClass, or take the taint off",
                    taint.key, taint.effect
                ),
            ),
            Obstacle::Accelerators { resource, has, needs } => {
                self.accelerators_missing(node, resource, *has, *needs)
            }
        }
    }

    /// A device plugin may be minutes late, and is waited for. After a while what is in its way is named: most often
    /// our own taint, which keeps the plugin's DaemonSet off.
    fn accelerators_missing(
        &mut self,
        node: &NodeFacts,
        resource: &str,
        has: i64,
        needs: i64,
    ) -> (NodeReason, String) {
        let waits = format!("{has} of {needs} {resource} are allocatable");
        let registered = self.status.registered_time.clone();
        if !self.is_over(registered.as_ref(), limits::PATIENCE_WITH_ACCELERATORS) {
            return (NodeReason::WaitingForAccelerators, format!("{waits}; waiting for the device plugin"));
        }
        let taint = &self.s.node.spec.taint;
        let toleration = format!("{{key: {}, operator: Exists, effect: {}}}", taint.key, taint.effect);
        let kept_off = daemons::kept_off(node, taint, self.s.daemons);
        if kept_off.is_empty() {
            return (
                NodeReason::WaitingForAccelerators,
                format!(
                    "{waits}, and no DaemonSet is kept off by its taint: is a device plugin for {resource} installed, \
                     and does it tolerate {toleration}?"
                ),
            );
        }
        let mut names = kept_off.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        if kept_off.len() > 3 {
            names.push_str(", ...");
        }
        (
            NodeReason::TaintNotTolerated,
            format!(
                "{waits}; taint {}={}:{} keeps off DaemonSet {names}: if it is the device plugin, add {toleration} to \
                 its tolerations",
                taint.key, taint.value, taint.effect
            ),
        )
    }

    /// Why a machine that was seen is no more.
    fn end(&self) -> Verdict {
        if let Some(words) = self.s.last_words
            && (self.status.registered_time.is_none() || words.cause == GivenUp::Preempted)
        {
            return given_up(words);
        }
        if self.status.registered_time.is_some() {
            return if usable::is_spot(&self.s.node.spec) {
                Verdict::new(
                    NodeState::Preempted,
                    NodeReason::Preempted,
                    "its machine vanished: the cloud took it back",
                )
            } else {
                Verdict::new(NodeState::Failed, NodeReason::Lost, "its Node is gone, and not by trainyard")
            };
        }
        let waited =
            |limit| self.status.requested_time.as_ref().is_some_and(|start| self.now >= start.0 + limit);
        let was = self.status.message.clone().filter(|_| self.status.reason == Some(NodeReason::Requested));
        if self.status.launched_time.is_none() && waited(limits::ENGINE_LAUNCH) {
            let why = was.unwrap_or_else(|| "it gave no reason".to_owned());
            return Verdict::new(
                NodeState::Failed,
                NodeReason::LaunchTimeout,
                format!("the engine gave up launching it: {why}"),
            );
        }
        if waited(limits::ENGINE_REGISTRATION) {
            return Verdict::new(
                NodeState::Failed,
                NodeReason::RegistrationTimeout,
                "the engine gave it up: it did not join as a Node in time",
            );
        }
        Verdict::new(
            NodeState::Failed,
            NodeReason::StockOut,
            "the engine removed the machine before it became a Node and gave no reason: no capacity, no quota, or a \
             class that is not ready",
        )
    }

    fn conclude(mut self, verdict: Verdict) -> Assessment {
        let Verdict { state, reason, message, gone } = verdict;
        self.set_conditions(state, reason, &message);
        self.status.state = Some(state);
        self.status.reason = Some(reason);
        self.status.message = Some(text::clip(&message, text::MESSAGE_MAX)).filter(|text| !text.is_empty());
        if gone {
            self.status.gone_time.get_or_insert(Time(self.now));
            self.wake_at = None;
        }
        self.status.observed_generation = self.s.node.metadata.generation;
        Assessment { status: self.status, wake_at: self.wake_at }
    }

    fn set_conditions(&mut self, state: NodeState, reason: NodeReason, message: &str) {
        let launched = reached(self.status.launched_time.is_some(), state);
        let registered = reached(self.status.registered_time.is_some(), state);
        let usable = matches!(
            (state, reason),
            (NodeState::Idle, NodeReason::Ready) | (NodeState::Running, NodeReason::Claimed)
        );
        let accelerators = self.accelerators();
        let ready = if usable { ConditionStatus::True } else { ConditionStatus::False };
        let mut set = |kind, status: ConditionStatus, reason: &str, message: &str| {
            conditions::set(
                &mut self.status.conditions,
                Condition::new(kind, status, reason, message, self.now),
            );
        };
        // A condition that holds says the same for ever; its words would only make writes.
        for (kind, status) in
            [(ClusterNodeCondition::Launched, launched), (ClusterNodeCondition::Registered, registered)]
        {
            if status == ConditionStatus::True {
                set(kind, status, kind.as_str(), "");
            } else {
                set(kind, status, reason.as_str(), message);
            }
        }
        if let Some((status, why)) = accelerators {
            set(ClusterNodeCondition::AcceleratorsReady, status, &why, "");
        }
        if usable {
            set(ClusterNodeCondition::Ready, ready, ClusterNodeCondition::Ready.as_str(), "");
        } else {
            set(ClusterNodeCondition::Ready, ready, reason.as_str(), message);
        }
    }

    /// Nothing to say while no Node is seen: what was said last stays.
    fn accelerators(&self) -> Option<(ConditionStatus, String)> {
        let node = self.seen_node()?;
        let promised = &self.s.node.spec.vm_size.accelerators;
        let has = |name: &String| node.allocatable.devices.get(name).copied().unwrap_or(0);
        let missing = promised.iter().any(|one| has(&one.resource_name) < i64::from(one.count));
        Some(match (promised.is_empty(), missing) {
            (true, _) => (ConditionStatus::True, "NonePromised".to_owned()),
            (false, true) => (ConditionStatus::False, NodeReason::WaitingForAccelerators.as_str().to_owned()),
            (false, false) => (ConditionStatus::True, "Allocatable".to_owned()),
        })
    }
}

fn reached(is_reached: bool, state: NodeState) -> ConditionStatus {
    match (is_reached, is_bad(state)) {
        (true, _) => ConditionStatus::True,
        (false, true) => ConditionStatus::False,
        (false, false) => ConditionStatus::Unknown,
    }
}

fn given_up(words: &LastWords) -> Verdict {
    let (state, reason) = match words.cause {
        GivenUp::StockOut => (NodeState::Failed, NodeReason::StockOut),
        GivenUp::Quota => (NodeState::Failed, NodeReason::QuotaExceeded),
        GivenUp::Refused => (NodeState::Failed, NodeReason::LaunchFailed),
        GivenUp::Preempted => (NodeState::Preempted, NodeReason::Preempted),
    };
    Verdict::new(state, reason, words.message.clone())
}

fn minutes(limit: SignedDuration) -> String {
    format!("{} minutes", limit.as_mins())
}
