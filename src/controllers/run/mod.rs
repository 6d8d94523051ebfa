//! The run controller: attempts of Runs, from the answer to an allocation to the last pod's end.
//!
//! Flow, per Run (by namespace and name): observe → decide → execute → report, again until nothing is left to do.
//! [`decide`] is pure and has the whole protocol; [`execute`] has no choice; Events are told once a status is stored.
//!
//! Guarantees: pods of attempt `k` run only after `attempts[k].launched` was written on a Run that still wanted it, and
//! never beside pods of attempt `k + 1`; an exit code is recorded before its pod may disappear; a terminal phase is never
//! left; if nothing changed, nothing is written. These hold across a crash between any two requests, with two
//! processes at once, and on stale caches.
//!
//! Assumptions: it alone writes `Run.status` but for `allocation` and `queue`, which the cluster controller writes; claims
//! of an allocation that is unchanged and not ended are never dropped.

mod decide;
mod execute;
mod facts;
mod memory;
mod observe;
mod report;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use trainyard_api::names::labels;
use trainyard_api::{Cluster, ClusterNode, Run, VmSize};

use crate::clock::SharedClock;
use crate::kubernetes::cache::Cache;
use crate::kubernetes::error::{Error as RequestError, ErrorKind};
use crate::kubernetes::events::Events;
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::read::Selection;
use crate::kubernetes::watch::Watch;
use crate::kubernetes::workqueue::{Failure, Outcome, Queue};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{ControllerName, Metrics};
use crate::telemetry::readiness::Readiness;

use execute::Executor;
use facts::{ClusterFacts, NodeFacts, PodFacts, RunFacts, ServiceFacts, SizeFacts};
use memory::Memory;
use observe::{Caches, pod_entry};

/// What the controller is started with.
pub struct Setup<'a> {
    /// The connection.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// What is counted.
    pub metrics: Metrics,
    /// Waits for the first lists.
    pub readiness: Readiness,
    /// Tells people.
    pub events: Events,
    /// Runs reconciled at a time.
    pub concurrency: usize,
    /// Where everything runs.
    pub tasks: &'a mut Tasks,
}

/// Rounds of one reconcile. The longest way, from an allocation to open gates, takes seven; whoever needs more than
/// this goes round in circles.
const ROUNDS: usize = 40;

/// How often the first lists are looked for; only at start.
const LISTED_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Decisions did not come to rest.
    #[error("Run {run}: no rest after {ROUNDS} rounds, which is a fault of this program; last step: {step}")]
    Restless {
        /// Namespace and name.
        run: ObjectKey,
        /// The first step of the last round.
        step: String,
    },
}

impl Failure for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Request(error) => error.kind(),
            Self::Restless { .. } => ErrorKind::Bug,
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Request(error) => error.retry_after(),
            Self::Restless { .. } => None,
        }
    }
}

/// Starts the watches and the queue.
pub fn start(setup: Setup<'_>) {
    let Setup { client, clock, metrics, readiness, events, concurrency, tasks } = setup;
    let queue = Queue::new(ControllerName::Run, clock.clone(), concurrency, metrics.clone());
    let woken = queue.clone();
    let caches = watch(&client, tasks, &readiness, &metrics, move |key| woken.trigger(key));
    let executor = Executor { client, clock, events, memory: Arc::new(Memory::default()) };
    let controller = Arc::new(Controller { caches, executor });
    let token = tasks.token();
    tasks.spawn("run controller", async move {
        controller.wait_until_listed(&token).await;
        queue
            .run(token, |key| {
                let controller = Arc::clone(&controller);
                async move { controller.reconcile(&key).await }
            })
            .await
    });
}

/// One controller.
struct Controller {
    caches: Caches,
    executor: Executor,
}

impl Controller {
    /// Brings one Run as far as it can be brought now.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let mut seen = observe::observe(&self.caches, &self.executor.memory, key, self.executor.clock.now());
        let mut last = String::new();
        for _ in 0..ROUNDS {
            let decision = decide::decide(&seen, self.executor.clock.now());
            if decision.steps.is_empty() {
                return Ok(Outcome { wake_at: decision.wake_at });
            }
            last = format!("{:?}", decision.steps.first());
            execute::execute(&self.executor, decision.steps, &mut seen).await?;
            // An attempt that this round has ended makes it a question again.
            observe::look_at_pool(&self.caches, &mut seen);
        }
        last.truncate(last.floor_char_boundary(200));
        Err(Error::Restless { run: key.clone(), step: last })
    }

    /// A decision from half a world would take pods for lost.
    async fn wait_until_listed(&self, token: &CancellationToken) {
        let Caches { runs, pods, nodes, clusters, services, sizes, namespaces } = &self.caches;
        let listed = || {
            runs.is_initialised()
                && pods.is_initialised()
                && nodes.is_initialised()
                && clusters.is_initialised()
                && services.is_initialised()
                && sizes.is_initialised()
                && namespaces.is_initialised()
        };
        while !listed() && !token.is_cancelled() {
            tokio::time::sleep(LISTED_POLL).await;
        }
    }
}

/// Starts the watches; `wake` is called with every Run that a change concerns.
fn watch(
    client: &Client,
    tasks: &mut Tasks,
    readiness: &Readiness,
    metrics: &Metrics,
    wake: impl Fn(ObjectKey) + Clone + Send + Sync + 'static,
) -> Caches {
    let woken = wake.clone();
    let runs = Watch::<Run>::guarded("runs of the run controller", Api::all(client.clone()))
        .reduce(RunFacts::of)
        .notify(move |change| woken(change.key.clone()))
        .start(tasks, readiness, metrics);
    let woken = wake.clone();
    let pods = Watch::<Pod>::new("pods of runs", Api::all(client.clone()))
        .select(Selection::all().labels(labels::RUN_UID))
        .reduce(|pod| PodFacts::of(&pod))
        .index(|pod| Some(pod_entry(&pod.run)))
        .notify(move |change| {
            for pod in change.sides() {
                woken(pod.run.clone());
            }
        })
        .start(tasks, readiness, metrics);
    let woken = wake.clone();
    let nodes = Watch::<ClusterNode>::guarded("clusternodes of the run controller", Api::all(client.clone()))
        .reduce(|node| Some(NodeFacts::of(&node)))
        .index(|node| Some(node.cluster.uid.clone()))
        .notify(move |change| {
            for claim in change.sides().flat_map(|node| &node.claims) {
                woken(claim.run.clone());
            }
        })
        .start(tasks, readiness, metrics);
    let woken = wake.clone();
    let services = Watch::<Service>::new("services of runs", Api::all(client.clone()))
        .select(Selection::all().labels(labels::RUN_UID))
        .reduce(|service| ServiceFacts::of(&service))
        .notify(move |change| {
            // A new one is this controller's own as a rule; a wrong one is found when its Run is looked at.
            if change.before.is_some() {
                woken(change.key.clone());
            }
        })
        .start(tasks, readiness, metrics);
    // Clusters and sizes decide what queued Runs wait for; there are few, and what is read of them changes seldom.
    let (all, woken) = (runs.clone(), wake.clone());
    let clusters = Watch::<Cluster>::guarded("clusters of the run controller", Api::all(client.clone()))
        .reduce(|cluster| Some(ClusterFacts::of(&cluster)))
        .notify(move |change| {
            wake_waiting(&all, &woken, |run| run.cluster == change.key);
        })
        .start(tasks, readiness, metrics);
    // Its labels decide which Clusters of other namespaces its Runs may name.
    let (all, woken) = (runs.clone(), wake.clone());
    let namespaces = Watch::<Namespace>::new("namespaces of the run controller", Api::all(client.clone()))
        .reduce(|namespace| Some(namespace.metadata.labels.unwrap_or_default()))
        .notify(move |change| {
            let is_abroad = |run: &RunFacts| run.cluster.namespace != run.key.namespace;
            wake_waiting(&all, &woken, |run| run.key.namespace == change.key.name && is_abroad(run));
        })
        .start(tasks, readiness, metrics);
    let (all, woken) = (runs.clone(), wake);
    let sizes = Watch::<VmSize>::guarded("vmsizes of the run controller", Api::all(client.clone()))
        .reduce(|size| Some(SizeFacts::of(&size)))
        .notify(move |_| wake_waiting(&all, &woken, |_| true))
        .start(tasks, readiness, metrics);
    Caches { runs, pods, nodes, clusters, services, sizes, namespaces }
}

fn wake_waiting(runs: &Cache<RunFacts>, wake: &impl Fn(ObjectKey), concerns: impl Fn(&RunFacts) -> bool) {
    let waiting = runs.filter(|run| {
        run.phase == trainyard_api::run_status::RunPhase::Queued && run.whole.is_some() && concerns(run)
    });
    for run in waiting {
        wake(run.key.clone());
    }
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
