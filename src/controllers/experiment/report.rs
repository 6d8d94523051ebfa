//! What people are told: Events about an Experiment.

use trainyard_api::Experiment;
use trainyard_api::names::event::EventReason;
use trainyard_api::retention::Retention;

use crate::kubernetes::events::Events;

/// Tells that finished Runs were deleted. Without names, so that a thousand of them are one Event with a count.
pub fn runs_deleted(events: &Events, experiment: &Experiment, retention: &Retention) {
    let Retention { max_age, max_count } = retention;
    let age = max_age.map(|age| format!("maxAge {age}"));
    let count = max_count.map(|count| format!("maxCount {count}"));
    let limits: Vec<String> = age.into_iter().chain(count).collect();
    let note = format!("finished Runs are deleted as spec.retention says: {}", limits.join(", "));
    events.tell(experiment, EventReason::RunsDeleted, note);
}
