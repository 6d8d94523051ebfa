//! What the engine remembers between two questions, and could do without: what is set aside for whom, what a live look
//! has found on Nodes that look free, and who wants to know of changes. A process that starts with nothing remembered
//! makes a Cluster ask in vain, and may let another one have what was set aside for the rest of a gang.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use trainyard_api::cluster_node::ClusterNodeSpec;
use trainyard_model::node::found::{Candidate, Fitness, fitness};

use crate::provisioner::Pool;

/// How long machines are set aside for ClusterNodes that are about to be made: they are made and get theirs within a
/// second or two. Longer would keep others waiting when the process dies in between.
const SET_ASIDE_FOR: SignedDuration = SignedDuration::from_secs(30);

/// How long a Node with a pod of others on it is not looked at again: nothing tells when the pod goes, and a list for
/// each such Node in this time is what the API server does not notice.
const PASSED_OVER_FOR: SignedDuration = SignedDuration::from_secs(30);

/// The same for a Node of which a write was refused, by a policy of somebody's. Asked more often, a Cluster would ask for this machine
/// again and again.
const UNWRITABLE_FOR: SignedDuration = SignedDuration::from_mins(10);

/// How long a Node counts as a live look has found it, although the cache shows another state: longer than a watch lags.
const CACHE_LAG: SignedDuration = SignedDuration::from_secs(2);

#[derive(Default)]
pub(super) struct Ledger {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// By UID of the Cluster.
    set_aside: HashMap<String, SetAside>,
    /// By UID of the Node: why it is not taken, and until when that is believed.
    passed_over: HashMap<String, (String, Timestamp)>,
    /// By UID of the Cluster: who asked for a count, and for nodes of which kind.
    asked: HashMap<String, (Pool, ClusterNodeSpec)>,
}

struct SetAside {
    pool: Pool,
    spec: ClusterNodeSpec,
    nodes: i64,
    until: Timestamp,
}

/// What is remembered that bears on one count.
#[derive(Default)]
pub(super) struct Page {
    /// Why Nodes are not taken that look free, by UID.
    pub passed_over: HashMap<String, String>,
    /// Set aside for other Clusters, by `<namespace>/<name>`.
    pub reserved: BTreeMap<String, i64>,
    /// When the first of these is forgotten.
    pub until: Option<Timestamp>,
}

impl Ledger {
    /// What bears on a count for this pool among these Nodes. What is past is forgotten.
    pub(super) fn page(&self, pool: &Pool, candidates: &[&Candidate], now: Timestamp) -> Page {
        let mut entries = self.lock();
        entries.passed_over.retain(|_, (_, until)| now < *until);
        entries.set_aside.retain(|_, aside| now < aside.until);
        let mut page = Page::default();
        let mut until = Vec::new();
        for candidate in candidates {
            if let Some((why, end)) = entries.passed_over.get(&candidate.node.uid) {
                page.passed_over.insert(candidate.node.uid.clone(), why.clone());
                until.push(*end);
            }
        }
        for (uid, aside) in &entries.set_aside {
            let could_be_one_of_these = |candidate: &&&Candidate| {
                is_selected(&aside.spec, candidate) && fitness(&aside.spec, candidate) == Fitness::Fit
            };
            if *uid != pool.uid && candidates.iter().any(|one| could_be_one_of_these(&one)) {
                *page.reserved.entry(aside.pool.to_string()).or_default() += aside.nodes;
                until.push(aside.until);
            }
        }
        page.until = until.into_iter().min();
        page
    }

    pub(super) fn set_aside(&self, pool: &Pool, spec: &ClusterNodeSpec, nodes: i64, now: Timestamp) {
        let aside = SetAside { pool: pool.clone(), spec: spec.clone(), nodes, until: now + SET_ASIDE_FOR };
        self.lock().set_aside.insert(pool.uid.clone(), aside);
    }

    /// One of those set aside for this pool has been taken.
    pub(super) fn took(&self, pool: &Pool, node_uid: &str, now: Timestamp) {
        let mut entries = self.lock();
        if let Some(aside) = entries.set_aside.get_mut(&pool.uid) {
            aside.nodes -= 1;
            // As long as they come one after the other the rest stays set aside, however many there are.
            aside.until = now + SET_ASIDE_FOR;
        }
        entries.set_aside.retain(|_, aside| aside.nodes > 0);
        let why = "has just been taken".to_owned();
        entries.passed_over.insert(node_uid.to_owned(), (why, now + CACHE_LAG));
    }

    /// A live look has found this Node unfit, which the cache will show in a moment.
    pub(super) fn was_seen(&self, node_uid: &str, why: String, now: Timestamp) {
        self.lock().passed_over.insert(node_uid.to_owned(), (why, now + CACHE_LAG));
    }

    /// Its API server refuses to have it taken.
    pub(super) fn cannot_be_written(&self, node_uid: &str, why: String, now: Timestamp) {
        self.lock().passed_over.insert(node_uid.to_owned(), (why, now + UNWRITABLE_FOR));
    }

    pub(super) fn pass_over(&self, node_uid: &str, why: String, now: Timestamp) {
        self.lock().passed_over.insert(node_uid.to_owned(), (why, now + PASSED_OVER_FOR));
    }

    /// The Node is given back: what was remembered of it is over.
    pub(super) fn forget(&self, node_uid: &str) {
        self.lock().passed_over.remove(node_uid);
    }

    /// Notes who wants to know when the count is another one.
    pub(super) fn ask(&self, pool: &Pool, spec: &ClusterNodeSpec) {
        self.lock().asked.insert(pool.uid.clone(), (pool.clone(), spec.clone()));
    }

    /// The pools for which this change of a Node makes a difference. They are not told again before they have asked again:
    /// a Cluster that is gone is forgotten so.
    pub(super) fn concerned(&self, before: Option<&Candidate>, after: Option<&Candidate>) -> Vec<Pool> {
        let mut entries = self.lock();
        let look = |spec: &ClusterNodeSpec, candidate: Option<&Candidate>| {
            candidate.filter(|one| is_selected(spec, one)).map(|one| fitness(spec, one))
        };
        let concerned = entries.asked.extract_if(|_, (_, spec)| look(spec, before) != look(spec, after));
        concerned.map(|(_, (pool, _))| pool).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Every change leaves the maps whole, so a panic elsewhere while the lock was held spoils nothing.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the class of nodes like this selects it.
pub(super) fn is_selected(spec: &ClusterNodeSpec, candidate: &Candidate) -> bool {
    let block = spec.engine.static_node.as_ref();
    block.is_some_and(|block| candidate.is_selected(&block.node_selector))
}
