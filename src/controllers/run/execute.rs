//! Carries out the steps of a decision, and puts what came of them into the observation.
//!
//! In: steps that do not depend on each other. They run at the same time, up to [`AT_ONCE`]; all of them end before the
//! next decision is made. Out: the observation as it is now, or the first error; what succeeded beside it is kept, too.
//! There is no choice here about what to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Map, Value, json};
use trainyard_api::names::{FieldManager, Finalizer, START_GATE, labels};
use trainyard_api::run_status::RunStatus;
use trainyard_api::{ClusterNode, Run};
use trainyard_model::run::RunIdentity;

use super::decide::Step;
use super::facts::{NodeFacts, PodFacts, RunFacts};
use super::observe::{self, Memory, Observed, Refusal, Refused, Rehearsal, Subject};
use super::report::{self, Notice};
use crate::clock::SharedClock;
use crate::kubernetes::apply::{self, Creation, DeleteIf, Deletion, PatchIf, Seen};
use crate::kubernetes::error::{Error, ErrorKind, Verb};
use crate::kubernetes::events::Events;
use crate::kubernetes::read::{self, Selection};
use crate::resources::service;

/// Requests of one Run at the same time. A gang's pods are created and released in few round trips, while the client's
/// limit (64) is shared by all Runs.
pub const AT_ONCE: usize = 16;
/// Up to so many ClusterNodes are read one by one, which the API server answers from memory for a fraction of a list of
/// all nodes of the Cluster.
const READ_ONE_BY_ONE: usize = 4;

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
    Created(Box<PodFacts>),
    Ungated(Box<PodFacts>),
    Stopped(Box<PodFacts>),
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
            seen.subject = observe::live(run);
        }
        Done::Read(Some(run)) => {
            seen.subject = observe::live(Arc::from(run));
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
                with.memory.keep_service(&seen.key, &uid, attempt);
            }
            seen.service_for = Some(attempt);
        }
        Done::Created(pod) => {
            seen.nodes_are_live = false;
            keep_pod(with, seen, *pod, false);
        }
        Done::Ungated(pod) => keep_pod(with, seen, *pod, false),
        Done::Stopped(pod) => keep_pod(with, seen, *pod, true),
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
        }
        Done::Refused(refusal) => seen.refusals.push(refusal),
    }
}

fn keep_pod(with: &Executor, seen: &mut Observed, pod: PodFacts, leaving: bool) {
    let now = with.clock.now();
    with.memory.keep_pod(&seen.key, &pod, leaving, now);
    let until = now + observe::BELIEVED;
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
    name: String,
    whole: Option<Arc<Run>>,
    facts: Option<RunFacts>,
    /// The UID of the Cluster, and the ClusterNodes of the allocation.
    allocated: Vec<String>,
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
        let allocation =
            whole.as_ref().and_then(|run| run.status.as_ref()).and_then(|status| status.allocation.as_ref());
        let allocated =
            allocation.into_iter().flat_map(|one| &one.nodes).map(|node| node.name.clone()).collect();
        Self {
            runs: Api::namespaced(with.client.clone(), namespace),
            pods: Api::namespaced(with.client.clone(), namespace),
            services: Api::namespaced(with.client.clone(), namespace),
            nodes: Api::namespaced(with.client.clone(), namespace),
            name: seen.key.name.clone(),
            whole,
            facts,
            allocated,
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
            Step::CreatePod(pod) => one(self.create_pod(&pod).await?),
            Step::ReadNodes => one(Done::Nodes(self.read_nodes().await?)),
            Step::ReadRun => {
                let run = read::get(&self.runs, &self.name).await?;
                one(Done::Read(run.map(Box::new)))
            }
            Step::ListPods => one(Done::Pods(self.list_pods().await?)),
            Step::RemoveGate(pod) => one(self.remove_gate(pod).await?),
            Step::StopPod { pod, release, delete } => one(self.stop_pod(pod, release, delete).await?),
        }
    }

    fn whole(&self) -> Result<&Run, Error> {
        self.whole.as_deref().ok_or_else(|| Error::NotFromServer {
            verb: Verb::Patch,
            target: format!("Run {}", self.name),
            missing: "object",
        })
    }

    fn uid(&self) -> String {
        self.facts.as_ref().map(|facts| facts.seen.uid.clone()).unwrap_or_default()
    }

    async fn write_status(&self, wanted: &RunStatus) -> Result<Run, Error> {
        let run = self.whole()?;
        let body = json!({"status": changes(run.status.as_ref(), wanted)?});
        apply::merge_status(&self.runs, &Seen::of(run)?, FieldManager::RunStatus.as_str(), &body).await
    }

    /// On the version that was observed: a Run that changed meanwhile may have an attempt that nobody has stopped.
    async fn remove_run_finalizer(&self) -> Result<Done, Error> {
        let Some(facts) = &self.facts else { return Ok(Done::Run(None)) };
        let Some(operations) = removal(&facts.finalizers, Finalizer::Run) else { return Ok(Done::Run(None)) };
        match apply::patch(&self.runs, &facts.seen, PatchIf::Unchanged, operations).await {
            // It is gone, or will be as soon as others let it go; either way it is no more of our business.
            Ok(_) => Ok(Done::Run(None)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Done::Run(None)),
            Err(error) => Err(error),
        }
    }

    async fn rehearse(&self, pods: &[Pod]) -> Result<Done, Error> {
        let mut cannot_tell = None;
        for pod in pods {
            let Err(error) = apply::rehearse_create(&self.pods, pod, FieldManager::RunPods.as_str()).await
            else {
                continue;
            };
            let said = error.server_message().unwrap_or_default().to_owned();
            if said.contains("does not support dry run") {
                cannot_tell = Some(said);
                continue;
            }
            let why = match error.kind() {
                ErrorKind::AlreadyExists => Refused::NameTaken,
                _ => match refusal(&error) {
                    Some(why) => why,
                    None => return Err(error),
                },
            };
            return Ok(Done::Rehearsed(Rehearsal::Refused(Refusal {
                name: pod.name_any(),
                why,
                message: said,
            })));
        }
        Ok(Done::Rehearsed(cannot_tell.map_or(Rehearsal::Taken, Rehearsal::CannotTell)))
    }

    async fn ensure_service(&self, attempt: i32) -> Result<Done, Error> {
        let run = self.whole()?;
        let id = RunIdentity {
            namespace: run.namespace().unwrap_or_default(),
            name: run.name_any(),
            uid: run.uid().unwrap_or_default(),
        };
        let wanted = service::service(&id, attempt);
        let created = apply::create(&self.services, &wanted, FieldManager::RunObjects.as_str()).await;
        let existing = match created {
            Ok(Creation::Created(_)) => return Ok(Done::Service(attempt)),
            Ok(Creation::AlreadyExists(existing)) => existing,
            Err(error) => return refused(&format!("Service {}", id.name), error),
        };
        if !is_owned_by(&existing.metadata, &id.uid) {
            return Ok(Done::Refused(Refusal {
                name: format!("Service {}", id.name),
                why: Refused::NameTaken,
                message: "a Service of that name is there and is not this Run's; delete it, or name the Run otherwise"
                    .to_owned(),
            }));
        }
        let selector = service::selector(&id, attempt);
        if existing.spec.as_ref().and_then(|spec| spec.selector.as_ref()) != Some(&selector) {
            let operations = json!([{"op": "add", "path": "/spec/selector", "value": selector}]);
            // On the version just read: a process that slept must not turn the Service back to an earlier attempt.
            apply::patch(&self.services, &Seen::of(&existing)?, PatchIf::Unchanged, operations).await?;
        }
        Ok(Done::Service(attempt))
    }

    async fn create_pod(&self, pod: &Pod) -> Result<Done, Error> {
        let name = pod.name_any();
        let taken = || {
            let message =
                "a pod of that name is there and is not this attempt's; delete it, or name the Run otherwise";
            Done::Refused(Refusal {
                name: format!("Pod {name}"),
                why: Refused::NameTaken,
                message: message.to_owned(),
            })
        };
        match apply::create(&self.pods, pod, FieldManager::RunPods.as_str()).await {
            Ok(Creation::Created(created)) => {
                Ok(PodFacts::of(&created).map_or_else(taken, |facts| Done::Created(Box::new(facts))))
            }
            // Ours from an answer that was lost, or that the cache does not show yet: a pod counts by label and owner.
            Ok(Creation::AlreadyExists(existing)) => {
                let ours = PodFacts::of(&existing).filter(|facts| {
                    is_owned_by(&existing.metadata, &self.uid())
                        && existing.labels().get(labels::RUN_UID) == pod.labels().get(labels::RUN_UID)
                        && existing.labels().get(labels::ATTEMPT) == pod.labels().get(labels::ATTEMPT)
                        && Some(&facts.run_uid) == pod.labels().get(labels::RUN_UID)
                });
                Ok(ours.map_or_else(taken, |facts| Done::Created(Box::new(facts))))
            }
            Err(error) => refused(&format!("Pod {name}"), error),
        }
    }

    async fn read_nodes(&self) -> Result<BTreeMap<String, NodeFacts>, Error> {
        if self.allocated.len() > READ_ONE_BY_ONE
            && let Some(uid) = &self.cluster_uid
        {
            let of_cluster = Selection::all().fields(format!("spec.cluster.uid={uid}"));
            let all = read::list(&self.nodes, &of_cluster).await?;
            let of_run = all.iter().filter(|node| self.allocated.contains(&node.name_any()));
            return Ok(of_run.map(|node| (node.name_any(), NodeFacts::of(node))).collect());
        }
        let mut found = BTreeMap::new();
        let names = self.allocated.clone();
        let mut answers = stream::iter(names)
            .map(|name| {
                let nodes = self.nodes.clone();
                async move { read::get(&nodes, &name).await }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            if let Some(node) = answer? {
                found.insert(node.name_any(), NodeFacts::of(&node));
            }
        }
        Ok(found)
    }

    async fn list_pods(&self) -> Result<BTreeMap<String, PodFacts>, Error> {
        let of_run = Selection::all().labels(format!("{}={}", labels::RUN_UID, self.uid()));
        let pods = read::list(&self.pods, &of_run).await?;
        Ok(pods.iter().filter_map(PodFacts::of).map(|pod| (pod.seen.name.clone(), pod)).collect())
    }

    async fn remove_gate(&self, pod: PodFacts) -> Result<Done, Error> {
        let patched = self.patch_gate(&pod).await;
        let error = match patched {
            Ok(pod) => return Ok(pod),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::NotFound => return Ok(Done::PodGone(pod.seen.name)),
            ErrorKind::Conflict => {}
            _ => return Err(error),
        }
        // The scheduler or a person wrote to it: the same pod, in its newer state.
        let newer = read::get(&self.pods, &pod.seen.name).await?;
        match newer.as_ref().and_then(PodFacts::of) {
            None => Ok(Done::PodGone(pod.seen.name)),
            Some(newer) if newer.seen.uid != pod.seen.uid || newer.deleting || newer.gate.is_none() => {
                Ok(Done::Ungated(Box::new(newer)))
            }
            Some(newer) => self.patch_gate(&newer).await,
        }
    }

    async fn patch_gate(&self, pod: &PodFacts) -> Result<Done, Error> {
        let Some(gate) = pod.gate else { return Ok(Done::Ungated(Box::new(pod.clone()))) };
        let operations = json!([
            {"op": "test", "path": format!("/spec/schedulingGates/{gate}/name"), "value": START_GATE},
            {"op": "remove", "path": format!("/spec/schedulingGates/{gate}")},
        ]);
        let patched = apply::patch(&self.pods, &pod.seen, PatchIf::Unchanged, operations).await?;
        Ok(PodFacts::of(&patched)
            .map_or_else(|| Done::PodGone(pod.seen.name.clone()), |facts| Done::Ungated(Box::new(facts))))
    }

    async fn stop_pod(&self, pod: PodFacts, release: bool, delete: bool) -> Result<Done, Error> {
        let mut pod = pod;
        let name = pod.seen.name.clone();
        if release && let Some(operations) = removal(&pod.finalizers, Finalizer::RunPod) {
            match apply::patch(&self.pods, &pod.seen, PatchIf::SameObject, operations).await {
                Ok(released) => match PodFacts::of(&released) {
                    Some(facts) => pod = facts,
                    None => return Ok(Done::PodGone(name)),
                },
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Done::PodGone(name)),
                Err(error) => return Err(error),
            }
        }
        if delete && !pod.deleting {
            match apply::delete(&self.pods, &pod.seen, DeleteIf::SameObject, None).await? {
                Deletion::AlreadyGone => return Ok(Done::PodGone(name)),
                Deletion::Accepted => pod.deleting = true,
            }
        }
        Ok(Done::Stopped(Box::new(pod)))
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

/// What a refused create means for the attempt; errors that mean nothing for it are passed on.
fn refused(name: &str, error: Error) -> Result<Done, Error> {
    match refusal(&error) {
        Some(why) => {
            let message = error.server_message().unwrap_or_default().to_owned();
            Ok(Done::Refused(Refusal { name: name.to_owned(), why, message }))
        }
        None => Err(error),
    }
}

fn refusal(error: &Error) -> Option<Refused> {
    if error.is_namespace_terminating() {
        return Some(Refused::NamespaceTerminating);
    }
    let said = error.server_message().unwrap_or_default();
    match error.kind() {
        // The quota plugin has no reason of its own; this sentence is its only mark (`exceeded quota: NAME, ...`, and
        // `failed quota: NAME: must specify ...`, which no retry mends but a change of the quota does).
        ErrorKind::Forbidden if said.contains("exceeded quota") || said.contains("failed quota") => {
            Some(Refused::Quota)
        }
        ErrorKind::Forbidden | ErrorKind::Invalid => Some(Refused::Policy),
        // A namespace that is gone takes the Run with it.
        ErrorKind::NotFound => Some(Refused::NamespaceTerminating),
        // A policy webhook may answer 400.
        ErrorKind::Bug if said.contains("admission webhook") => Some(Refused::Policy),
        ErrorKind::Conflict
        | ErrorKind::AlreadyExists
        | ErrorKind::Throttled
        | ErrorKind::Unavailable
        | ErrorKind::Bug => None,
    }
}

/// The fields of the status that change, for a merge: what is absent now is null. The parts that other controllers write
/// are never among them.
fn changes(before: Option<&RunStatus>, after: &RunStatus) -> Result<Value, Error> {
    const OF_OTHERS: [&str; 2] = ["allocation", "queue"];
    let fields = |status: &RunStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) | Err(_) => Err(Error::Body {
            verb: Verb::Patch,
            target: "Run status".to_owned(),
            message: "a status is a JSON object".into(),
        }),
    };
    let before = before.map_or_else(|| Ok(Map::new()), &fields)?;
    let after = fields(after)?;
    let mut changed = Map::new();
    for (name, value) in &after {
        if before.get(name) != Some(value) {
            changed.insert(name.clone(), value.clone());
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        changed.insert(name.clone(), Value::Null);
    }
    for name in OF_OTHERS {
        changed.remove(name);
    }
    Ok(Value::Object(changed))
}
