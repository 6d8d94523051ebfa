//! What people are told: Events about a Run.
//!
//! Status says the same and more; an Event is for whoever watches. One for each meaning, none for progress, and never
//! a reason for a reconcile to fail.

use trainyard_api::Run;
use trainyard_api::names::event::EventReason;
use trainyard_api::run_status::{AttemptCause, RunPhase};

use crate::kubernetes::events::Events;

/// One thing to tell, made with the decision and told once its status is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it means.
    pub meaning: EventReason,
    /// A sentence.
    pub message: String,
}

/// Tells what was decided about the Run, once it is stored.
pub fn report(events: &Events, run: &Run, notices: &[Notice]) {
    for Notice { meaning, message } in notices {
        events.tell(run, *meaning, message);
    }
}

impl Notice {
    /// The Run is not accepted.
    pub fn not_accepted(message: &str) -> Self {
        Self { meaning: EventReason::NotAccepted, message: message.to_owned() }
    }

    /// An attempt ended, in a way that people want to hear of beside the Run's own end.
    pub fn of_attempt(number: i32, cause: AttemptCause, message: &str) -> Option<Self> {
        let told = match cause {
            AttemptCause::UserCode
            | AttemptCause::Setup
            | AttemptCause::Infrastructure
            | AttemptCause::NamespaceQuota
            | AttemptCause::WallClock
            | AttemptCause::TotalTime
            | AttemptCause::ClusterDeleted
            | AttemptCause::Deallocated => true,
            AttemptCause::Succeeded
            | AttemptCause::NotStarted
            | AttemptCause::Suspended
            | AttemptCause::Canceled
            | AttemptCause::Requeue
            | AttemptCause::Deleted
            | AttemptCause::Unknown => false,
        };
        told.then(|| Self {
            meaning: EventReason::AttemptFailed,
            message: format!("attempt {number} ({cause}): {message}"),
        })
    }

    /// The evaluator of an attempt failed.
    pub fn evaluator_failed(number: i32, message: &str) -> Self {
        let message = format!("attempt {number}: {message}; the training goes on without it");
        Self { meaning: EventReason::EvaluatorFailed, message }
    }

    /// The Run reached this phase.
    pub fn of_phase(phase: RunPhase, message: &str) -> Option<Self> {
        let meaning = match phase {
            RunPhase::Completed => EventReason::Completed,
            RunPhase::Failed => EventReason::Failed,
            RunPhase::Canceled => EventReason::Canceled,
            _ => return None,
        };
        Some(Self { meaning, message: message.to_owned() })
    }
}
