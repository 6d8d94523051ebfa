//! What the engine remembers between two questions, and could do without: what is set aside for ClusterNodes that are about to
//! be made, what a live look has found on Nodes that look free, and who wants to know of changes. A process that starts with
//! nothing remembered makes a Cluster ask in vain; what its ClusterNodes await follows from them
//! ([`claims`](super::claims)).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use trainyard_api::cluster_node::ClusterNodeSpec;
use trainyard_model::node::found::{Candidate, Fitness, fitness};

use super::claims::{Claim, Turn};
use crate::provisioner::Pool;

/// How long machines are set aside for ClusterNodes that are about to be made: they are made and seen within a second or two,
/// and then speak for themselves. Longer would keep others waiting for ClusterNodes that could not be made.
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

impl Entries {
    fn one_less(&mut self, cluster_uid: &str) {
        if let Some(aside) = self.set_aside.get_mut(cluster_uid) {
            aside.nodes -= 1;
        }
        self.set_aside.retain(|_, aside| aside.nodes > 0);
    }
}

impl SetAside {
    /// What is set aside for ClusterNodes that are not among those seen.
    fn unseen(&self, stored: &[Claim]) -> Option<Claim> {
        let own = stored.iter().filter(|claim| claim.pool.uid == self.pool.uid);
        let nodes = self.nodes - own.map(|claim| claim.nodes).sum::<i64>();
        let claim = || Claim { pool: self.pool.clone(), spec: self.spec.clone(), nodes, turn: None };
        (nodes > 0).then(claim)
    }
}

/// What is remembered that bears on one count.
#[derive(Default)]
pub(super) struct Page {
    /// Why Nodes are not taken that look free, by UID.
    pub passed_over: HashMap<String, String>,
    /// Awaited by other Clusters, or set aside for them, by `<namespace>/<name>`.
    pub reserved: BTreeMap<String, i64>,
    /// When the first of these is forgotten.
    pub until: Option<Timestamp>,
}

impl Ledger {
    /// What bears on a count for this pool among these Nodes, which others await, too: all of them, or those that go before its
    /// turn. What is past is forgotten.
    pub(super) fn page(
        &self,
        pool: &Pool,
        candidates: &[&Candidate],
        stored: &[Claim],
        turn: Option<&Turn>,
        now: Timestamp,
    ) -> Page {
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
        let unseen =
            entries.set_aside.values().filter_map(|aside| Some((aside.unseen(stored)?, aside.until)));
        let stored = stored.iter().map(|claim| (claim.clone(), Timestamp::MAX));
        for (claim, end) in stored.chain(unseen) {
            if claim.pool.uid == pool.uid || !claim.goes_before(turn) {
                continue;
            }
            let could_be_one_of_these = |candidate: &&&Candidate| {
                is_selected(&claim.spec, candidate)
                    && fitness(&claim.spec, candidate) == Fitness::Fit
                    && !page.passed_over.contains_key(&candidate.node.uid)
            };
            let fit = candidates.iter().filter(could_be_one_of_these).count() as i64;
            if fit > 0 {
                *page.reserved.entry(claim.pool.to_string()).or_default() += claim.nodes.min(fit);
                until.push(end);
            }
        }
        page.until = until.into_iter().min().filter(|end| *end < Timestamp::MAX);
        page
    }

    pub(super) fn set_aside(&self, pool: &Pool, spec: &ClusterNodeSpec, nodes: i64, now: Timestamp) {
        let aside = SetAside { pool: pool.clone(), spec: spec.clone(), nodes, until: now + SET_ASIDE_FOR };
        self.lock().set_aside.insert(pool.uid.clone(), aside);
    }

    /// One of those set aside for this pool has been taken.
    pub(super) fn took(&self, pool: &Pool, node_uid: &str, now: Timestamp) {
        let mut entries = self.lock();
        entries.one_less(&pool.uid);
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

    /// A ClusterNode of this Cluster awaits no machine any more, and has none. Those who asked before want to know.
    pub(super) fn gave_up(&self, cluster_uid: &str) -> Vec<Pool> {
        let mut entries = self.lock();
        entries.one_less(cluster_uid);
        let others = entries.asked.extract_if(|uid, _| uid != cluster_uid);
        others.map(|(_, (pool, _))| pool).collect()
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
