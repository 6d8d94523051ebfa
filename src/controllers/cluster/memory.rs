//! What this process wrote and its caches may not show yet.
//!
//! Without it the next plan would be made from the world before the own writes, and each of its actions would end in a
//! conflict: harmless, but a wasted request each. Nothing here is needed for correctness, so it is lost with the
//! process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use trainyard_api::cluster::Cluster;
use trainyard_model::snapshot::{node::LightNode, run::LightRun};
use trainyard_planner::Occupied;

use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::version::order;

/// Longest time an object that this process created is believed in without the watch showing it and without a look at
/// the API server: longer than a watch lags as a rule, and short enough that an object that was deleted at once is not
/// planned with for long.
const BELIEVED_FOR: SignedDuration = SignedDuration::from_secs(5);

/// Longest time a newer version of an object that the watch does show is kept: longer than a watch whose connection has
/// died in silence takes to notice. A version that was written is never wrong, only some day of no use.
const KEPT_FOR: SignedDuration = SignedDuration::from_mins(2);

/// The newest versions this process has written.
#[derive(Default)]
pub struct Memory {
    nodes: Written<LightNode>,
    runs: Written<LightRun>,
    clusters: Written<Cluster>,
    occupied: Mutex<HashMap<ObjectKey, Met>>,
    /// When a Cluster's status was last written for show.
    pub shown: Mutex<HashMap<ObjectKey, Timestamp>>,
    /// Allowance of queue entries to write, per Cluster.
    pub queue_writes: Mutex<HashMap<ObjectKey, super::report::Allowance>>,
}

/// First and longest wait after a release that met a pod. A pod that is just ending is gone in a second; one that nobody
/// ends is looked for once a minute.
const LOOK_FOR_POD: (SignedDuration, SignedDuration) =
    (SignedDuration::from_secs(1), SignedDuration::from_mins(1));

/// A pod that a release met.
struct Met {
    node_uid: String,
    wait: SignedDuration,
    occupied: Occupied,
}

/// What memory can hold: an object with a version.
trait Versioned {
    fn version(&self) -> u64;
}

impl Versioned for LightNode {
    fn version(&self) -> u64 {
        order(&self.resource_version)
    }
}

impl Versioned for LightRun {
    fn version(&self) -> u64 {
        order(&self.resource_version)
    }
}

impl Versioned for Cluster {
    fn version(&self) -> u64 {
        self.metadata.resource_version.as_deref().map_or(0, order)
    }
}

/// One object as it was written.
struct Entry<V> {
    since: Timestamp,
    value: Arc<V>,
    /// Made by this process, and not shown by the watch since.
    is_new: bool,
}

type Written<V> = Mutex<HashMap<ObjectKey, Entry<V>>>;

/// The nodes of one Cluster as far as this process knows.
pub struct Newest {
    /// Each in its newest known version.
    pub nodes: Vec<Arc<LightNode>>,
    /// Created by this process, and not shown by the watch for so long that only a look can tell whether they are there.
    pub doubtful: Vec<Arc<LightNode>>,
    /// When the first of those that the watch does not show becomes doubtful.
    pub doubtful_at: Option<Timestamp>,
}

impl Memory {
    /// Remembers a node that this process created.
    pub fn node_created(&self, node: LightNode, now: Timestamp) {
        let key = ObjectKey::namespaced(&node.namespace, &node.name);
        remember(&self.nodes, key, node, true, now);
    }

    /// Remembers a node as it was written.
    pub fn node_written(&self, node: LightNode, now: Timestamp) {
        let key = ObjectKey::namespaced(&node.namespace, &node.name);
        remember(&self.nodes, key, node, false, now);
    }

    /// A node is not there any more.
    pub fn node_gone(&self, namespace: &str, name: &str) {
        let key = ObjectKey::namespaced(namespace, name);
        lock(&self.nodes).remove(&key);
        self.met().remove(&key);
    }

    /// A node's release met this pod; each time in a row is waited for twice as long.
    pub fn node_occupied(&self, node: &LightNode, pod: String, now: Timestamp) {
        let (first, longest) = LOOK_FOR_POD;
        let mut met = self.met();
        let known = met.get(&key_of(node)).filter(|known| known.node_uid == node.uid);
        let wait = known.map_or(first, |known| (known.wait * 2).min(longest));
        let occupied = Occupied { pod, until: now.checked_add(wait).unwrap_or(Timestamp::MAX) };
        met.insert(key_of(node), Met { node_uid: node.uid.clone(), wait, occupied });
    }

    /// A node's release met no pod.
    pub fn node_free(&self, node: &LightNode) {
        self.met().remove(&key_of(node));
    }

    /// What the last try to release this node met.
    pub fn occupied(&self, node: &LightNode) -> Option<Occupied> {
        let met = self.met();
        met.get(&key_of(node)).filter(|known| known.node_uid == node.uid).map(|known| known.occupied.clone())
    }

    fn met(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Met>> {
        self.occupied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a run as it was written.
    pub fn run_written(&self, run: LightRun, now: Timestamp) {
        let key = ObjectKey::namespaced(&run.id.namespace, &run.id.name);
        remember(&self.runs, key, run, false, now);
    }

    /// Remembers a Cluster as it was written.
    pub fn cluster_written(&self, cluster: Cluster, now: Timestamp) {
        let key = ObjectKey::of(&cluster);
        remember(&self.clusters, key, cluster, false, now);
    }

    /// Forgets what is kept for one Cluster of which nothing is left.
    pub fn cluster_gone(&self, key: &ObjectKey) {
        lock(&self.clusters).remove(key);
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.queue_writes.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// The nodes of one Cluster: the cached ones, each in its newest known version, and those created since.
    pub fn newest_nodes(
        &self,
        cached: Vec<Arc<LightNode>>,
        of: impl Fn(&LightNode) -> bool,
        now: Timestamp,
    ) -> Newest {
        let name = |node: &LightNode| ObjectKey::namespaced(&node.namespace, &node.name);
        let mut nodes = newest(&self.nodes, cached, name, now);
        let mut shown: Vec<ObjectKey> = nodes.iter().map(|node| name(node)).collect();
        shown.sort_unstable();
        let (mut doubtful, mut doubtful_at) = (Vec::new(), None::<Timestamp>);
        for (key, entry) in lock(&self.nodes).iter() {
            if !entry.is_new || shown.binary_search(key).is_ok() || !of(&entry.value) {
                continue;
            }
            let until = entry.since.checked_add(BELIEVED_FOR).unwrap_or(Timestamp::MAX);
            if until <= now {
                doubtful.push(Arc::clone(&entry.value));
            } else {
                nodes.push(Arc::clone(&entry.value));
                doubtful_at = Some(doubtful_at.map_or(until, |first| first.min(until)));
            }
        }
        Newest { nodes, doubtful, doubtful_at }
    }

    /// The runs of one Cluster, each in its newest known version. One that the cache does not show (any more) is
    /// left out: a watch by phase drops finished runs.
    pub fn newest_runs(&self, cached: Vec<Arc<LightRun>>, now: Timestamp) -> Vec<Arc<LightRun>> {
        let name = |run: &LightRun| ObjectKey::namespaced(&run.id.namespace, &run.id.name);
        newest(&self.runs, cached, name, now)
    }

    /// A Cluster in its newest known version.
    pub fn newest_cluster(&self, cached: Arc<Cluster>, now: Timestamp) -> Arc<Cluster> {
        newest(&self.clusters, vec![cached.clone()], ObjectKey::of, now).pop().unwrap_or(cached)
    }
}

fn key_of(node: &LightNode) -> ObjectKey {
    ObjectKey::namespaced(&node.namespace, &node.name)
}

fn lock<V>(written: &Written<V>) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Entry<V>>> {
    written.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember<V: Versioned>(written: &Written<V>, key: ObjectKey, value: V, is_new: bool, now: Timestamp) {
    let mut written = lock(written);
    let known = written.get(&key);
    if known.is_some_and(|known| known.value.version() > value.version()) {
        return;
    }
    // A node that was created and is claimed before the watch has shown it is still a new one.
    let is_new = is_new || known.is_some_and(|known| known.is_new);
    written.insert(key, Entry { since: now, value: Arc::new(value), is_new });
}

/// The cached objects, each in its newest known version.
fn newest<V: Versioned>(
    written: &Written<V>,
    cached: Vec<Arc<V>>,
    name: impl Fn(&V) -> ObjectKey,
    now: Timestamp,
) -> Vec<Arc<V>> {
    let mut written = lock(written);
    if written.is_empty() {
        return cached;
    }
    written.retain(|_, entry| entry.is_new || now.duration_since(entry.since) < KEPT_FOR);
    cached
        .into_iter()
        .map(|cached| {
            let key = name(&cached);
            match written.get_mut(&key) {
                Some(entry) if entry.value.version() > cached.version() => {
                    entry.is_new = false;
                    Arc::clone(&entry.value)
                }
                Some(_) => {
                    written.remove(&key);
                    cached
                }
                None => cached,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("small numbers of seconds are timestamps")
    }

    fn node(version: u64) -> LightNode {
        let node = serde_json::from_value(serde_json::json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ClusterNode",
            "metadata": {"name": "n1", "namespace": "ml", "uid": "u1", "resourceVersion": version.to_string(),
                         "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"cluster": {"name": "c", "uid": "c1"}, "ordinal": 1, "engine": {},
                     "vmSize": {"sizeName": "S", "vcpus": 1, "memory": "1Gi"},
                     "taint": {"key": "k", "effect": "NoSchedule"}},
        }));
        LightNode::of(&node.expect("a ClusterNode")).expect("it has all metadata")
    }

    fn versions(newest: &Newest) -> Vec<&str> {
        newest.nodes.iter().map(|node| node.resource_version.as_str()).collect()
    }

    #[test]
    fn a_version_that_was_written_is_newer_than_the_cache_until_the_cache_has_it() {
        let memory = Memory::default();
        memory.node_written(node(12), at(0));
        let newest = |version| memory.newest_nodes(vec![Arc::new(node(version))], |_| true, at(60));
        assert_eq!(versions(&newest(11)), ["12"]);
        assert_eq!(versions(&newest(13)), ["13"]);
    }

    #[test]
    fn a_node_that_the_cache_has_dropped_is_not_brought_back_by_what_was_once_written_to_it() {
        let memory = Memory::default();
        memory.node_written(node(12), at(0));
        assert_eq!(versions(&memory.newest_nodes(Vec::new(), |_| true, at(1))), [""; 0]);

        memory.node_created(node(14), at(2));
        assert_eq!(versions(&memory.newest_nodes(vec![Arc::new(node(13))], |_| true, at(2))), ["14"]);
        assert_eq!(versions(&memory.newest_nodes(Vec::new(), |_| true, at(3))), [""; 0], "it was shown once");
    }

    #[test]
    fn a_pod_that_stays_is_looked_for_less_and_less_often() {
        let (memory, node) = (Memory::default(), node(12));
        let mut waits = Vec::new();
        for _ in 0..8 {
            memory.node_occupied(&node, "ml/p".to_owned(), at(100));
            waits.extend(memory.occupied(&node).map(|met| met.until.as_second() - 100));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(memory.occupied(&LightNode { uid: "another".to_owned(), ..node.clone() }), None);
        memory.node_free(&node);
        assert_eq!(memory.occupied(&node), None);
    }

    #[test]
    fn a_created_node_is_believed_in_for_a_while_and_then_has_to_be_looked_at() {
        let memory = Memory::default();
        memory.node_created(node(12), at(0));
        memory.node_written(node(13), at(1));
        let soon = memory.newest_nodes(Vec::new(), |_| true, at(2));
        assert_eq!((versions(&soon), soon.doubtful_at), (vec!["13"], Some(at(6))));
        let late = memory.newest_nodes(Vec::new(), |_| true, at(6));
        assert_eq!((late.nodes.len(), late.doubtful.len()), (0, 1));
        memory.node_gone("ml", "n1");
        assert_eq!(memory.newest_nodes(Vec::new(), |_| true, at(6)).doubtful.len(), 0);
    }
}
