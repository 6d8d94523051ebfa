//! A finished Run: its pods are let go, and go in their time.
//!
//! In: what is kept of a finished Run, which is not its object: identity, end, how its pods are to be kept. A Run has no
//! timer but the time of its end, which is stored, so a restart of the operator starts none anew; and the time to wait
//! is asked for only while something is there to be removed.

use jiff::Timestamp;
use trainyard_api::retention::CleanPodPolicy;

use super::{Decision, Observed, Step, by_run, once_seen_live, removals, stops};
use crate::controllers::run::facts::RunFacts;

/// Decides for a Run that is over.
pub fn decide(seen: &Observed, run: &RunFacts, now: Timestamp) -> Decision {
    let (own, strangers) = by_run(seen, &run.seen.uid);
    let cleared_at = run.cleared_at();
    let is_cleared = cleared_at.is_some_and(|at| at <= now);
    let policy = if is_cleared { CleanPodPolicy::All } else { run.clean_pods };
    let mut steps = stops(own.iter().copied(), policy);
    steps.extend(once_seen_live(seen, removals(&strangers)));
    if is_cleared && seen.has_service {
        steps.push(Step::RemoveService);
    }
    // That no pod of it runs was recorded before the Run was over. One that is still there and does not finish is on a lost
    // node, and may be there until somebody deletes that.
    if steps.is_empty() && run.deleting && run.has_finalizer() {
        steps.push(Step::RemoveRunFinalizer);
    }
    if !steps.is_empty() {
        return Decision::steps(steps);
    }
    let is_something_left = seen.has_service || own.iter().any(|pod| !pod.deleting);
    Decision::wait(cleared_at.filter(|_| is_something_left && !is_cleared))
}
