//! What to do next about one Run: a pure function of what is observed and of the time.
//!
//! In: an [`Observed`] and now. Out: a [`Decision`]: steps that do not depend on each other, or none and the time at
//! which to look again. Whoever carries out the steps puts what came of them into the `Observed` and asks again, so the
//! order of the protocol is here and nowhere else:
//!
//! ```text
//! answer      attempts[k] written          (status write, guarded by the Run's version)
//! create      Service and all pods, gated  (a missing pod is created)
//! look        the claim on every node, live
//! launch      attempts[k].launched written (status write, guarded by the Run's version)
//! release     each gate removed            (guarded by the pod's UID and version; a missing pod is now a lost member)
//! end         the first result written     (status write)
//! stop        finalizers removed, running pods deleted
//! free        a live list shows none: podsGone and the next phase written (status write)
//! ```
//!
//! A crash between any two of these leaves a state from which the same function goes on. A process that wakes up late
//! with a stale view can create pods that stay gated and are deleted on sight, and nothing else: every status write and
//! every gate carries the version that the decision was made on.
//!
//! | module | decides |
//! |---|---|
//! | [`attempt`] | an attempt from its answer to its end |
//! | [`members`] | which pods count, and what is said of them |
//! | [`verdict`] | how an attempt ended: the failure table |
//! | [`patience`] | how long a pod may take to start |
//! | [`limits`] | limits of time: of an attempt, of all attempts, of a wait |
//! | [`queued`] | a Run without a live attempt: acceptance, retry, terminal phases |
//! | [`over`] | a finished Run: what is left of it, and for how long |
//! | [`draft`] | the status to be written |

pub mod attempt;
pub mod draft;
pub mod limits;
pub mod members;
pub mod over;
pub mod patience;
pub mod queued;
pub mod verdict;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use trainyard_api::Run;
use trainyard_api::retention::CleanPodPolicy;
use trainyard_api::run_status::{Attempt, RunStatus};
use trainyard_model::run::{InvalidRun, ValidRun};

use self::draft::Draft;
use super::facts::PodFacts;
use super::observe::{Observed, Subject};
use super::report::Notice;

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Steps that do not depend on each other. None: nothing can be done now.
    pub steps: Vec<Step>,
    /// When to look again if nothing happens; only without steps.
    pub wake_at: Option<Timestamp>,
}

/// One request. Complete: whoever carries it out has no choice left.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write our part of the Run's status, on the version that was observed; then tell people.
    WriteStatus {
        /// The whole status; parts of other controllers are not written.
        status: Box<RunStatus>,
        /// What to tell once it is stored.
        notices: Vec<Notice>,
    },
    /// Put our finalizer on the Run.
    AddRunFinalizer,
    /// Take our finalizer off the Run, on the version that was observed.
    RemoveRunFinalizer,
    /// Ask whether the API server would take these pods.
    Rehearse(Vec<Pod>),
    /// Make the Service, or let it select this attempt.
    EnsureService {
        /// The attempt.
        attempt: i32,
    },
    /// Delete the Service, if it is the Run's.
    RemoveService,
    /// Create a pod.
    CreatePod(Box<Pod>),
    /// Read the ClusterNodes of the allocation from the API server.
    ReadNodes,
    /// Read the Run from the API server.
    ReadRun,
    /// List the Run's pods from the API server, whoever owns them.
    ListPods {
        /// Names to look for one by one where the list by label does not show them: labels can be taken off.
        expected: Vec<String>,
    },
    /// Let the scheduler have a pod.
    RemoveGate(PodFacts),
    /// Let a pod go.
    StopPod {
        /// Which.
        pod: PodFacts,
        /// Take our finalizer off it.
        release: bool,
        /// Ask for its deletion.
        delete: bool,
    },
}

impl Step {
    /// What lets a pod go, and makes it go if it shall; none when nothing is left to be done for that.
    pub fn stop(pod: &PodFacts, shall_go: bool) -> Option<Self> {
        let (release, delete) = (pod.has_finalizer(), shall_go && !pod.deleting);
        (release || delete).then(|| Self::StopPod { pod: pod.clone(), release, delete })
    }
}

impl Decision {
    /// Do these, then ask again.
    pub fn steps(steps: Vec<Step>) -> Self {
        Self { steps, wake_at: None }
    }

    /// Nothing to do before this time, unless something happens.
    pub fn wait(wake_at: Option<Timestamp>) -> Self {
        Self { steps: Vec::new(), wake_at }
    }
}

/// Decides what to do next.
pub fn decide(seen: &Observed, now: Timestamp) -> Decision {
    let mut decision = match &seen.subject {
        Subject::Live { run, valid } => live(seen, run, valid, now),
        Subject::Over(facts) => over::decide(seen, facts, now),
        Subject::Unseen if seen.pods.is_empty() => Decision::default(),
        Subject::Unseen => Decision::steps(vec![Step::ReadRun]),
        Subject::Gone => Decision::steps(stops(seen.pods.values(), CleanPodPolicy::Running)),
    };
    if decision.steps.is_empty() {
        decision.wake_at = decision.wake_at.into_iter().chain(seen.believed_until).min();
    }
    decision
}

fn live(
    seen: &Observed,
    run: &Arc<Run>,
    valid: &Result<Box<ValidRun>, InvalidRun>,
    now: Timestamp,
) -> Decision {
    let uid = run.metadata.uid.clone().unwrap_or_default();
    let (own, strangers) = by_run(seen, &uid);
    let valid = valid.as_ref().map(|valid| &**valid);
    let case = Case { seen, run, valid, uid: &uid, own: &own, strangers: &strangers, now };

    // Pods of ended attempts are let go on sight, whatever else there is to do.
    let policy = run.spec.clean_pod_policy;
    let mut steps: Vec<Step> = case
        .pods_standing(Standing::Ended)
        .filter_map(|pod| {
            let closes = pod.closes_until().is_some_and(|end| end > now);
            Step::stop(pod, goes(pod, policy) && !closes)
        })
        .collect();
    let doubtful =
        [stops(case.pods_standing(Standing::Unrecorded), CleanPodPolicy::Running), removals(&strangers)]
            .concat();
    steps.extend(once_seen_live(seen, doubtful));
    if !steps.is_empty() {
        return Decision::steps(steps);
    }

    let mut draft = Draft::of(run, now);
    draft.latch_cancel();
    if attempt::answer(&case, &mut draft) {
        return draft.write();
    }
    match draft.unfreed() {
        Some(attempt) if attempt.cause.is_some() => attempt::free(&case, draft),
        Some(_) => attempt::go_on(&case, draft),
        None => queued::go_on(&case, draft),
    }
}

/// What is recorded of a pod's attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not ended.
    Live,
    /// It has, or the pod is of none.
    Ended,
    /// It is later than any that is recorded. An attempt is recorded before its pods are made, so either this view of the
    /// Run is old, or somebody has made the pod by hand.
    Unrecorded,
}

/// A live Run and what belongs to it.
pub struct Case<'a> {
    /// Everything observed.
    pub seen: &'a Observed,
    /// The Run.
    pub run: &'a Run,
    /// Its checked form.
    pub valid: Result<&'a ValidRun, &'a InvalidRun>,
    /// Its UID.
    pub uid: &'a str,
    /// Its pods: those it owns, and those without owner that have its UID in their label.
    pub own: &'a [&'a PodFacts],
    /// Pods of an earlier Run of its name.
    pub strangers: &'a [&'a PodFacts],
    /// The time.
    pub now: Timestamp,
}

impl Case<'_> {
    /// Whether the Run is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.run.metadata.deletion_timestamp.is_some()
    }

    /// Its attempts as they stand in the API server, as far as observed.
    pub fn attempts(&self) -> &[Attempt] {
        self.run.status.as_ref().map_or(&[], |status| &status.attempts)
    }

    /// What is recorded of the attempt that the pod belongs to.
    fn standing(&self, pod: &PodFacts) -> Standing {
        match (pod.attempt, self.attempts().last()) {
            (None, _) => Standing::Ended,
            (Some(number), Some(last)) if number == last.number && last.cause.is_none() => Standing::Live,
            (Some(number), Some(last)) if number <= last.number => Standing::Ended,
            (Some(_), _) => Standing::Unrecorded,
        }
    }

    /// Its pods of attempts of which this is recorded.
    fn pods_standing(&self, standing: Standing) -> impl Iterator<Item = &PodFacts> {
        self.own.iter().copied().filter(move |pod| self.standing(pod) == standing)
    }

    /// Whether a pod of an earlier Run of its name has this name.
    pub fn has_stranger(&self, pod: &str) -> bool {
        self.strangers.iter().any(|stranger| stranger.seen.name == pod)
    }

    /// Whether the caches lack a ClusterNode of the allocation.
    pub fn has_unknown_node(&self) -> bool {
        let allocation = self.run.status.as_ref().and_then(|status| status.allocation.as_ref());
        let mut nodes = allocation.into_iter().flat_map(|allocation| &allocation.nodes);
        nodes.any(|node| !self.seen.nodes.contains_key(&node.name))
    }

    /// Whether a pod may still run or start: one on a lost Node counts as gone.
    pub fn may_run(&self, pod: &PodFacts) -> bool {
        pod.may_run() && !self.is_on_lost_node(pod)
    }

    /// Whether the Node a pod is bound to is lost.
    fn is_on_lost_node(&self, pod: &PodFacts) -> bool {
        let Some(node_name) = &pod.node_name else { return false };
        self.lost_node_of(node_name).is_some()
    }

    /// The lost ClusterNode whose Node has this name. Beyond what is lost by its own word, it is one that was allocated and is
    /// not there any more, or is another machine by now: an attempt has a Node by name and UID, and nothing else vouches for it.
    pub fn lost_node_of(&self, node_name: &str) -> Option<&str> {
        let allocation = self.run.status.as_ref()?.allocation.as_ref()?;
        let allocated = allocation.nodes.iter().find(|node| node.node_name == node_name)?;
        let lost = match self.seen.nodes.get(&allocated.name) {
            Some(node) => node.lost || node.node_uid.as_ref().is_some_and(|uid| *uid != allocated.node_uid),
            // A cache that does not show it proves nothing; a live read does.
            None => self.seen.nodes_are_live,
        };
        lost.then_some(allocated.name.as_str())
    }
}

/// Pods of the Run of this UID, and pods of earlier Runs of its name.
fn by_run<'a>(seen: &'a Observed, uid: &str) -> (Vec<&'a PodFacts>, Vec<&'a PodFacts>) {
    seen.pods.values().partition(|pod| pod.run_uid == uid)
}

/// These steps, once a live read of the Run, later than what showed the pods, has borne out that they are none of its.
fn once_seen_live(seen: &Observed, steps: Vec<Step>) -> Vec<Step> {
    if steps.is_empty() || seen.subject_is_live { steps } else { vec![Step::ReadRun] }
}

/// What removes pods of an earlier Run of the name: finished ones, too, because they have names that are needed.
fn removals(strangers: &[&PodFacts]) -> Vec<Step> {
    strangers.iter().filter_map(|pod| Step::stop(pod, true)).collect()
}

/// What lets these pods go: they lose our finalizer, and all are deleted but the finished ones that stay by this policy.
fn stops<'a>(pods: impl Iterator<Item = &'a PodFacts>, policy: CleanPodPolicy) -> Vec<Step> {
    pods.filter_map(|pod| Step::stop(pod, goes(pod, policy))).collect()
}

/// Whether a pod of an ended attempt is deleted by this policy.
fn goes(pod: &PodFacts, policy: CleanPodPolicy) -> bool {
    !pod.finished || policy == CleanPodPolicy::All
}

#[cfg(test)]
#[path = "../decide_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "../decide_pod_template_tests.rs"]
mod pod_template_tests;
