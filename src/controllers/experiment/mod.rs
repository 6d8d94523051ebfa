//! The experiment controller: makes an Experiment when a Run first uses it, counts its Runs, and deletes those that it does
//! not keep.
//!
//! Flow, per Experiment (by namespace and name): observe → [`mod@decide`] and [`retention`] → execute. An Experiment made
//! here has no owner, so that nothing takes it away with it; one that is pruned is made again when an unfinished Run needs
//! it.
//!
//! Guarantees: if no count changed, nothing is written; each Experiment is written at most once in [`QUIET`], however
//! fast its Runs change; only Runs that have finished are deleted, by UID, and a bounded number a second.

mod decide;
mod report;
mod retention;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use trainyard_api::experiment::ExperimentSpec;
use trainyard_api::names::FieldManager;
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Experiment, Run};

use crate::clock::SharedClock;
use crate::kubernetes::apply::{self, DeleteIf, Seen};
use crate::kubernetes::cache::Cache;
use crate::kubernetes::error::{Error, ErrorKind};
use crate::kubernetes::events::Events;
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::read;
use crate::kubernetes::watch::Watch;
use crate::kubernetes::workqueue::{Outcome, Queue};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{ControllerName, Metrics};
use crate::telemetry::readiness::Readiness;

use decide::{Decision, Observed, decide};
use retention::{Due, Finished};

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
    /// Tells people.
    pub events: Events,
    /// Experiments reconciled at a time.
    pub concurrency: usize,
    /// Where everything runs.
    pub tasks: &'a mut Tasks,
}

/// How often the first lists are looked for; only at start.
const LISTED_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// After a live read showed another Experiment than the cache. The watch brings that one, which triggers by itself; this is
/// for the case that its connection is dead.
const AFTER_CHANGE: SignedDuration = SignedDuration::from_secs(10);

/// What is kept of a Run: a line in a count, and of a finished one what it takes to delete it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    experiment: ObjectKey,
    phase: RunPhase,
    deleting: bool,
    finished: Option<Finished>,
}

impl Member {
    fn of(run: &Run) -> Option<Self> {
        let status = run.status.as_ref();
        let phase = status.and_then(|status| status.phase).unwrap_or_default();
        let experiment = ObjectKey::namespaced(run.namespace()?, &run.spec.experiment);
        let ended = status.and_then(|status| status.completion_time.as_ref()).map(|time| time.0);
        let finished = ended.filter(|_| phase.is_terminal()).zip(run.uid());
        let finished = finished.map(|(ended, uid)| Finished { name: run.name_any(), uid, ended });
        Some(Self { experiment, phase, deleting: run.meta().deletion_timestamp.is_some(), finished })
    }
}

/// Starts the watches and the queue.
pub fn start(setup: Setup<'_>) {
    let Setup { client, clock, metrics, readiness, events, concurrency, tasks } = setup;
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
    let done = Mutex::default();
    let controller = Arc::new(Controller { client, clock, events, runs, experiments, done });
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
    events: Events,
    runs: Cache<Member>,
    experiments: Cache<Experiment>,
    /// What was last done for each Experiment. Lost with the process, without harm.
    done: Mutex<HashMap<ObjectKey, Done>>,
}

/// When this process last did something for an Experiment.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// Wrote its status.
    written: Option<Timestamp>,
    /// Deleted Runs of it.
    deleted: Option<Timestamp>,
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let now = self.clock.now();
        let experiment = self.experiments.get(key);
        let runs = self.runs.indexed(&key.to_string());
        let observed = Observed {
            experiment: experiment.as_deref(),
            runs: runs.iter().map(|run| (run.phase, run.deleting)).collect(),
            last_written: self.done(key).written,
        };
        let mut wake_at = None;
        match decide(&observed, now) {
            Decision::Rest => {}
            Decision::WakeAt(when) => wake_at = Some(when),
            Decision::Forget => drop(self.all_done().remove(key)),
            Decision::Create => self.create(key).await?,
            Decision::WriteStatus(status) => {
                if let Some(experiment) = &experiment {
                    let api: Api<Experiment> = Api::namespaced(self.client.clone(), &key.namespace);
                    let manager = FieldManager::ExperimentStatus.as_str();
                    apply::merge_status(&api, &Seen::of(&**experiment)?, manager, &json!({"status": status}))
                        .await?;
                    self.all_done().entry(key.clone()).or_default().written = Some(now);
                }
            }
        }
        let again_at = self.delete_old(key, experiment.as_deref(), &runs, now).await?;
        Ok(Outcome { wake_at: wake_at.into_iter().chain(again_at).min() })
    }

    /// Deletes finished Runs that the Experiment does not keep; says when to look again.
    async fn delete_old(
        &self,
        key: &ObjectKey,
        experiment: Option<&Experiment>,
        runs: &[Arc<Member>],
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(experiment) = experiment.filter(|one| one.meta().deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let Some(kept) = &experiment.spec.retention else { return Ok(None) };
        // Only now, because an Experiment that keeps all may have tens of thousands.
        let finished = runs.iter().filter(|run| !run.deleting).filter_map(|run| run.finished.clone());
        let Due { now: old, again_at } =
            retention::due(kept, finished.collect(), self.done(key).deleted, now);
        if old.is_empty() {
            return Ok(again_at);
        }
        // What is deleted does not come back, and a cache behind a dead connection lags: the user may have thought better of it.
        let experiments: Api<Experiment> = Api::namespaced(self.client.clone(), &key.namespace);
        let live = read::get(&experiments, &key.name).await?;
        let is_same = |live: &Experiment| live.uid() == experiment.uid() && live.spec == experiment.spec;
        if !live.as_ref().is_some_and(is_same) {
            return Ok(Some(now + AFTER_CHANGE));
        }
        self.all_done().entry(key.clone()).or_default().deleted = Some(now);
        let runs: Api<Run> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut refused = None;
        for Finished { name, uid, ended: _ } in old {
            let seen = Seen { name, uid, resource_version: String::new() };
            match apply::delete(&runs, &seen, DeleteIf::SameObject, None).await {
                Ok(_) => {}
                // Another Run has that name by now: this one is gone.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                // One that somebody's policy keeps does not keep the others.
                Err(error) => refused = Some(error),
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        report::runs_deleted(&self.events, experiment, kept);
        Ok(again_at)
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

    fn done(&self, key: &ObjectKey) -> Done {
        self.all_done().get(key).copied().unwrap_or_default()
    }

    fn all_done(&self) -> MutexGuard<'_, HashMap<ObjectKey, Done>> {
        // Nothing that can panic runs under this lock.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
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
