//! Carries out the steps of a decision, and puts what came of them into the observation.
//!
//! In: steps that do not depend on each other. They run at the same time, up to [`AT_ONCE`]; all of them end before the
//! next decision is made. Out: the observation as it is now, or the first error; what succeeded beside it is kept, too.
//! There is no choice here about what to do.

mod pods;
mod refusal;
mod run;
mod service;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use trainyard_api::names::{Finalizer, labels};
use trainyard_api::{ClusterNode, Run};

use super::decide::Step;
use super::facts::{NodeFacts, PodFacts, RunFacts};
use super::memory::{self, Memory};
use super::observe::{self, Observed, Refusal, Rehearsal, Subject};
use super::report::{self, Notice};
use crate::clock::SharedClock;
use crate::kubernetes::apply;
use crate::kubernetes::error::{Error, Verb};
use crate::kubernetes::events::Events;
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::read;

/// Requests of one Run at the same time. A gang's pods are created and released in few round trips, while the client's
/// limit (64) is shared by all Runs.
pub const AT_ONCE: usize = 16;

/// What steps are carried out with.
#[derive(Clone)]
pub struct Executor {
    /// The client.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// Events.
    pub events: Events,
    /// What the caches do not show yet.
    pub memory: Arc<Memory>,
}

/// What came of one step.
enum Done {
    Status(Box<Run>, Vec<Notice>),
    Run(Option<Box<Run>>),
    Read(Option<Box<Run>>),
    Rehearsed(Rehearsal),
    Service(i32),
    ServiceGone,
    Created(Box<PodFacts>),
    Ungated(Box<PodFacts>),
    Stopped(Box<PodFacts>),
    /// A pod of an earlier Run has a name that is needed.
    Leftover(Box<PodFacts>),
    PodGone(String),
    Nodes(BTreeMap<String, NodeFacts>),
    Pods(BTreeMap<String, PodFacts>),
    Refused(Refusal),
}

/// Carries out `steps`.
pub async fn execute(with: &Executor, steps: Vec<Step>, seen: &mut Observed) -> Result<(), Error> {
    let hands = Hands::of(with, seen);
    let mut results = stream::iter(steps).map(|step| hands.take(step)).buffer_unordered(AT_ONCE);
    let mut first_error = None;
    let mut done = Vec::new();
    while let Some(result) = results.next().await {
        match result {
            Ok(one) => done.extend(one),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    drop(results);
    for one in done {
        absorb(with, seen, one);
    }
    first_error.map_or(Ok(()), Err)
}

fn absorb(with: &Executor, seen: &mut Observed, done: Done) {
    let now = with.clock.now();
    match done {
        Done::Status(run, notices) => {
            report::report(&with.events, &run, &notices);
            let run = Arc::from(run);
            with.memory.keep_run(&seen.key, &run);
            seen.subject = observe::live(run);
            // What was read before this write proves nothing after it.
            seen.pods_are_live = false;
            seen.nodes_are_live = false;
        }
        Done::Run(Some(run)) => {
            let run = Arc::from(run);
            with.memory.keep_run(&seen.key, &run);
            replace_subject(seen, run);
        }
        Done::Read(Some(run)) => {
            replace_subject(seen, Arc::from(run));
            seen.subject_is_live = true;
        }
        Done::Run(None) | Done::Read(None) => {
            seen.subject = Subject::Gone;
            seen.subject_is_live = true;
        }
        Done::Rehearsed(rehearsal) => {
            if let Some(uid) = uid_of(&seen.subject) {
                with.memory.keep_rehearsal(&seen.key, &uid, now);
            }
            if let (Rehearsal::Taken, Subject::Live { run, .. }) = (&rehearsal, &seen.subject) {
                with.memory.keep_yes(&seen.key.namespace, run, &seen.pool, now);
            }
            seen.rehearsed_at = Some(now);
            seen.rehearsal = Some(rehearsal);
        }
        Done::Service(attempt) => {
            if let Some(uid) = uid_of(&seen.subject) {
                with.memory.keep_service(&seen.key, &uid, attempt, now);
            }
            seen.service_for = Some(attempt);
            seen.has_service = true;
        }
        Done::ServiceGone => {
            seen.service_for = None;
            seen.has_service = false;
        }
        Done::Created(pod) => {
            seen.nodes_are_live = false;
            keep_pod(with, seen, *pod, false);
        }
        Done::Ungated(pod) => keep_pod(with, seen, *pod, false),
        Done::Stopped(pod) => keep_pod(with, seen, *pod, true),
        Done::Leftover(pod) => {
            seen.subject_is_live = false;
            seen.pods.insert(pod.seen.name.clone(), *pod);
        }
        Done::PodGone(name) => {
            with.memory.forget_pod(&seen.key, &name);
            seen.pods.remove(&name);
        }
        Done::Nodes(nodes) => {
            seen.nodes = nodes;
            seen.nodes_are_live = true;
        }
        Done::Pods(pods) => {
            let uid = uid_of(&seen.subject);
            seen.pods.retain(|_, pod| Some(&pod.run_uid) != uid.as_ref());
            seen.pods.extend(pods);
            seen.pods_are_live = true;
            seen.subject_is_live = false;
        }
        Done::Refused(refusal) => seen.refusals.push(refusal),
    }
}

/// Takes the Run as it is now. What was read live was read for the Run as it was: a newer one may have ended its attempt
/// since, or have other nodes.
fn replace_subject(seen: &mut Observed, run: Arc<Run>) {
    let is_same = match &seen.subject {
        Subject::Live { run: held, .. } => {
            held.metadata.uid == run.metadata.uid
                && held.metadata.resource_version == run.metadata.resource_version
        }
        Subject::Over(_) | Subject::Unseen | Subject::Gone => false,
    };
    if !is_same {
        seen.pods_are_live = false;
        seen.nodes_are_live = false;
    }
    seen.subject = observe::live(run);
}

fn keep_pod(with: &Executor, seen: &mut Observed, pod: PodFacts, leaving: bool) {
    let now = with.clock.now();
    with.memory.keep_pod(&seen.key, &pod, leaving, now);
    let until = now + memory::BELIEVED;
    seen.believed_until = Some(seen.believed_until.map_or(until, |earlier| earlier.min(until)));
    seen.pods.insert(pod.seen.name.clone(), pod);
}

fn uid_of(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Live { run, .. } => run.uid(),
        Subject::Over(facts) => Some(facts.seen.uid.clone()),
        Subject::Unseen | Subject::Gone => None,
    }
}

/// The API of one Run's objects, and what is known of the Run.
struct Hands {
    runs: Api<Run>,
    pods: Api<Pod>,
    services: Api<Service>,
    nodes: Api<ClusterNode>,
    key: ObjectKey,
    whole: Option<Arc<Run>>,
    facts: Option<RunFacts>,
    /// The UID of the Cluster, the ClusterNodes of the allocation, and the names of their Nodes.
    allocated: Vec<String>,
    machines: Vec<String>,
    cluster_uid: Option<String>,
}

impl Hands {
    fn of(with: &Executor, seen: &Observed) -> Self {
        let namespace = &seen.key.namespace;
        let (whole, facts) = match &seen.subject {
            Subject::Live { run, .. } => (Some(Arc::clone(run)), RunFacts::of(Run::clone(run))),
            Subject::Over(facts) => (None, Some(RunFacts::clone(facts))),
            Subject::Unseen | Subject::Gone => (None, None),
        };
        let nodes_in = facts.as_ref().map_or(namespace, |run| &run.cluster.namespace).clone();
        let allocation =
            whole.as_ref().and_then(|run| run.status.as_ref()).and_then(|status| status.allocation.as_ref());
        let nodes = allocation.map(|one| one.nodes.as_slice()).unwrap_or_default();
        let allocated = nodes.iter().map(|node| node.name.clone()).collect();
        let machines = nodes.iter().map(|node| node.node_name.clone()).collect();
        Self {
            runs: Api::namespaced(with.client.clone(), namespace),
            pods: Api::namespaced(with.client.clone(), namespace),
            services: Api::namespaced(with.client.clone(), namespace),
            nodes: Api::namespaced(with.client.clone(), &nodes_in),
            key: seen.key.clone(),
            whole,
            facts,
            allocated,
            machines,
            cluster_uid: seen.nodes.values().next().map(|node| node.cluster.uid.clone()),
        }
    }

    async fn take(&self, step: Step) -> Result<Vec<Done>, Error> {
        let one = |done| Ok(vec![done]);
        match step {
            Step::WriteStatus { status, notices } => {
                let run = self.write_status(&status).await?;
                one(Done::Status(Box::new(run), notices))
            }
            Step::AddRunFinalizer => {
                let run = apply::add_finalizer(&self.runs, self.whole()?, Finalizer::Run.as_str()).await?;
                Ok(run.into_iter().map(|run| Done::Run(Some(Box::new(run)))).collect())
            }
            Step::RemoveRunFinalizer => one(self.remove_run_finalizer().await?),
            Step::Rehearse(pods) => one(self.rehearse(&pods).await?),
            Step::EnsureService { attempt } => one(self.ensure_service(attempt).await?),
            Step::RemoveService => one(self.remove_service().await?),
            Step::CreatePod(pod) => one(self.create_pod(&pod).await?),
            Step::ReadNodes => one(Done::Nodes(self.read_nodes().await?)),
            Step::ReadRun => {
                let run = read::get(&self.runs, &self.key.name).await?;
                one(Done::Read(run.map(Box::new)))
            }
            Step::ListPods { expected } => one(Done::Pods(self.list_pods(expected).await?)),
            Step::RemoveGate(pod) => one(self.remove_gate(pod).await?),
            Step::StopPod { pod, release, delete } => one(self.stop_pod(pod, release, delete).await?),
        }
    }

    fn whole(&self) -> Result<&Run, Error> {
        self.whole.as_deref().ok_or_else(|| Error::NotFromServer {
            verb: Verb::Patch,
            target: format!("Run {}", self.key),
            missing: "object",
        })
    }

    fn uid(&self) -> String {
        self.facts.as_ref().map(|facts| facts.seen.uid.clone()).unwrap_or_default()
    }
}

/// The JSON patch that takes `finalizer` off an object whose finalizers are these.
fn removal(finalizers: &[String], finalizer: Finalizer) -> Option<Value> {
    let index = finalizers.iter().position(|one| one == finalizer.as_str())?;
    let path = format!("/metadata/finalizers/{index}");
    Some(json!([
        {"op": "test", "path": path, "value": finalizer.as_str()},
        {"op": "remove", "path": path},
    ]))
}

fn is_owned_by(metadata: &kube::core::ObjectMeta, uid: &str) -> bool {
    let owners = metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Whether an object that has a name of this Run's was made for an earlier Run of the same name: our label says so, and of
/// two Runs of one name only one is there.
fn is_of_earlier_run(metadata: &kube::core::ObjectMeta, uid: &str) -> bool {
    let label = metadata.labels.iter().flatten().find(|(name, _)| *name == labels::RUN_UID);
    label.is_some_and(|(_, of)| of != uid) && !is_owned_by(metadata, uid)
}
