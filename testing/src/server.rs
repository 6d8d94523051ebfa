//! The server: its state, its settings, and what a test asks to happen.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::sync::watch;

use crate::{
    fault::{Course, Fault, Faults, Gate, Matching, Record, When},
    service::FakeService,
    store::Store,
};

pub(crate) struct State {
    pub store: Store,
    pub faults: Faults,
}

/// Wakes watches: something was written, or all connections were cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    pub version: u64,
    pub epoch: u64,
}

/// An API server in memory. Clones are the same server.
#[derive(Clone)]
pub struct FakeServer {
    state: Arc<Mutex<State>>,
    signal: Arc<watch::Sender<Signal>>,
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeServer")
            .field("objects", &self.lock().store.objects.len())
            .finish_non_exhaustive()
    }
}

impl Default for FakeServer {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeServer {
    /// An empty server whose clock starts at 2030-01-01T00:00:00Z and moves with tokio's.
    pub fn new() -> Self {
        let origin = tokio::time::Instant::now();
        let start = Timestamp::constant(1_893_456_000, 0);
        Self::with_clock(move || {
            let elapsed = SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::MAX);
            start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
        })
    }

    /// An empty server that takes the time from `now`.
    pub fn with_clock(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let state = State { store: Store::new(Box::new(now)), faults: Faults::default() };
        Self { state: Arc::new(Mutex::new(state)), signal: Arc::new(watch::Sender::new(Signal::default())) }
    }

    /// Removes objects whose owners (by UID) are all gone, as soon as they are.
    #[must_use]
    pub fn collecting_garbage(self) -> Self {
        self.lock().store.collect_garbage = true;
        self
    }

    /// Keeps a deleted pod that is bound to a node until it is deleted with a grace period of 0, as a kubelet does.
    #[must_use]
    pub fn stopping_pods_gracefully(self) -> Self {
        self.lock().store.graceful_pods = true;
        self
    }

    /// Lets server-side apply merge lists of this field name item by item, by these keys.
    #[must_use]
    pub fn merge_list_by(self, list: impl Into<String>, keys: &[&str]) -> Self {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        self.lock().store.list_keys.insert(list.into(), keys);
        self
    }

    /// A client under this user agent, without any layers.
    ///
    /// Must be called inside a tokio runtime.
    pub fn client(&self, agent: impl Into<String>) -> Client {
        Client::new(self.service(agent), "default")
    }

    /// The service under a client, to be put under layers of one's own. An empty agent leaves the request's header.
    pub fn service(&self, agent: impl Into<String>) -> FakeService {
        FakeService::new(self.clone(), agent.into())
    }

    /// Lets the `n`th write from now (counted from 1) lose its connection, before the server acts on it or after.
    pub fn fail_nth_write(&self, n: usize, when: When) {
        self.lock().faults.fail_nth_write(n, when);
    }

    /// Lets matching requests fail until [`FakeServer::heal`].
    pub fn fail(&self, on: Matching, fault: Fault) {
        self.lock().faults.add_rule(on, fault, None);
    }

    /// Lets the next matching requests fail.
    pub fn fail_times(&self, times: usize, on: Matching, fault: Fault) {
        self.lock().faults.add_rule(on, fault, Some(times));
    }

    /// Ends all faults. Gates stay.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Holds the next matching request, before the server acts on it or before its answer is sent; others pass.
    pub fn pause(&self, on: Matching, when: When) -> Gate {
        self.lock().faults.add_gate(on, when)
    }

    /// Breaks the connection of every watch that is open.
    pub fn cut_watches(&self) {
        self.signal.send_modify(|signal| signal.epoch += 1);
    }

    /// Forgets history: a watch from an older version gets 410.
    pub fn compact(&self) {
        let mut state = self.lock();
        state.store.compacted = state.store.version;
        state.store.history.clear();
        state.store.pages.clear();
    }

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<Record> {
        self.lock().faults.records.clone()
    }

    /// How many requests so far match.
    pub fn count(&self, on: &Matching) -> usize {
        self.lock().faults.records.iter().filter(|record| on.matches(record)).count()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.lock().faults.records.clear();
    }

    pub(crate) fn meet(&self, record: Record) -> Course {
        self.lock().faults.meet(record)
    }

    pub(crate) fn signal(&self) -> &watch::Sender<Signal> {
        &self.signal
    }

    /// Changes the store and then wakes the watches, if anything was written.
    pub(crate) fn change<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state.store);
        let version = state.store.version;
        drop(state);
        self.signal.send_if_modified(|signal| {
            let is_new = signal.version < version;
            signal.version = version.max(signal.version);
            is_new
        });
        result
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Poisoned only if an assertion of the test itself failed while it held the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
