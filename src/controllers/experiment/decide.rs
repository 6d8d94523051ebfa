//! What to do about one Experiment: a pure function of what is observed and of the time.

use jiff::{SignedDuration, Timestamp};
use trainyard_api::Experiment;
use trainyard_api::experiment::{ExperimentStatus, RunCounts};
use trainyard_api::run_status::RunPhase;

/// The least time between two writes of one Experiment. Five hundred Runs that start at once change the counts thousands
/// of times; people read them every few seconds.
pub const QUIET: SignedDuration = SignedDuration::from_secs(2);

/// What is known of an Experiment.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The object, if there is one.
    pub experiment: Option<&'a Experiment>,
    /// Phase of each of its Runs, and whether that is being deleted.
    pub runs: Vec<(RunPhase, bool)>,
    /// When this process last wrote it.
    pub last_written: Option<Timestamp>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, until something changes.
    Rest,
    /// Nothing before this time.
    WakeAt(Timestamp),
    /// Nothing, and it will not be written again.
    Forget,
    /// Make it.
    Create,
    /// Write this status.
    WriteStatus(ExperimentStatus),
}

/// Decides what to do.
pub fn decide(observed: &Observed<'_>, now: Timestamp) -> Decision {
    let Some(experiment) = observed.experiment else {
        let is_needed = observed.runs.iter().any(|(phase, deleting)| !phase.is_terminal() && !deleting);
        return if is_needed { Decision::Create } else { Decision::Forget };
    };
    let wanted = ExperimentStatus {
        runs: count(observed.runs.iter().map(|(phase, _)| *phase)),
        observed_generation: experiment.metadata.generation,
    };
    if experiment.metadata.deletion_timestamp.is_some() || experiment.status.as_ref() == Some(&wanted) {
        return Decision::Rest;
    }
    match observed.last_written.map(|when| when + QUIET).filter(|when| now < *when) {
        Some(when) => Decision::WakeAt(when),
        None => Decision::WriteStatus(wanted),
    }
}

/// Runs by phase.
fn count(phases: impl Iterator<Item = RunPhase>) -> RunCounts {
    let mut counts = RunCounts::default();
    for phase in phases {
        counts.total += 1;
        *match phase {
            // A phase of a newer version is not one of a finished Run, or this version would be the newer one.
            RunPhase::Queued | RunPhase::Unknown => &mut counts.queued,
            RunPhase::Preparing => &mut counts.preparing,
            RunPhase::Running => &mut counts.running,
            RunPhase::Finalizing => &mut counts.finalizing,
            RunPhase::Suspended => &mut counts.suspended,
            RunPhase::CancelRequested => &mut counts.cancel_requested,
            RunPhase::Completed => &mut counts.completed,
            RunPhase::Failed => &mut counts.failed,
            RunPhase::Canceled => &mut counts.canceled,
        } += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use trainyard_api::experiment::ExperimentSpec;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn observed(experiment: Option<&Experiment>, phases: &[RunPhase]) -> Observed<'static> {
        let experiment: Option<&'static Experiment> =
            experiment.map(|experiment| &*Box::leak(Box::new(experiment.clone())));
        Observed {
            experiment,
            runs: phases.iter().map(|phase| (*phase, false)).collect(),
            last_written: None,
        }
    }

    fn empty() -> Experiment {
        Experiment::new("mnist", ExperimentSpec::default())
    }

    #[test]
    fn it_is_made_for_a_run_that_is_not_over() {
        assert_eq!(decide(&observed(None, &[RunPhase::Queued]), NOW), Decision::Create);
        assert_eq!(decide(&observed(None, &[RunPhase::Completed]), NOW), Decision::Forget);
        let leaving = Observed { runs: vec![(RunPhase::Running, true)], ..observed(None, &[]) };
        assert_eq!(decide(&leaving, NOW), Decision::Forget);
    }

    #[test]
    fn every_phase_is_counted_once() {
        let Decision::WriteStatus(status) = decide(&observed(Some(&empty()), RunPhase::ALL), NOW) else {
            panic!("counts are written")
        };
        let RunCounts {
            total,
            queued,
            preparing,
            running,
            finalizing,
            suspended,
            cancel_requested,
            completed,
            failed,
            canceled,
        } = status.runs;
        assert_eq!(total as usize, RunPhase::ALL.len());
        assert_eq!(
            [preparing, running, finalizing, suspended, cancel_requested, completed, failed, canceled],
            [1; 8]
        );
        assert_eq!(queued, 2, "and one of a phase that is not known");
    }

    #[test]
    fn equal_counts_are_not_written_and_others_wait_for_quiet() {
        let mut experiment = empty();
        experiment.status = Some(ExperimentStatus::default());
        assert_eq!(decide(&observed(Some(&experiment), &[]), NOW), Decision::Rest);
        let mut soon = observed(Some(&experiment), &[RunPhase::Running]);
        soon.last_written = Some(NOW);
        assert_eq!(decide(&soon, NOW + SignedDuration::from_secs(1)), Decision::WakeAt(NOW + QUIET));
        assert!(matches!(decide(&soon, NOW + QUIET), Decision::WriteStatus(_)));
    }
}
