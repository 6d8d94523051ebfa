//! Runs a reconcile per key, when something happened to it or its time has come.
//!
//! Flow: watches and other controllers call [`Queue::trigger`]; the reconcile itself says when it wants to look again;
//! [`Queue::run`] calls it, for up to so many keys at once.
//!
//! Guarantees:
//! * One key is never reconciled twice at the same time. A trigger during its reconcile makes it run once more after.
//! * Triggers are counted once: however many arrive while a key waits, it runs once.
//! * The wake-up a reconcile returns replaces the one it returned before. A wake-up asked for from outside
//!   ([`Queue::trigger_at`]) stays until it fires; the earliest wins.
//! * A key that failed waits out its back-off; triggers in that time are kept and change nothing about the wait.
//! * A panic in a reconcile ends [`Queue::run`] with a fault: state that nobody understands is not worked on.
//!
//! Caveat: a reconcile is not told why it runs. It looks at the world and decides.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt::{Debug, Display},
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, Stream, StreamExt as _};
use jiff::Timestamp;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    backoff::{Backoff, Waits},
    error::ErrorKind,
};
use crate::{
    clock::{SharedClock, instant_of},
    tasks::{Fault, panic_message},
    telemetry::metrics::{ControllerName, Metrics, ReconcileOutcome},
};

/// Waits of a key whose reconcile failed. The first is short, because most failures are a restart of the API server or
/// a lost connection. The longest is what a person waits at most, after mending the cause, until it shows.
const FAILURE: Waits = Waits { first: Duration::from_secs(1), longest: Duration::from_mins(1) };

/// Waits of a key whose reconcile met a conflict: its cache was behind, and catches up within milliseconds.
const CONFLICT: Waits = Waits { first: Duration::from_millis(100), longest: Duration::from_secs(10) };

/// What a queue is keyed by.
pub trait Key: Clone + Eq + Hash + Ord + Debug + Display + Send + Sync + 'static {}
impl<K: Clone + Eq + Hash + Ord + Debug + Display + Send + Sync + 'static> Key for K {}

/// How a reconcile ended, when it did not fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When to look again, if nothing happens before.
    pub wake_at: Option<Timestamp>,
}

impl Outcome {
    /// Nothing to do until something changes.
    pub fn settled() -> Self {
        Self { wake_at: None }
    }

    /// Look again at this time, or when something changes.
    pub fn wake_at(when: Timestamp) -> Self {
        Self { wake_at: Some(when) }
    }
}

/// A reconcile's error, as far as the queue must know it.
pub trait Failure: std::error::Error + Send + 'static {
    /// What it means. A conflict is retried soon, everything else with growing waits.
    fn kind(&self) -> ErrorKind;

    /// How long the server asked to wait.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl Failure for super::Error {
    fn kind(&self) -> ErrorKind {
        super::Error::kind(self)
    }

    fn retry_after(&self) -> Option<Duration> {
        super::Error::retry_after(self)
    }
}

/// The keys of one controller. Clones are the same queue.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    name: ControllerName,
    clock: SharedClock,
    concurrency: usize,
    metrics: Metrics,
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    /// Keys due, in the order in which they became so.
    due: VecDeque<K>,
    /// The same keys, and those that are triggered while they run or wait out a back-off.
    triggered: HashSet<K>,
    running: HashSet<K>,
    wakes: Wakes<K>,
    failures: Backoff<K>,
    conflicts: Backoff<K>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Key> Queue<K> {
    /// An empty queue that reconciles up to `concurrency` keys at once.
    pub fn new(name: ControllerName, clock: SharedClock, concurrency: usize, metrics: Metrics) -> Self {
        let state = State {
            due: VecDeque::new(),
            triggered: HashSet::new(),
            running: HashSet::new(),
            wakes: Wakes::default(),
            failures: Backoff::new(FAILURE),
            conflicts: Backoff::new(CONFLICT),
        };
        let changed = Notify::new();
        let concurrency = concurrency.max(1);
        Self {
            shared: Arc::new(Shared { name, clock, concurrency, metrics, state: Mutex::new(state), changed }),
        }
    }

    /// Something happened to `key`.
    pub fn trigger(&self, key: K) {
        let mut state = self.lock();
        state.trigger(key, self.shared.clock.now());
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Something will have happened to `key` by `when`.
    pub fn trigger_at(&self, key: &K, when: Timestamp) {
        self.lock().wakes.ask(key, when);
        self.shared.changed.notify_one();
    }

    /// Triggers every key that the stream yields, until it ends.
    pub async fn feed(&self, keys: impl Stream<Item = K>) {
        let mut keys = std::pin::pin!(keys);
        while let Some(key) = keys.next().await {
            self.trigger(key);
        }
    }

    /// Calls `reconcile` for every key that is due, until the token is cancelled; then waits for those that run.
    pub async fn run<F, R, E>(&self, token: CancellationToken, reconcile: F) -> Result<(), Fault>
    where
        F: Fn(K) -> R,
        R: Future<Output = Result<Outcome, E>> + Send + 'static,
        E: Failure,
    {
        let mut running = JoinSet::new();
        let mut cancelled = std::pin::pin!(token.cancelled_owned());
        loop {
            let wake = self.start_due(&mut running, &reconcile);
            tokio::select! {
                () = &mut cancelled => break,
                () = self.shared.changed.notified() => {}
                () = sleep_until(wake) => {}
                Some(ended) = running.join_next() => self.end(ended)?,
            }
        }
        while let Some(ended) = running.join_next().await {
            self.end(ended)?;
        }
        Ok(())
    }

    /// Starts what is due and has a free slot. Returns when the next key falls due by itself.
    fn start_due<F, R, E>(&self, running: &mut JoinSet<Ended<K, E>>, reconcile: &F) -> Option<Instant>
    where
        F: Fn(K) -> R,
        R: Future<Output = Result<Outcome, E>> + Send + 'static,
        E: Failure,
    {
        let (keys, next) = self.take_due(self.shared.concurrency.saturating_sub(running.len()));
        // Outside the lock: whatever the closure does may trigger keys of this queue.
        for key in keys {
            let span = tracing::info_span!("reconcile", controller = %self.shared.name, %key);
            let future = AssertUnwindSafe(reconcile(key.clone()).instrument(span)).catch_unwind();
            let start = Instant::now();
            running.spawn(async move {
                let result = future.await.map_err(|panic| panic_message(panic.as_ref()));
                Ended { key, took: start.elapsed(), result }
            });
        }
        next.map(|when| instant_of(when, &*self.shared.clock))
    }

    /// Takes up to `free` keys that are due, and tells when the next one falls due by itself.
    fn take_due(&self, free: usize) -> (Vec<K>, Option<Timestamp>) {
        let now = self.shared.clock.now();
        let mut state = self.lock();
        for key in state.wakes.take_until(now) {
            state.trigger(key, now);
        }
        let count = free.min(state.due.len());
        let keys: Vec<K> = state.due.drain(..count).collect();
        for key in &keys {
            state.triggered.remove(key);
            state.running.insert(key.clone());
        }
        self.shared.metrics.set_queue_depth(self.shared.name, state.due.len());
        (keys, state.wakes.next())
    }

    fn end<E: Failure>(&self, ended: Result<Ended<K, E>, tokio::task::JoinError>) -> Result<(), Fault> {
        let panicked = |message| Fault::Panicked { task: "reconcile", message };
        let Ended { key, took, result } = ended.map_err(|error| panicked(error.to_string()))?;
        let result = result.map_err(|message| panicked(format!("{} {key}: {message}", self.shared.name)))?;
        let now = self.shared.clock.now();

        let mut state = self.lock();
        state.running.remove(&key);
        let outcome = match result {
            Ok(Outcome { wake_at }) => {
                state.failures.clear(&key);
                state.conflicts.clear(&key);
                state.wakes.set_own(&key, wake_at);
                if wake_at.is_some() { ReconcileOutcome::Scheduled } else { ReconcileOutcome::Settled }
            }
            Err(error) => {
                let asked = error.retry_after().unwrap_or_default();
                let is_conflict = error.kind() == ErrorKind::Conflict;
                let backoff = if is_conflict { &mut state.conflicts } else { &mut state.failures };
                let until = backoff.failed(&key, now, asked);
                let failures = backoff.failures(&key);
                state.wakes.set_own(&key, Some(until));
                self.log_failure(&key, &error, failures, until);
                if is_conflict { ReconcileOutcome::Conflicted } else { ReconcileOutcome::Failed }
            }
        };
        if state.triggered.remove(&key) {
            state.trigger(key, now);
        }
        drop(state);
        self.shared.metrics.record_reconcile(self.shared.name, outcome, took);
        Ok(())
    }

    fn log_failure(&self, key: &K, error: &dyn std::error::Error, failures: u32, until: Timestamp) {
        let controller = self.shared.name;
        let mut chain = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            chain.push_str(": ");
            chain.push_str(&error.to_string());
            cause = error.source();
        }
        // The first failure of a key is the daily noise of a distributed system, a repeated one a person's concern.
        if failures < 3 {
            tracing::info!(%controller, %key, error = chain, failures, %until, "reconcile failed and will be repeated");
        } else {
            tracing::warn!(%controller, %key, error = chain, failures, %until, "reconcile keeps failing");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // Nothing that can panic runs under this lock.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Ended<K, E> {
    key: K,
    took: Duration,
    result: Result<Result<Outcome, E>, String>,
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

impl<K: Key> State<K> {
    fn trigger(&mut self, key: K, now: Timestamp) {
        let left = self.failures.remaining(&key, now).max(self.conflicts.remaining(&key, now));
        if left.is_some() {
            // The wake-up that ends the back-off was set when it began.
            return;
        }
        if self.triggered.insert(key.clone()) && !self.running.contains(&key) {
            self.due.push_back(key);
        }
    }
}

/// Who wakes when. Each key has at most one wake-up of its own and one asked for from outside.
struct Wakes<K> {
    by_key: HashMap<K, [Option<Timestamp>; 2]>,
    by_time: BTreeSet<(Timestamp, K)>,
}

const OWN: usize = 0;
const ASKED: usize = 1;

impl<K> Default for Wakes<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Key> Wakes<K> {
    fn set_own(&mut self, key: &K, when: Option<Timestamp>) {
        self.change(key, |wakes| wakes[OWN] = when);
    }

    fn ask(&mut self, key: &K, when: Timestamp) {
        self.change(key, |wakes| wakes[ASKED] = Some(wakes[ASKED].map_or(when, |earlier| earlier.min(when))));
    }

    fn change(&mut self, key: &K, change: impl FnOnce(&mut [Option<Timestamp>; 2])) {
        let mut wakes = self.by_key.remove(key).unwrap_or_default();
        if let Some(before) = wakes.iter().flatten().min() {
            self.by_time.remove(&(*before, key.clone()));
        }
        change(&mut wakes);
        if let Some(after) = wakes.iter().flatten().min() {
            self.by_time.insert((*after, key.clone()));
            self.by_key.insert(key.clone(), wakes);
        }
    }

    fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(when, _)| *when)
    }

    /// Removes the wake-ups up to `now` and returns their keys.
    fn take_until(&mut self, now: Timestamp) -> Vec<K> {
        let mut taken = Vec::new();
        while let Some((when, key)) = self.by_time.first()
            && *when <= now
        {
            let key = key.clone();
            self.change(&key, |wakes| {
                for wake in wakes {
                    *wake = wake.filter(|when| *when > now);
                }
            });
            taken.push(key);
        }
        taken
    }
}

#[cfg(test)]
#[path = "workqueue_tests.rs"]
mod tests;
