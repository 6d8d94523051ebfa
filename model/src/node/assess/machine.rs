//! Of a machine that is no Node yet, and of one that is no more.

use trainyard_api::cluster_node::{NodeReason, NodeState};

use super::{Look, Verdict, minutes};
use crate::node::{
    limits,
    seen::{GivenUp, LastWords, Machine},
    usable,
};

impl Look<'_> {
    pub(super) fn requested(&mut self, machine: Option<&Machine>) -> Verdict {
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

    pub(super) fn launched(&mut self, machine: &Machine) -> Verdict {
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

    /// Why a machine that was seen is no more.
    pub(super) fn end(&self) -> Verdict {
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
}

pub(super) fn given_up(words: &LastWords) -> Verdict {
    let (state, reason) = match words.cause {
        GivenUp::StockOut => (NodeState::Failed, NodeReason::StockOut),
        GivenUp::Quota => (NodeState::Failed, NodeReason::QuotaExceeded),
        GivenUp::Refused => (NodeState::Failed, NodeReason::LaunchFailed),
        GivenUp::Preempted => (NodeState::Preempted, NodeReason::Preempted),
    };
    Verdict::new(state, reason, words.message.clone())
}
