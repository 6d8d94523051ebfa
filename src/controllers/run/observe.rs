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
use trainyard_model::run::{InvalidRun, ValidRun};

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
}

#[derive(Clone, Debug, Default)]
struct Remembered {
    run: Option<Arc<Run>>,
    pods: BTreeMap<String, (PodFacts, Timestamp)>,
    service: Option<(String, i32)>,
    rehearsed: Option<(String, Timestamp)>,
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

    /// Keeps what a pod is now.
    pub fn keep_pod(&self, key: &ObjectKey, pod: &PodFacts, now: Timestamp) {
        let mut all = self.lock();
        all.entry(key.clone()).or_default().pods.insert(pod.seen.name.clone(), (pod.clone(), now));
    }

    /// Keeps that the Service of this Run selects this attempt.
    pub fn keep_service(&self, key: &ObjectKey, run_uid: &str, attempt: i32) {
        self.lock().entry(key.clone()).or_default().service = Some((run_uid.to_owned(), attempt));
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
    let cached = caches.runs.get(key);
    let subject = match cached {
        None => {
            remembered = Remembered { pods: remembered.pods, ..Remembered::default() };
            Subject::Unseen
        }
        Some(cached) => {
            let newer = remembered.run.take().filter(|run| is_newer(run, &cached));
            remembered.run.clone_from(&newer);
            match newer.or_else(|| cached.whole.clone()) {
                Some(run) => live(run),
                None => Subject::Over(cached),
            }
        }
    };
    let mut pods: BTreeMap<String, PodFacts> = caches
        .pods
        .indexed(&pod_entry(key))
        .into_iter()
        .map(|pod| (pod.seen.name.clone(), PodFacts::clone(&pod)))
        .collect();
    remembered.pods.retain(|name, (pod, since)| match pods.get(name) {
        Some(cached) => version(&cached.seen.resource_version) < version(&pod.seen.resource_version),
        None => now.duration_since(*since) < BELIEVED,
    });
    let believed_until = remembered.pods.values().map(|(_, since)| *since + BELIEVED).min();
    pods.extend(remembered.pods.iter().map(|(name, (pod, _))| (name.clone(), pod.clone())));

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
        Subject::Live { run, .. } => (nodes_of(caches, run), pool_of(caches, key, run)),
        Subject::Over(_) | Subject::Unseen | Subject::Gone => (BTreeMap::new(), Pool::default()),
    };
    Observed {
        key: key.clone(),
        subject,
        pods,
        nodes,
        pool,
        rehearsed_at,
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

fn pool_of(caches: &Caches, key: &ObjectKey, run: &Run) -> Pool {
    let Some(cluster) =
        caches.clusters.get(&ObjectKey::namespaced(&key.namespace, &run.spec.cluster_ref.name))
    else {
        return Pool::default();
    };
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
    Pool {
        cluster: Some(cluster.id.clone()),
        capacity: smallest.map(|node| node.capacity.clone()).or_else(by_size),
        taint: smallest.map(|node| node.taint.clone()),
        tolerations: smallest.map(|node| node.tolerations.clone()).unwrap_or_default(),
    }
}
