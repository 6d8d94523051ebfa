//! What is known of one Run when its reconcile starts, and what is learned while it goes on.
//!
//! In: the caches, and what this process wrote that the caches have not shown yet. Out: an [`Observed`], the whole
//! input of [`super::decide`] besides the time. No request is made here.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use trainyard_api::Run;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster_node::ClusterIdentity;
use trainyard_api::placement::{Taint, Toleration};
use trainyard_model::run::{InvalidRun, ValidRun, acceptance};

use super::facts::{ClusterFacts, NodeFacts, PodFacts, RunFacts, ServiceFacts, SizeFacts, cluster_of};
use super::memory::{BELIEVED, Memory, Remembered};
use crate::kubernetes::cache::Cache;
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::version::order;

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
    /// Services with the label of a Run; each has its Run's name.
    pub services: Cache<ServiceFacts>,
    /// VmSizes.
    pub sizes: Cache<SizeFacts>,
    /// Labels of namespaces.
    pub namespaces: Cache<BTreeMap<String, String>>,
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

impl Pool {
    /// What the Run is judged by.
    pub fn as_seen(&self) -> acceptance::Pool<'_> {
        match (&self.cluster, &self.capacity) {
            (None, _) => acceptance::Pool::Missing,
            (Some(_), None) => acceptance::Pool::OfUnknownSize,
            (Some(_), Some(capacity)) => acceptance::Pool::Of(capacity),
        }
    }
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
    /// A webhook that must be asked does not answer.
    NoAnswer(String),
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
    /// Since when this process has seen that its attempt is answered and not launched.
    pub starting_since: Option<Timestamp>,
    /// When the API server was last asked whether it would take the pods, by this process.
    pub rehearsed_at: Option<Timestamp>,
    /// Whether the API server has just said that it would take the pods of a Run that differs in name only.
    pub alike_is_taken: bool,
    /// The attempt that its Service selects.
    pub service_for: Option<i32>,
    /// Whether a Service of it is there that is not being deleted, whatever it selects.
    pub has_service: bool,
    /// When something that is only believed in must be looked at again.
    pub believed_until: Option<Timestamp>,

    /// Learned in this reconcile: what the rehearsal said.
    pub rehearsal: Option<Rehearsal>,
    /// Learned in this reconcile: that `subject` comes from a live read, later than anything in `pods`.
    pub subject_is_live: bool,
    /// Learned in this reconcile, after the last write of the Run's status: that `pods` comes from a live list.
    pub pods_are_live: bool,
    /// Learned in this reconcile, after the last create of a pod: that `nodes` comes from live reads.
    pub nodes_are_live: bool,
    /// Learned in this reconcile: objects that the API server did not take.
    pub refusals: Vec<Refusal>,
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
        Some(shown) => order(&shown.seen.resource_version) < order(&kept.pod.seen.resource_version),
        None => !kept.leaving && now.duration_since(kept.since) < BELIEVED,
    });
    pods.extend(remembered.pods.iter().map(|(name, kept)| (name.clone(), kept.pod.clone())));

    let uid = match &subject {
        Subject::Live { run, .. } => run.metadata.uid.clone(),
        Subject::Over(facts) => Some(facts.seen.uid.clone()),
        Subject::Unseen | Subject::Gone => None,
    };
    let shown = caches.services.get(key).filter(|service| Some(&service.run_uid) == uid.as_ref());
    let has_service = shown.as_ref().is_some_and(|service| !service.deleting);
    let shown = shown.and_then(|service| service.attempt);
    remembered.service = remembered.service.filter(|kept| {
        Some(&kept.run_uid) == uid.as_ref()
            && Some(kept.attempt) != shown
            && now.duration_since(kept.since) < BELIEVED
    });
    let service_for = remembered.service.as_ref().map(|kept| kept.attempt).or(shown);
    let believed_since = remembered
        .pods
        .values()
        .map(|kept| kept.since)
        .chain(remembered.service.iter().map(|kept| kept.since));
    let believed_until = believed_since.min().map(|since| since + BELIEVED);
    let rehearsed_at =
        remembered.rehearsed.clone().filter(|(of, _)| Some(of) == uid.as_ref()).map(|(_, at)| at);
    let starting = match &subject {
        Subject::Live { run, .. } => starting_attempt(run),
        Subject::Over(_) | Subject::Unseen | Subject::Gone => None,
    };
    let kept = remembered.starting.take();
    remembered.starting = starting.map(|of| kept.filter(|kept| kept.0 == of).unwrap_or((of, now)));
    let starting_since = remembered.starting.as_ref().map(|(_, since)| *since);
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
        starting_since,
        rehearsed_at,
        alike_is_taken,
        service_for,
        has_service,
        believed_until,
        rehearsal: None,
        subject_is_live: false,
        pods_are_live: false,
        nodes_are_live: false,
        refusals: Vec::new(),
    }
}

/// Where the Run wants to run, once it is asked for: [`pool_of`] looks only while no attempt is live.
pub fn look_at_pool(caches: &Caches, seen: &mut Observed) {
    if let Subject::Live { run, .. } = &seen.subject
        && seen.pool.cluster.is_none()
    {
        seen.pool = pool_of(caches, &seen.key, run).unwrap_or_default();
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

/// UID and attempt of a Run that has an attempt which is answered and not launched.
fn starting_attempt(run: &Run) -> Option<(String, i32)> {
    let last = run.status.as_ref()?.attempts.last()?;
    let is_starting = last.cause.is_none() && last.launched.is_none();
    is_starting.then(|| Some((run.metadata.uid.clone()?, last.number))).flatten()
}

fn is_newer(run: &Run, cached: &RunFacts) -> bool {
    run.metadata.uid.as_ref() == Some(&cached.seen.uid)
        && run.metadata.resource_version.as_deref().map_or(0, order) > order(&cached.seen.resource_version)
}

fn nodes_of(caches: &Caches, run: &Run) -> BTreeMap<String, NodeFacts> {
    let namespace = cluster_of(run).namespace;
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
    let cluster = caches.clusters.get(&cluster_of(run))?;
    let labels = caches.namespaces.get(&ObjectKey::cluster_scoped(&key.namespace));
    if !cluster.lets_in(&key.namespace, labels.as_deref()) {
        return None;
    }
    // Any node tells the taint and tolerations of all; the smallest one is what every process must fit on.
    let nodes = caches.nodes.indexed(&cluster.id.uid);
    let smallest = acceptance::smallest(&nodes, |node| &node.capacity);
    let by_size = || {
        caches
            .sizes
            .filter(|size| size.answers_to(&cluster.vm_size))
            .first()
            .map(|size| size.capacity.clone())
    };
    Some(Pool {
        cluster: Some(cluster.id.clone()),
        capacity: smallest.map(|node| node.capacity.clone()).or_else(|| {
            match (&cluster.node_capacity, by_size()) {
                (Some(remembered), Some(promised)) => Some(acceptance::believed(remembered, &promised)),
                (remembered, promised) => remembered.clone().or(promised),
            }
        }),
        taint: smallest.map(|node| node.taint.clone()),
        tolerations: smallest.map(|node| node.tolerations.clone()).unwrap_or_default(),
    })
}
