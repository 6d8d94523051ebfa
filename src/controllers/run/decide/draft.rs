//! The status of a Run while it is being decided.
//!
//! Starts as what is stored; every change is made here; written once, as a whole, if anything changed. So whatever is
//! decided together costs one write.

use std::sync::Arc;

use jiff::Timestamp;
use trainyard_api::Run;
use trainyard_api::conditions::{self, Condition, ConditionStatus, RunCondition};
use trainyard_api::run_status::{Attempt, AttemptCause, MAX_ATTEMPTS_KEPT, RunPhase, RunReason, RunStatus};
use trainyard_api::{Time, text};

use super::verdict::End;
use super::{Decision, Step};
use crate::controllers::run::report::Notice;

/// A status to be written, beside the one it is made from.
#[derive(Clone, Debug)]
pub struct Draft {
    run: Arc<Run>,
    /// What is to be stored.
    pub status: RunStatus,
    /// What to tell people once it is stored.
    pub notices: Vec<Notice>,
    now: Timestamp,
}

impl Draft {
    /// What is stored.
    pub fn of(run: &Arc<Run>, now: Timestamp) -> Self {
        Self {
            run: Arc::clone(run),
            status: run.status.clone().unwrap_or_default(),
            notices: Vec::new(),
            now,
        }
    }

    /// Whether anything is to be written.
    pub fn is_changed(&self) -> bool {
        self.run.status.as_ref() != Some(&self.status)
    }

    /// The write of this draft, or nothing to do when nothing changed.
    pub fn write(self) -> Decision {
        self.write_or_wait(None)
    }

    /// The write of this draft, or nothing to do before `wake_at` when nothing changed.
    pub fn write_or_wait(mut self, wake_at: Option<Timestamp>) -> Decision {
        self.status.observed_generation = self.run.metadata.generation;
        self.trim();
        if !self.is_changed() {
            return Decision::wait(wake_at);
        }
        Decision::steps(vec![Step::WriteStatus { status: Box::new(self.status), notices: self.notices }])
    }

    /// A user's wish to cancel counts from the moment it is first seen, whatever the spec says afterwards.
    pub fn latch_cancel(&mut self) {
        if self.run.spec.cancel && self.status.cancel_requested_time.is_none() && !self.is_terminal() {
            self.status.cancel_requested_time = Some(Time(self.now));
        }
    }

    /// Whether cancel is latched.
    pub fn is_cancelled(&self) -> bool {
        self.status.cancel_requested_time.is_some()
    }

    /// Whether the stored phase is terminal: it is never left again.
    pub fn is_terminal(&self) -> bool {
        self.status.phase.is_some_and(RunPhase::is_terminal)
    }

    /// The first attempt whose pods are not known to be gone.
    pub fn unfreed(&self) -> Option<&Attempt> {
        self.status.attempts.iter().find(|attempt| !attempt.pods_gone)
    }

    /// The attempt of this number.
    pub fn attempt_mut(&mut self, number: i32) -> Option<&mut Attempt> {
        self.status.attempts.iter_mut().find(|attempt| attempt.number == number)
    }

    /// Sets the phase, unless a terminal one is there.
    pub fn set_phase(&mut self, phase: RunPhase, reason: RunReason, message: impl AsRef<str>) {
        if self.is_terminal() {
            return;
        }
        if phase == RunPhase::Queued && self.begins_to_wait() {
            self.status.queued_time = Some(Time(self.now));
        }
        self.status.phase = Some(phase);
        self.status.reason = Some(reason);
        self.status.message =
            Some(text::clip(message.as_ref(), text::MESSAGE_MAX)).filter(|message| !message.is_empty());
    }

    /// Whether a Run that is queued now begins to wait anew: not if it waits already, nor after an attempt that was never
    /// launched, which for its user is one wait.
    fn begins_to_wait(&self) -> bool {
        let was_launched = self.status.attempts.last().is_some_and(|attempt| attempt.launched.is_some());
        match self.status.phase {
            _ if self.status.queued_time.is_none() => true,
            None | Some(RunPhase::Queued) => false,
            Some(RunPhase::Suspended) => true,
            Some(_) => was_launched,
        }
    }

    /// Sets a condition.
    pub fn set_condition(
        &mut self,
        kind: RunCondition,
        status: ConditionStatus,
        reason: &str,
        message: &str,
    ) {
        let condition = Condition::new(kind, status, reason, message, self.now);
        conditions::set(&mut self.status.conditions, condition);
    }

    /// Sets a condition to False where it is there and is not False.
    pub fn unset_condition(&mut self, kind: RunCondition, reason: &str) {
        let found = conditions::find(&self.status.conditions, kind);
        if found.is_some_and(|condition| condition.status != ConditionStatus::False) {
            self.set_condition(kind, ConditionStatus::False, reason, "");
        }
    }

    /// Records the end of an attempt: the result, what it costs, and that its pods are being stopped.
    pub fn end(&mut self, number: i32, end: End) {
        let now = self.now;
        let End { cause, culprit, exit_code, reason, message, at } = end;
        let Some(attempt) = self.attempt_mut(number) else { return };
        let launched = attempt.launched.as_ref().map(|launched| launched.0);
        // A kubelet's clock may be wrong: no attempt ends before its launch, and none later than now.
        let ended = at.map_or(now, |at| launched.map_or(at, |launched| at.max(launched)).min(now));
        attempt.cause = Some(cause);
        attempt.culprit.clone_from(&culprit);
        attempt.exit_code = exit_code;
        attempt.reason =
            reason.map(|reason| text::clip(&reason, text::REASON_MAX)).filter(|reason| !reason.is_empty());
        attempt.message = Some(text::clip(&message, text::MESSAGE_MAX)).filter(|message| !message.is_empty());
        attempt.end_time = Some(Time(ended));
        // As whoever reads the status would count it: times are stored in whole seconds.
        let seconds = launched.map_or(0, |at| (ended.as_second() - at.as_second()).max(0));
        let totals = self.status.totals.get_or_insert_default();
        totals.running_seconds =
            totals.running_seconds.saturating_add(i32::try_from(seconds).unwrap_or(i32::MAX));
        match cause {
            AttemptCause::UserCode | AttemptCause::Setup => totals.user_failures += 1,
            AttemptCause::Infrastructure => totals.infrastructure_failures += 1,
            AttemptCause::Succeeded
            | AttemptCause::NotStarted
            | AttemptCause::Suspended
            | AttemptCause::Canceled
            | AttemptCause::Requeue
            | AttemptCause::WallClock
            | AttemptCause::TotalTime
            | AttemptCause::ClusterDeleted
            | AttemptCause::Deallocated
            | AttemptCause::NamespaceQuota
            | AttemptCause::Deleted
            | AttemptCause::Unknown => {}
        }
        self.status.exit_code = exit_code;
        self.unset_condition(RunCondition::Allocated, cause.as_str());
        let stopping = match cause {
            AttemptCause::Canceled => RunPhase::CancelRequested,
            _ if self.is_cancelled() && cause != AttemptCause::Succeeded => RunPhase::CancelRequested,
            _ => RunPhase::Finalizing,
        };
        let why = match cause {
            AttemptCause::Deleted => RunReason::Deleting,
            _ => RunReason::StoppingPods,
        };
        self.set_phase(stopping, why, format!("attempt {number}: {message}"));
        if let Some(notice) = Notice::of_attempt(number, cause, &message) {
            self.notices.push(notice);
        }
    }

    /// Keeps the last attempts, and all whose pods are not known to be gone.
    fn trim(&mut self) {
        let surplus = self.status.attempts.len().saturating_sub(MAX_ATTEMPTS_KEPT);
        let mut position = 0;
        self.status.attempts.retain(|attempt| {
            position += 1;
            position > surplus || !attempt.pods_gone
        });
    }
}
