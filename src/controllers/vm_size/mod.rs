//! The VmSize controller: says of each size whether Clusters can use it.
//!
//! In: all VmSizes. Out: the conditions of each. Two that claim one name are both Stalled, because neither can be
//! preferred; the Clusters that ask for the name are told the same by the cluster controller. Clashes of names are the
//! only thing the schema cannot see.

mod clash;

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use trainyard_api::conditions::{self, CatalogueCondition, Condition, ConditionStatus};
use trainyard_api::names::FieldManager;
use trainyard_api::vm_size::{VmSize, VmSizeStatus};

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

/// What the controller is started with.
pub struct Setup<'a> {
    /// The connection.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// What is counted.
    pub metrics: Metrics,
    /// Waits for the first list.
    pub readiness: Readiness,
    /// Sizes worked on at a time.
    pub concurrency: usize,
    /// Where everything runs.
    pub tasks: &'a mut Tasks,
}

/// Starts the watch and the queue.
pub fn start(setup: Setup<'_>) {
    let Setup { client, clock, metrics, readiness, concurrency, tasks } = setup;
    let queue = Queue::new(ControllerName::VmSize, clock.clone(), concurrency, metrics.clone());
    let woken = queue.clone();
    // A name given up by one size mends the other one, so all are looked at; they are few and change seldom.
    let sizes = Watch::<VmSize>::guarded("vmsize-vmsizes", Api::all(client.clone()))
        .whole()
        .notify(move |change| woken.trigger(change.key.clone()))
        .start(tasks, &readiness, &metrics);
    let context = Arc::new(Context { client, clock, sizes, queue: queue.clone() });
    let token = tasks.token();
    tasks.spawn("vmsize controller", async move {
        queue
            .run(token, move |key| {
                let context = Arc::clone(&context);
                async move { reconcile(&context, &key).await }
            })
            .await
    });
}

struct Context {
    client: Client,
    clock: SharedClock,
    sizes: Cache<VmSize>,
    queue: Queue<ObjectKey>,
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Outcome, Error> {
    let all = context.sizes.all();
    let Some(size) = context.sizes.get(key) else {
        // One that is gone may have been in the way of others.
        for other in all.iter().filter(|other| is_stalled(other)) {
            context.queue.trigger(ObjectKey::of(&**other));
        }
        return Ok(Outcome::settled());
    };
    let rivals = clash::rivals(&size, all.iter().map(AsRef::as_ref));
    for other in all
        .iter()
        .filter(|other| is_stalled(other) != rivals.iter().any(|rival| rival.name == other.name_any()))
    {
        if other.name_any() != key.name {
            context.queue.trigger(ObjectKey::of(&**other));
        }
    }
    let wanted = status(&size, &rivals, context.clock.now());
    if size.status.as_ref() != Some(&wanted) {
        let api: Api<VmSize> = Api::all(context.client.clone());
        let fields = json!({"status": wanted});
        apply::apply_status(&api, &Seen::of(&*size)?, FieldManager::VmSizeStatus.as_str(), &fields).await?;
    }
    Ok(Outcome::settled())
}

fn is_stalled(size: &VmSize) -> bool {
    size.status
        .as_ref()
        .is_some_and(|status| conditions::is_true(&status.conditions, CatalogueCondition::Stalled))
}

fn status(size: &VmSize, rivals: &[clash::Rival], now: Timestamp) -> VmSizeStatus {
    let mut conditions = size.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let generation = size.metadata.generation;
    let condition = |kind, status, reason: &str, message: &str| {
        Condition::new(kind, status, reason, message, now).observed(generation)
    };
    if rivals.is_empty() {
        conditions::set(
            &mut conditions,
            condition(CatalogueCondition::Ready, ConditionStatus::True, "Unambiguous", ""),
        );
        conditions::remove(&mut conditions, CatalogueCondition::Stalled);
    } else {
        let message = clash::sentence(rivals);
        let (reason, no, yes) = ("NameClaimedTwice", ConditionStatus::False, ConditionStatus::True);
        conditions::set(&mut conditions, condition(CatalogueCondition::Ready, no, reason, &message));
        conditions::set(&mut conditions, condition(CatalogueCondition::Stalled, yes, reason, &message));
    }
    VmSizeStatus { conditions, observed_generation: generation }
}
