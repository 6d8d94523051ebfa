//! Events for people (`events.k8s.io/v1`).
//!
//! In: an object, an [`EventReason`], which is a closed set, and a note. Out: nothing; [`Events::tell`] returns at once and cannot
//! fail, and a reconcile never depends on an Event. One task writes them, one after the other.
//!
//! * The same Event (object, reason, note) again within [`SERIES`] counts up the one that exists, at most once in
//!   [`REFRESH`].
//! * Each object may cause [`BURST`] Events at once and one more every [`REFILL`]; what is beyond is dropped and
//!   counted in metrics.
//! * Notes are cut at 1024 bytes, beyond which the API server refuses them.
//!
//! Put numbers that change into status: with a changing note every Event is a new one.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    core::ObjectMeta,
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use trainyard_api::names::event::EventReason;

use super::error::{Error, ErrorKind, Verb};
use crate::{
    clock::SharedClock,
    tasks::Tasks,
    telemetry::metrics::{EventOutcome, Metrics},
};

/// How long the same Event is counted into the one that exists; as in Kubernetes' own recorders.
pub const SERIES: Duration = Duration::from_mins(6);
/// How often the count of a series is written.
pub const REFRESH: Duration = Duration::from_mins(1);
/// Events that one object may cause at once: more than a run needs from submission to its end.
pub const BURST: u32 = 20;
/// How long it takes an object to earn one more.
pub const REFILL: Duration = Duration::from_secs(30);

/// Events that wait to be written. One is written in some milliseconds, so this is the burst of a few seconds.
const WAITING: usize = 1024;
/// Objects and series remembered; beyond it those that matter no more are forgotten.
const REMEMBERED: usize = 4096;
/// How long the task may go on writing after a shutdown was asked for.
const LAST_WORDS: Duration = Duration::from_secs(3);

const CONTROLLER: &str = "trainyard.dev/operator";
/// What the operator was doing: the API server wants a word, and the reason says it all.
const ACTION: &str = "Reconcile";
const LONGEST_NOTE: usize = 1024;
const LONGEST_INSTANCE: usize = 128;

/// Tells Events. Clones write through the same task.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<Told>,
    metrics: Metrics,
}

#[derive(Clone, Debug, PartialEq)]
struct Told {
    regarding: ObjectReference,
    reason: EventReason,
    note: String,
}

impl Events {
    /// Starts the task that writes. `instance` is this process's identity.
    pub fn start(
        client: Client,
        instance: &str,
        clock: SharedClock,
        metrics: Metrics,
        tasks: &mut Tasks,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let writer = Writer {
            client,
            instance: cut(instance, LONGEST_INSTANCE).to_owned(),
            clock,
            metrics: metrics.clone(),
            series: HashMap::new(),
            allowances: HashMap::new(),
            written: 0,
        };
        let token = tasks.token();
        tasks.spawn("events", async move {
            writer.run(receiver, token.cancelled_owned()).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { sender, metrics }
    }

    /// Tells an Event about `object`.
    pub fn tell<K>(&self, object: &K, reason: EventReason, note: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.tell_about(object.object_ref(&()), reason, note);
    }

    /// Tells an Event about an object of which only a reference is at hand.
    pub fn tell_about(&self, regarding: ObjectReference, reason: EventReason, note: impl Into<String>) {
        let note = note.into();
        let note = cut(&note, LONGEST_NOTE).to_owned();
        let told = Told { regarding, reason, note };
        if self.sender.try_send(told).is_err() {
            self.metrics.count_event(EventOutcome::Dropped);
        }
    }
}

/// The longest beginning of `text` that has at most `bytes` bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

struct Writer {
    client: Client,
    instance: String,
    clock: SharedClock,
    metrics: Metrics,
    series: HashMap<u64, Series>,
    allowances: HashMap<String, Allowance>,
    written: u64,
}

/// An Event that exists.
struct Series {
    namespace: String,
    name: String,
    count: i32,
    last_told: Instant,
    last_written: Instant,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Told>, cancelled: impl Future<Output = ()>) {
        let mut cancelled = std::pin::pin!(cancelled);
        loop {
            tokio::select! {
                () = &mut cancelled => break,
                told = receiver.recv() => match told {
                    Some(told) => self.write(told).await,
                    // Every teller is gone; nothing will come until the shutdown.
                    None => return cancelled.await,
                },
            }
        }
        let rest = async {
            while let Ok(told) = receiver.try_recv() {
                self.write(told).await;
            }
        };
        if timeout(LAST_WORDS, rest).await.is_err() {
            tracing::info!("some Events were not written before the shutdown");
        }
    }

    async fn write(&mut self, told: Told) {
        let outcome = match self.write_or_count(&told).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let object = told.regarding.name.as_deref().unwrap_or_default();
                tracing::info!(
                    error = error.chain(),
                    object,
                    reason = told.reason.as_str(),
                    "cannot write an Event"
                );
                EventOutcome::Failed
            }
        };
        self.metrics.count_event(outcome);
    }

    async fn write_or_count(&mut self, told: &Told) -> Result<EventOutcome, Error> {
        let now = Instant::now();
        self.forget(now);
        let key = key_of(told);
        if let Some(series) = self.series.get_mut(&key).filter(|series| now < series.last_told + SERIES) {
            series.count = series.count.saturating_add(1);
            series.last_told = now;
            if now < series.last_written + REFRESH {
                return Ok(EventOutcome::Aggregated);
            }
            series.last_written = now;
            let (namespace, name, count) = (series.namespace.clone(), series.name.clone(), series.count);
            match self.count_up(&namespace, &name, count).await {
                // It has expired: told anew below.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => return result.map(|()| EventOutcome::Aggregated),
            }
        }
        let object = told.regarding.uid.clone().unwrap_or_default();
        if !self.allowances.entry(object).or_insert_with(|| Allowance::full(now)).spend(now) {
            return Ok(EventOutcome::Dropped);
        }
        let (namespace, name) = self.create(told).await?;
        self.series.insert(key, Series { namespace, name, count: 1, last_told: now, last_written: now });
        Ok(EventOutcome::Created)
    }

    async fn count_up(&self, namespace: &str, name: &str, count: i32) -> Result<(), Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let series = EventSeries { count, last_observed_time: MicroTime(self.clock.now()) };
        let patch = Patch::Merge(json!({ "series": series }));
        let patched = api.patch(name, &PatchParams::default(), &patch).await;
        patched.map(drop).map_err(|source| Error::request(Verb::Patch, format!("Event {name}"), source))
    }

    async fn create(&mut self, told: &Told) -> Result<(String, String), Error> {
        let now = self.clock.now();
        self.written += 1;
        let event = event(told, &self.instance, now, self.written);
        let metadata = (event.metadata.namespace.clone(), event.metadata.name.clone());
        let (namespace, name) = (metadata.0.unwrap_or_default(), metadata.1.unwrap_or_default());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let created = api.create(&PostParams::default(), &event).await;
        created.map_err(|source| Error::request(Verb::Create, format!("Event {name}"), source))?;
        Ok((namespace, name))
    }

    fn forget(&mut self, now: Instant) {
        if self.series.len() > REMEMBERED {
            self.series.retain(|_, series| now < series.last_told + SERIES);
        }
        if self.allowances.len() > REMEMBERED {
            self.allowances.retain(|_, allowance| !allowance.is_full(now));
        }
    }
}

/// What makes two Events the same. Events of different controllers differ in reason.
fn key_of(told: &Told) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Told { regarding, reason, note } = told;
    (&regarding.uid, &regarding.field_path, reason, note).hash(&mut hasher);
    hasher.finish()
}

/// The object to be created. `number` keeps apart Events of one instant.
fn event(told: &Told, instance: &str, now: Timestamp, number: u64) -> Event {
    // An Event about an object of the cluster has to stand somewhere; `default` is where everybody looks.
    let namespace = told.regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let object = cut(told.regarding.name.as_deref().unwrap_or_default(), 200);
    let name = format!("{object}.{:x}.{number:x}", now.as_microsecond());
    Event {
        metadata: ObjectMeta { namespace: Some(namespace), name: Some(name), ..ObjectMeta::default() },
        event_time: Some(MicroTime(now)),
        regarding: Some(told.regarding.clone()),
        type_: Some(told.reason.event_type().to_string()),
        reason: Some(told.reason.to_string()),
        action: Some(ACTION.to_owned()),
        note: Some(told.note.clone()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

/// How many Events an object may still cause.
struct Allowance {
    left: f64,
    since: Instant,
}

impl Allowance {
    fn full(now: Instant) -> Self {
        Self { left: f64::from(BURST), since: now }
    }

    fn at(&self, now: Instant) -> f64 {
        let earned = now.duration_since(self.since).as_secs_f64() / REFILL.as_secs_f64();
        (self.left + earned).min(f64::from(BURST))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.at(now) >= f64::from(BURST)
    }

    fn spend(&mut self, now: Instant) -> bool {
        let left = self.at(now);
        let may = left >= 1.0;
        *self = Self { left: if may { left - 1.0 } else { left }, since: now };
        may
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
