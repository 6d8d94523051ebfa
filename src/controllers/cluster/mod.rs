//! The cluster controller: the only one that decides which nodes exist and which run gets them.
//!
//! Flow, per Cluster (by namespace and name): observe → plan → execute → report. The plan is the planner's, a pure
//! function; nothing here has a choice. Where machines are counted, what a plan asks for is set aside first ([`stock`]).
//!
//! Guarantees: a claim on a ClusterNode is written with the version the plan was made from, before the run's
//! allocation is; new ordinals and failures are stored in `Cluster.status` before the nodes are created or forgotten.
//! So two leaders, a stale cache or a pause between any two writes cost a conflict, never a share given twice.
//!
//! Assumptions: it alone writes `ClusterNode.spec`, `Run.status.allocation`, `Run.status.queue` and `Cluster.status`.

mod afterwards;
mod caches;
mod execute;
mod memory;
mod notices;
mod observe;
mod refused;
mod report;
mod stock;
mod tenancy;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::Client;

use crate::clock::SharedClock;
use crate::kubernetes::error::{Error, ErrorKind};
use crate::kubernetes::events::Events;
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::workqueue::{self, Queue};
use crate::provisioner::{Engines, Pool, Recount};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{ControllerName, Metrics};
use crate::telemetry::readiness::Readiness;

pub use caches::{Caches, watch};

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
    /// The engines, asked whether they could make machines of a class.
    pub engines: Engines,
    /// What people are told by.
    pub events: Events,
    /// Clusters reconciled at a time.
    pub concurrency: usize,
    /// Where everything runs.
    pub tasks: &'a mut Tasks,
}

/// Starts the watches and the queue.
pub fn start(setup: Setup<'_>) {
    let Setup { client, clock, metrics, readiness, engines, events, concurrency, tasks } = setup;
    let queue = Queue::new(ControllerName::Cluster, clock.clone(), concurrency, metrics.clone());
    let recounted = queue.clone();
    engines.on_recount(
        &(Arc::new(move |pool: &Pool| {
            recounted.trigger(ObjectKey::namespaced(&pool.namespace, &pool.name));
        }) as Recount),
    );
    let woken = queue.clone();
    let caches = watch(&client, tasks, &readiness, &metrics, move |key| woken.trigger(key));
    let context = Arc::new(Context::new(client, clock, engines, events, caches));
    let token = tasks.token();
    tasks.spawn("cluster controller", async move {
        context.caches.wait_until_listed(&token).await;
        context.engines.filled().await;
        queue
            .run(token, |key| {
                let context = Arc::clone(&context);
                async move { reconcile(&context, &key).await.map(|wake_at| workqueue::Outcome { wake_at }) }
            })
            .await
    });
}

/// What a reconcile needs.
pub struct Context {
    /// The connection.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// The engines.
    pub engines: Engines,
    /// What people are told by.
    pub events: Events,
    /// What the watches have seen.
    pub caches: Caches,
    memory: memory::Memory,
    refused: refused::Refused,
    turns: tenancy::Turns,
}

impl Context {
    /// A controller that has written nothing yet.
    pub fn new(client: Client, clock: SharedClock, engines: Engines, events: Events, caches: Caches) -> Self {
        Self {
            client,
            clock,
            engines,
            events,
            caches,
            memory: memory::Memory::default(),
            refused: refused::Refused::default(),
            turns: tenancy::Turns::default(),
        }
    }
}

/// After a conflict the watch brings the newer object, which triggers by itself; this is for the case that it brought
/// it before the conflict was seen.
const AFTER_CONFLICT: SignedDuration = SignedDuration::from_millis(200);

/// After a request failed. One object that the API server refuses must not slow the whole Cluster down, so this is no
/// growing back-off; and a plan is cheap, so it may be tried this often.
const AFTER_FAILURE: SignedDuration = SignedDuration::from_secs(2);

/// Decides about and acts for the Clusters of one name: the one that is there, and any that were there before it and
/// left nodes behind. Returns when to look again if nothing changes.
pub async fn reconcile(context: &Arc<Context>, key: &ObjectKey) -> Result<Option<Timestamp>, Error> {
    let _turn = context.turns.of(context, &key.namespace).await;
    let now = context.clock.now();
    let mut next_look = None;
    for mut scope in observe::observe(context, key).await? {
        let plan = stock::plan(context, &mut scope, now).await;
        let mut outcome = execute::execute(context, &scope, &plan.actions).await;
        let reported = report::report(context, &scope, &plan, now).await;
        outcome.merge(reported.outcome);
        if reported.stored {
            outcome.merge(afterwards::afterwards(context, &scope, &plan).await);
        }
        next_look = earliest([
            next_look,
            plan.wake_at,
            outcome.look_again_at(now),
            reported.rest_at,
            scope.recheck_at,
        ]);
    }
    Ok(next_look)
}

fn soon(now: Timestamp) -> Option<Timestamp> {
    now.checked_add(AFTER_FAILURE).ok()
}

fn earliest(times: impl IntoIterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    times.into_iter().flatten().min()
}

/// Why an action was not carried out.
#[derive(Debug)]
enum Undone {
    /// It may not be before something else has happened, of which no watch tells.
    NotYet(&'static str),
    /// A request failed, or the world is not the planned one any more.
    Failed(Error),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What came of carrying out some actions.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// Actions given up because something had changed since it was observed.
    conflicts: usize,
    /// Actions whose request failed for another reason.
    failures: usize,
    /// Actions that must wait for something.
    waits: usize,
}

impl Outcome {
    /// Takes in the result of one action.
    fn add(&mut self, action: &'static str, scope: &str, result: Result<(), Undone>) {
        let error = match result {
            Ok(()) => return,
            Err(Undone::NotYet(until)) => {
                tracing::debug!(cluster = scope, action, until, "not yet");
                self.waits += 1;
                return;
            }
            Err(Undone::Failed(error)) => error,
        };
        match error.kind() {
            ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::AlreadyExists => {
                tracing::debug!(
                    cluster = scope,
                    action,
                    error = error.chain(),
                    "the world moved on; planning again"
                );
                self.conflicts += 1;
            }
            ErrorKind::Forbidden
            | ErrorKind::Invalid
            | ErrorKind::Throttled
            | ErrorKind::Unavailable
            | ErrorKind::Bug => {
                tracing::warn!(cluster = scope, action, error = error.chain(), "action failed");
                self.failures += 1;
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.conflicts += other.conflicts;
        self.failures += other.failures;
        self.waits += other.waits;
    }

    fn look_again_at(self, now: Timestamp) -> Option<Timestamp> {
        let conflict = (self.conflicts > 0).then_some(AFTER_CONFLICT);
        let failure = (self.failures + self.waits > 0).then_some(AFTER_FAILURE);
        conflict.or(failure).map(|pause| now.checked_add(pause).unwrap_or(now))
    }
}

/// Requests that one reconcile has under way at a time. The API server's own default for one client's share of work is
/// far above; more than this only makes the queue inside the client longer.
const CONCURRENT_WRITES: usize = 24;

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
