//! What is known of one Run when its reconcile starts, and what is learned while it goes on.
//!
//! In: the caches, and what this process wrote that the caches have not shown yet. Out: an [`Observed`], the whole
//! input of [`super::decide`] besides the time. No request is made here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use trainyard_api::Run;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster_node::ClusterIdentity;
use trainyard_api::placement::{Taint, Toleration};
use trainyard_model::run::{InvalidRun, ValidRun, spec_hash};

use super::facts::{ClusterFacts, NodeFacts, PodFacts, RunFacts, SizeFacts};
use crate::kubernetes::cache::Cache;
use crate::kubernetes::key::ObjectKey;

/// How long an object that this process wrote is believed in although no cache shows it. Caches lag by milliseconds; a
/// cache behind a dead connection is re-listed after a minute, and by then a live read settles the matter anyway.
pub const BELIEVED: SignedDuration = SignedDuration::from_secs(10);

/// The caches of the run controller.
#[derive(Clone, Debug)]
pub struct Caches {
    /// Runs.
    pub runs: Cache<RunFacts>,
    /// Pods with the label of a Run, indexed by [`pod_entry`].
    pub pods: Cache<PodFacts>,
    /// ClusterNodes, indexed by the UID of their Cluster.
    pub nodes: Cache<NodeFacts>,
    /// Clusters.
    pub clusters: Cache<ClusterFacts>,
    /// VmSizes.
    pub sizes: Cache<SizeFacts>,
}

/// The entry of the index under which the pods of a Run are found: its namespace and name.
pub fn pod_entry(run: &ObjectKey) -> String {
    run.to_string()
}

/// The Run, as far as known.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// It is there, and something may be left to do.
    Live {
        /// The object.
        run: Arc<Run>,
        /// Its checked form, or why it has none.
        valid: Result<Box<ValidRun>, InvalidRun>,
    },
    /// It is there and over.
    Over(Arc<RunFacts>),
    /// The caches do not show it.
    Unseen,
    /// A live read has found none of that name.
    Gone,
}

/// Where the Run wants to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// Its Cluster, if there is one.
    pub cluster: Option<ClusterIdentity>,
    /// What one of its nodes has for runs, as far as known.
    pub capacity: Option<Capacity>,
    /// The taint of its nodes, once it has one.
    pub taint: Option<Taint>,
    /// Tolerations its pods need besides.
    pub tolerations: Vec<Toleration>,
}

/// What the API server said to a create of the Run's pods that was only rehearsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rehearsal {
    /// It would take them.
    Taken,
    /// It would not.
    Refused(Refusal),
    /// A webhook stands in the way that cannot rehearse.
    CannotTell(String),
}

/// Why the API server did not take an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The object's name.
    pub name: String,
    /// The kind of refusal.
    pub why: Refused,
    /// The API server's words.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A ResourceQuota is used up.
    Quota,
    /// A policy, Pod Security or a schema says no.
    Policy,
    /// An object of that name exists and is somebody else's.
    NameTaken,
    /// The namespace is being deleted.
    NamespaceTerminating,
}

/// Everything a decision is made from.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each says of one part of the observation how fresh it is")]
pub struct Observed {
    /// Namespace and name of the Run.
    pub key: ObjectKey,
    /// The Run.
    pub subject: Subject,
    /// Pods with its name in their label, by name; those of an earlier Run of that name included.
    pub pods: BTreeMap<String, PodFacts>,
    /// The ClusterNodes of its allocation, by name.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// Where it wants to run.
    pub pool: Pool,
    /// When the API server was last asked whether it would take the pods, by this process.
    pub rehearsed_at: Option<Timestamp>,
    /// Whether the API server has just said that it would take the pods of a Run that differs in name only.
    pub alike_is_taken: bool,
    /// The attempt that the Service selects, as far as this process has seen to it.
    pub service_for: Option<i32>,
    /// When something that is only believed in must be looked at again.
    pub believed_until: Option<Timestamp>,

    /// Learned in this reconcile: what the rehearsal said.
    pub rehearsal: Option<Rehearsal>,
    /// Learned in this reconcile: that `subject` comes from a live read.
    pub subject_is_live: bool,
    /// Learned in this reconcile, after the last write of the Run's status: that `pods` comes from a live list.
    pub pods_are_live: bool,
    /// Learned in this reconcile, after the last create of a pod: that `nodes` comes from live reads.
    pub nodes_are_live: bool,
    /// Learned in this reconcile: objects that the API server did not take.
    pub refusals: Vec<Refusal>,
}

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

#[derive(Clone, Debug, Default)]
struct Remembered {
    run: Option<Arc<Run>>,
    pods: BTreeMap<String, Kept>,
    service: Option<(String, i32)>,
    rehearsed: Option<(String, Timestamp)>,
}

/// A pod as an answer to a write showed it.
#[derive(Clone, Debug)]
struct Kept {
    pod: PodFacts,
    since: Timestamp,
    /// It was told to go: a cache that does not show it any more is right.
    leaving: bool,
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
    pub fn keep_service(&self, key: &ObjectKey, run_uid: &str, attempt: i32) {
        self.lock().entry(key.clone()).or_default().service = Some((run_uid.to_owned(), attempt));
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

    fn said_yes(&self, namespace: &str, run: &Run, pool: &Pool, now: Timestamp) -> bool {
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

    fn recall(&self, key: &ObjectKey) -> Remembered {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    fn replace(&self, key: &ObjectKey, remembered: Remembered) {
        let is_empty = remembered.run.is_none()
            && remembered.pods.is_empty()
            && remembered.service.is_none()
            && remembered.rehearsed.is_none();
        let mut all = self.lock();
        if is_empty {
            all.remove(key);
        } else {
            all.insert(key.clone(), remembered);
        }
    }
}

/// Puts together what is known of the Run of this name.
pub fn observe(caches: &Caches, memory: &Memory, key: &ObjectKey, now: Timestamp) -> Observed {
    let mut remembered = memory.recall(key);
    let shown = caches.runs.get(key);
    let subject = match shown {
        None => {
            remembered = Remembered { pods: remembered.pods, ..Remembered::default() };
            Subject::Unseen
        }
        Some(shown) => {
            let newer = remembered.run.take().filter(|run| is_newer(run, &shown));
            remembered.run.clone_from(&newer);
            match newer.or_else(|| shown.whole.clone()) {
                Some(run) => live(run),
                None => Subject::Over(shown),
            }
        }
    };
    if matches!(subject, Subject::Over(_)) {
        // Nothing of it is needed again, and finished Runs are many.
        remembered = Remembered { pods: remembered.pods, ..Remembered::default() };
    }
    let mut pods: BTreeMap<String, PodFacts> = caches
        .pods
        .indexed(&pod_entry(key))
        .into_iter()
        .map(|pod| (pod.seen.name.clone(), PodFacts::clone(&pod)))
        .collect();
    remembered.pods.retain(|name, kept| match pods.get(name) {
        Some(shown) => version(&shown.seen.resource_version) < version(&kept.pod.seen.resource_version),
        None => !kept.leaving && now.duration_since(kept.since) < BELIEVED,
    });
    let believed_until = remembered.pods.values().map(|kept| kept.since + BELIEVED).min();
    pods.extend(remembered.pods.iter().map(|(name, kept)| (name.clone(), kept.pod.clone())));

    let uid = match &subject {
        Subject::Live { run, .. } => run.metadata.uid.clone(),
        Subject::Over(facts) => Some(facts.seen.uid.clone()),
        Subject::Unseen | Subject::Gone => None,
    };
    let service_for = remembered.service.clone().filter(|(of, _)| Some(of) == uid.as_ref()).map(|(_, k)| k);
    let rehearsed_at =
        remembered.rehearsed.clone().filter(|(of, _)| Some(of) == uid.as_ref()).map(|(_, at)| at);
    memory.replace(key, remembered);
    let (nodes, pool) = match &subject {
        Subject::Live { run, .. } => (nodes_of(caches, run), pool_of(caches, key, run).unwrap_or_default()),
        Subject::Over(_) | Subject::Unseen | Subject::Gone => (BTreeMap::new(), Pool::default()),
    };
    // Only a Run that was never asked for: one that was refused is asked for itself.
    let alike_is_taken = match &subject {
        Subject::Live { run, .. } => {
            let looked_at = run.status.as_ref().is_some_and(|status| !status.conditions.is_empty());
            !looked_at && memory.said_yes(&key.namespace, run, &pool, now)
        }
        Subject::Over(_) | Subject::Unseen | Subject::Gone => false,
    };
    Observed {
        key: key.clone(),
        subject,
        pods,
        nodes,
        pool,
        rehearsed_at,
        alike_is_taken,
        service_for,
        believed_until,
        rehearsal: None,
        subject_is_live: false,
        pods_are_live: false,
        nodes_are_live: false,
        refusals: Vec::new(),
    }
}

/// The Run as the subject of decisions.
pub fn live(run: Arc<Run>) -> Subject {
    match RunFacts::of(Run::clone(&run)) {
        Some(facts) if facts.whole.is_none() => Subject::Over(Arc::new(facts)),
        _ => {
            let valid = ValidRun::parse(&run).map(Box::new);
            Subject::Live { run, valid }
        }
    }
}

/// Versions of one object are compared as numbers, which API servers promise (KEP-5504). Should one not keep that, an
/// answer of our own write is thought older than it is, and the next write meets a conflict.
fn is_newer(run: &Run, cached: &RunFacts) -> bool {
    run.metadata.uid.as_ref() == Some(&cached.seen.uid)
        && run.metadata.resource_version.as_deref().and_then(version) > version(&cached.seen.resource_version)
}

fn version(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn nodes_of(caches: &Caches, run: &Run) -> BTreeMap<String, NodeFacts> {
    let namespace = run.metadata.namespace.clone().unwrap_or_default();
    let allocation = run.status.as_ref().and_then(|status| status.allocation.as_ref());
    let names = allocation.into_iter().flat_map(|allocation| &allocation.nodes).map(|node| &node.name);
    names
        .filter_map(|name| {
            let node = caches.nodes.get(&ObjectKey::namespaced(&namespace, name))?;
            Some((name.clone(), NodeFacts::clone(&node)))
        })
        .collect()
}

/// Looked for only while no attempt is live: that is when it is read, and a Cluster may have a thousand nodes.
fn pool_of(caches: &Caches, key: &ObjectKey, run: &Run) -> Option<Pool> {
    let last = run.status.as_ref().and_then(|status| status.attempts.last());
    if last.is_some_and(|last| last.cause.is_none()) {
        return None;
    }
    let cluster = caches.clusters.get(&ObjectKey::namespaced(&key.namespace, &run.spec.cluster_ref.name))?;
    // Any node tells the taint and tolerations of all; the smallest one is what every process must fit on.
    let nodes = caches.nodes.indexed(&cluster.id.uid);
    let smallest = nodes.iter().min_by_key(|node| (node.capacity.memory_bytes, node.capacity.cpu_millis));
    let by_size = || {
        caches
            .sizes
            .filter(|size| size.answers_to(&cluster.vm_size))
            .first()
            .map(|size| size.capacity.clone())
    };
    Some(Pool {
        cluster: Some(cluster.id.clone()),
        capacity: smallest.map(|node| node.capacity.clone()).or_else(by_size),
        taint: smallest.map(|node| node.taint.clone()),
        tolerations: smallest.map(|node| node.tolerations.clone()).unwrap_or_default(),
    })
}
