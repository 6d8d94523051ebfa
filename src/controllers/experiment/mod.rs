//! The experiment controller: makes an Experiment when a Run first uses it, and counts its Runs.
//!
//! Flow, per Experiment (by namespace and name): observe → [`mod@decide`] → execute. An Experiment made here has no owner, so
//! that nothing takes it away with it; one that is pruned is made again when an unfinished Run needs it.
//!
//! Guarantees: if no count changed, nothing is written; and each Experiment is written at most once in [`QUIET`], however
//! fast its Runs change.

mod decide;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use trainyard_api::experiment::ExperimentSpec;
use trainyard_api::names::FieldManager;
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Experiment, Run};

use crate::clock::SharedClock;
use crate::kubernetes::apply::{self, Seen};
use crate::kubernetes::cache::Cache;
use crate::kubernetes::error::Error;
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::watch::Watch;
use crate::kubernetes::workqueue::{Outcome, Queue};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{ControllerName, Metrics};
use crate::telemetry::readiness::Readiness;

use decide::{Decision, Observed, decide};

pub use decide::QUIET;

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
    /// Experiments reconciled at a time.
    pub concurrency: usize,
    /// Where everything runs.
    pub tasks: &'a mut Tasks,
}

/// How often the first lists are looked for; only at start.
const LISTED_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// What is kept of a Run: a line in a count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    experiment: ObjectKey,
    phase: RunPhase,
    deleting: bool,
}

impl Member {
    fn of(run: &Run) -> Option<Self> {
        let phase = run.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
        let experiment = ObjectKey::namespaced(run.namespace()?, &run.spec.experiment);
        Some(Self { experiment, phase, deleting: run.meta().deletion_timestamp.is_some() })
    }
}

/// Starts the watches and the queue.
pub fn start(setup: Setup<'_>) {
    let Setup { client, clock, metrics, readiness, concurrency, tasks } = setup;
    let queue = Queue::new(ControllerName::Experiment, clock.clone(), concurrency, metrics.clone());
    let woken = queue.clone();
    let runs = Watch::<Run>::guarded("runs of the experiment controller", Api::all(client.clone()))
        .reduce(|run| Member::of(&run))
        .index(|member| Some(member.experiment.to_string()))
        .notify(move |change| {
            for member in change.sides() {
                woken.trigger(member.experiment.clone());
            }
        })
        .start(tasks, &readiness, &metrics);
    let woken = queue.clone();
    let experiments = Watch::<Experiment>::guarded("experiments", Api::all(client.clone()))
        .whole()
        .notify(move |change| woken.trigger(change.key.clone()))
        .start(tasks, &readiness, &metrics);
    let controller = Arc::new(Controller { client, clock, runs, experiments, written: Mutex::default() });
    let token = tasks.token();
    tasks.spawn("experiment controller", async move {
        controller.wait_until_listed(&token).await;
        queue
            .run(token, |key| {
                let controller = Arc::clone(&controller);
                async move { controller.reconcile(&key).await }
            })
            .await
    });
}

struct Controller {
    client: Client,
    clock: SharedClock,
    runs: Cache<Member>,
    experiments: Cache<Experiment>,
    /// When each Experiment was last written, and which version that made. Lost with the process, without harm.
    written: Mutex<HashMap<ObjectKey, Timestamp>>,
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let now = self.clock.now();
        let experiment = self.experiments.get(key);
        let runs = self.runs.indexed(&key.to_string());
        let observed = Observed {
            experiment: experiment.as_deref(),
            runs: runs.iter().map(|run| (run.phase, run.deleting)).collect(),
            last_written: self.written().get(key).copied(),
        };
        match decide(&observed, now) {
            Decision::Rest => Ok(Outcome::settled()),
            Decision::WakeAt(when) => Ok(Outcome::wake_at(when)),
            Decision::Forget => {
                self.written().remove(key);
                Ok(Outcome::settled())
            }
            Decision::Create => {
                self.create(key).await?;
                Ok(Outcome::settled())
            }
            Decision::WriteStatus(status) => {
                if let Some(experiment) = experiment {
                    let api: Api<Experiment> = Api::namespaced(self.client.clone(), &key.namespace);
                    let manager = FieldManager::ExperimentStatus.as_str();
                    apply::merge_status(&api, &Seen::of(&*experiment)?, manager, &json!({"status": status}))
                        .await?;
                    self.written().insert(key.clone(), now);
                }
                Ok(Outcome::settled())
            }
        }
    }

    /// An Experiment of that name that appeared meanwhile is as good: it is nobody's, and ours to count in.
    async fn create(&self, key: &ObjectKey) -> Result<(), Error> {
        let api: Api<Experiment> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut experiment = Experiment::new(&key.name, ExperimentSpec::default());
        experiment.meta_mut().namespace = Some(key.namespace.clone());
        match apply::create(&api, &experiment, FieldManager::ExperimentCreate.as_str()).await {
            Ok(_) => Ok(()),
            // The Runs go with their namespace.
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn written(&self) -> MutexGuard<'_, HashMap<ObjectKey, Timestamp>> {
        // Nothing that can panic runs under this lock.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_until_listed(&self, token: &CancellationToken) {
        let listed = || self.runs.is_initialised() && self.experiments.is_initialised();
        while !listed() && !token.is_cancelled() {
            tokio::time::sleep(LISTED_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests;
