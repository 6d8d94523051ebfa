//! The status of a ClusterNode: what is seen of its machine, held against what is wanted and what was seen before.
//!
//! In: a [`Situation`]. Out: the whole status, and the first instant at which the same situation would read otherwise.
//!
//! Guarantees:
//! * `state` is Leaving when released, Running when claimed, else Idle; Preparing until runs could first use it; and what
//!   is bad about the machine wins over all of these.
//! * Unusable, Preempted and Failed are never left again, and Lost is no reason that is taken back: pods there were counted as
//!   gone because of it.
//! * `firstReadyTime` and the other first times are written once. The same situation gives the same status, so nothing
//!   is written when nothing changed.
//!
//! Assumption: a machine is called gone, and a Node that was known is missing from a machine, only after a live read.

mod conditions;
mod machine;
mod usability;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use trainyard_api::{
    ClusterNode, Time,
    cluster_node::{ClusterNodeStatus, NodeReason, NodeState, RetireReason},
    text,
};

use self::machine::given_up;
use super::{
    daemons::Daemon,
    limits,
    seen::{GivenUp, LastWords, Machine, NodeFacts, Progress},
    strangers::Strangers,
    usable,
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
    /// What other pods take of its Node, once that was looked at.
    pub strangers: Option<&'a Strangers>,
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
    /// The engine knows at once that it has none.
    NoneLeft(String),
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

/// Whether a machine is still to be asked for, as far as the object tells.
pub fn awaits_machine(node: &ClusterNode) -> bool {
    let has_none = |status: &ClusterNodeStatus| {
        status.machine_uid.is_none() && status.gone_time.is_none() && !status.state.is_some_and(is_bad)
    };
    node.spec.released.is_none()
        && node.metadata.deletion_timestamp.is_none()
        && node.status.as_ref().is_none_or(has_none)
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
            self.status.requested_time.get_or_insert(Time(backing.created.unwrap_or(self.now)));
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
            Some(node) if !node.ready => Some(self.silent_since(node)),
            _ => None,
        };
    }

    /// Since when a Node that is not Ready counts as silent: since that was first noticed, unless it was Ready again meanwhile and
    /// nobody looked. Whoever looks calls a node lost in time, so a change after that was missed, as by an operator that was down. An
    /// earlier change does not count: from False to Unknown is one, too.
    fn silent_since(&self, node: &NodeFacts) -> Time {
        let noticed = self.status.not_ready_since.as_ref().map_or(self.now, |since| since.0);
        let missed = node.ready_changed.filter(|at| {
            *at <= self.now && *at > noticed.saturating_add(limits::LOST_AFTER).unwrap_or(Timestamp::MAX)
        });
        Time(missed.unwrap_or(noticed))
    }

    fn verdict(&mut self) -> Verdict {
        if let Some(state) = self.status.state.filter(|state| is_bad(*state)) {
            if let Some(lost) = self.lost_in_preemption() {
                return lost;
            }
            let reason = self.status.reason.unwrap_or(NodeReason::Unknown);
            let message = self.quarantine().or_else(|| self.status.message.clone()).unwrap_or_default();
            let verdict = Verdict::new(state, reason, message);
            return if self.is_gone() { verdict.gone() } else { verdict };
        }
        match self.s.answer {
            Some(Answer::NameTaken(message)) => {
                return Verdict::new(NodeState::Failed, NodeReason::NameTaken, message).gone();
            }
            Some(Answer::Rejected(message)) => {
                return Verdict::new(NodeState::Failed, NodeReason::LaunchFailed, message).gone();
            }
            Some(Answer::NoneLeft(message)) => {
                return Verdict::new(NodeState::Failed, NodeReason::StockOut, message).gone();
            }
            Some(Answer::Requested { .. } | Answer::Blocked(_)) | None => {}
        }
        match self.s.machine {
            Presence::Gone { since } => self.without_machine(since),
            Presence::NotSeen => self.not_seen(),
            Presence::Here(machine) => self.with_machine(machine),
        }
    }

    /// What a lost machine that was found waits for before it is given back: nobody knows what runs on it.
    fn quarantine(&self) -> Option<String> {
        let node = self.machine().filter(|machine| machine.found)?.node.as_ref()?;
        if !self.is_released() || self.status.reason != Some(NodeReason::Lost) {
            return None;
        }
        Some(match self.s.held_up {
            _ if !node.ready => format!(
                "lost, and kept from further use until Node {0} is ready again and no pod of a run is on it: mend it, or \
                 delete Node {0} if it does not come back",
                node.name
            ),
            Some(held_up) => format!("was lost and is back; {held_up}"),
            None => "was lost and is back; it is about to be given back".to_owned(),
        })
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
            let retired = self.s.node.spec.retired.as_ref().map(|retired| retired.reason);
            if retired == Some(RetireReason::Preempted) {
                let message = "taken away as if the cloud took it back";
                return Verdict::new(NodeState::Preempted, NodeReason::Preempted, message);
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
            _ if machine.found => "its machine is about to be given back".to_owned(),
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
}

fn minutes(limit: SignedDuration) -> String {
    format!("{} minutes", limit.as_mins())
}
