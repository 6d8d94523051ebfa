//! What this process wrote and its caches may not show yet. Nothing here is needed for correctness, so it is lost with the
//! process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use trainyard_api::Run;
use trainyard_model::run::spec_hash;

use super::facts::PodFacts;
use super::observe::Pool;
use crate::kubernetes::key::ObjectKey;

/// How long an object that this process wrote is believed in although no cache shows it. Caches lag by milliseconds; a
/// cache behind a dead connection is re-listed after a minute, and by then a live read settles the matter anyway.
pub const BELIEVED: SignedDuration = SignedDuration::from_secs(10);

/// What this process wrote and learned that its caches do not show (yet). Lost with the process, without harm.
#[derive(Debug, Default)]
pub struct Memory {
    by_run: Mutex<BTreeMap<ObjectKey, Remembered>>,
    taken: Mutex<Vec<Taken>>,
}

/// How long the API server's yes to one Run holds for Runs of the same namespace, spec and machines. Somebody who submits
/// five hundred Runs at once has the same question answered once, not five hundred times; and a quota that is used up
/// meanwhile is found out by the pods themselves, as it would be after any other ten seconds in the queue.
const YES_HOLDS: SignedDuration = SignedDuration::from_secs(10);
/// Different Runs whose yes is remembered.
const YES_REMEMBERED: usize = 64;

/// A yes of the API server.
#[derive(Clone, Debug)]
struct Taken {
    namespace: String,
    spec_hash: String,
    pool: Pool,
    at: Timestamp,
}

/// What is remembered of one Run.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// The Run, newer than the cache has it.
    pub run: Option<Arc<Run>>,
    /// Pods that the cache does not show, or in an older state.
    pub pods: BTreeMap<String, Kept>,
    /// Its Service.
    pub service: Option<KeptService>,
    /// UID and attempt that is answered and not launched, and since when this process has seen it so.
    pub starting: Option<((String, i32), Timestamp)>,
    /// Of which UID the pods were rehearsed, and when.
    pub rehearsed: Option<(String, Timestamp)>,
}

/// The attempt that the Service of a Run was seen to select.
#[derive(Clone, Debug)]
pub struct KeptService {
    /// UID of the Run.
    pub run_uid: String,
    /// The attempt.
    pub attempt: i32,
    /// Since when.
    pub since: Timestamp,
}

/// A pod as an answer to a write showed it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The pod.
    pub pod: PodFacts,
    /// Since when.
    pub since: Timestamp,
    /// It was told to go: a cache that does not show it any more is right.
    pub leaving: bool,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Remembered>> {
        // Nothing that can panic runs under this lock.
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the Run is now.
    pub fn keep_run(&self, key: &ObjectKey, run: &Arc<Run>) {
        self.lock().entry(key.clone()).or_default().run = Some(Arc::clone(run));
    }

    /// Keeps what a pod is now, and whether it was told to go.
    pub fn keep_pod(&self, key: &ObjectKey, pod: &PodFacts, leaving: bool, now: Timestamp) {
        let mut all = self.lock();
        let kept = Kept { pod: pod.clone(), since: now, leaving };
        all.entry(key.clone()).or_default().pods.insert(pod.seen.name.clone(), kept);
    }

    /// Forgets a pod that is gone.
    pub fn forget_pod(&self, key: &ObjectKey, name: &str) {
        if let Some(remembered) = self.lock().get_mut(key) {
            remembered.pods.remove(name);
        }
    }

    /// Keeps that the Service of this Run selects this attempt.
    pub fn keep_service(&self, key: &ObjectKey, run_uid: &str, attempt: i32, now: Timestamp) {
        let kept = KeptService { run_uid: run_uid.to_owned(), attempt, since: now };
        self.lock().entry(key.clone()).or_default().service = Some(kept);
    }

    /// Keeps that the API server would take the pods of a Run like this one.
    pub fn keep_yes(&self, namespace: &str, run: &Run, pool: &Pool, now: Timestamp) {
        let spec_hash = spec_hash::of(&run.spec);
        let mut taken = self.taken();
        taken.retain(|one| {
            now.duration_since(one.at) < YES_HOLDS
                && !(one.namespace == namespace && one.spec_hash == spec_hash && one.pool == *pool)
        });
        if taken.len() < YES_REMEMBERED {
            taken.push(Taken { namespace: namespace.to_owned(), spec_hash, pool: pool.clone(), at: now });
        }
    }

    /// Whether the API server has just said yes to a Run like this one.
    pub fn said_yes(&self, namespace: &str, run: &Run, pool: &Pool, now: Timestamp) -> bool {
        let taken = self.taken();
        let fresh: Vec<&Taken> = taken
            .iter()
            .filter(|one| now.duration_since(one.at) < YES_HOLDS && one.namespace == namespace)
            .collect();
        if fresh.is_empty() {
            return false;
        }
        let spec_hash = spec_hash::of(&run.spec);
        fresh.iter().any(|one| one.spec_hash == spec_hash && one.pool == *pool)
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps when the pods of this Run were rehearsed.
    pub fn keep_rehearsal(&self, key: &ObjectKey, run_uid: &str, now: Timestamp) {
        self.lock().entry(key.clone()).or_default().rehearsed = Some((run_uid.to_owned(), now));
    }

    /// What is remembered of this Run.
    pub fn recall(&self, key: &ObjectKey) -> Remembered {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Remembers this instead.
    pub fn replace(&self, key: &ObjectKey, remembered: Remembered) {
        let is_empty = remembered.run.is_none()
            && remembered.pods.is_empty()
            && remembered.service.is_none()
            && remembered.starting.is_none()
            && remembered.rehearsed.is_none();
        let mut all = self.lock();
        if is_empty {
            all.remove(key);
        } else {
            all.insert(key.clone(), remembered);
        }
    }
}
