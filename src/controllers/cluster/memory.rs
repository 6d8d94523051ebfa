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

use crate::kubernetes::key::ObjectKey;

/// Longest time a written object is believed in without the watch showing it: longer than a watch lags as a rule, and
/// short enough that an object that was deleted at once is not planned with for long.
const BELIEVED_FOR: SignedDuration = SignedDuration::from_secs(5);

/// The newest versions this process has written.
#[derive(Default)]
pub struct Memory {
    nodes: Mutex<HashMap<ObjectKey, (Timestamp, Arc<LightNode>)>>,
    runs: Mutex<HashMap<ObjectKey, (Timestamp, Arc<LightRun>)>>,
    clusters: Mutex<HashMap<ObjectKey, (Timestamp, Arc<Cluster>)>>,
    /// When a Cluster's status was last written for show.
    pub shown: Mutex<HashMap<ObjectKey, Timestamp>>,
    /// Allowance of queue entries to write, per Cluster.
    pub queue_writes: Mutex<HashMap<ObjectKey, super::report::Allowance>>,
}

/// What memory can hold: an object with a version.
trait Versioned {
    fn version(&self) -> u64;
}

/// Resource versions are opaque by contract of old; Kubernetes made their order as integers part of the API (KEP-5504).
/// One that is no integer counts as oldest: the cache is then believed.
fn order(version: &str) -> u64 {
    version.parse().unwrap_or(0)
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

impl Memory {
    /// Remembers a node as it was written.
    pub fn node_written(&self, node: LightNode, now: Timestamp) {
        let key = ObjectKey::namespaced(&node.namespace, &node.name);
        remember(&self.nodes, key, node, now);
    }

    /// Remembers a run as it was written.
    pub fn run_written(&self, run: LightRun, now: Timestamp) {
        let key = ObjectKey::namespaced(&run.id.namespace, &run.id.name);
        remember(&self.runs, key, run, now);
    }

    /// Remembers a Cluster as it was written.
    pub fn cluster_written(&self, cluster: Cluster, now: Timestamp) {
        let key = ObjectKey::of(&cluster);
        remember(&self.clusters, key, cluster, now);
    }

    /// The nodes of one Cluster: the cached ones, each in its newest known version, and those created since.
    pub fn newest_nodes(
        &self,
        cached: Vec<Arc<LightNode>>,
        of: impl Fn(&LightNode) -> bool,
        now: Timestamp,
    ) -> Vec<Arc<LightNode>> {
        let name = |node: &LightNode| ObjectKey::namespaced(&node.namespace, &node.name);
        newest(&self.nodes, cached, name, of, now)
    }

    /// The runs of one Cluster, each in its newest known version. One that the cache does not show (any more) is
    /// left out: a watch by phase drops finished runs.
    pub fn newest_runs(&self, cached: Vec<Arc<LightRun>>, now: Timestamp) -> Vec<Arc<LightRun>> {
        let name = |run: &LightRun| ObjectKey::namespaced(&run.id.namespace, &run.id.name);
        newest(&self.runs, cached, name, |_| false, now)
    }

    /// A Cluster in its newest known version.
    pub fn newest_cluster(&self, cached: Arc<Cluster>, now: Timestamp) -> Arc<Cluster> {
        newest(&self.clusters, vec![cached.clone()], ObjectKey::of, |_| false, now).pop().unwrap_or(cached)
    }
}

type Written<V> = Mutex<HashMap<ObjectKey, (Timestamp, Arc<V>)>>;

fn remember<V: Versioned>(written: &Written<V>, key: ObjectKey, value: V, now: Timestamp) {
    let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
    match written.get(&key) {
        Some((_, known)) if known.version() > value.version() => {}
        _ => {
            written.insert(key, (now, Arc::new(value)));
        }
    }
}

fn newest<V: Versioned>(
    written: &Written<V>,
    cached: Vec<Arc<V>>,
    name: impl Fn(&V) -> ObjectKey,
    of: impl Fn(&V) -> bool,
    now: Timestamp,
) -> Vec<Arc<V>> {
    let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
    if written.is_empty() {
        return cached;
    }
    written.retain(|_, (since, _)| now.duration_since(*since) < BELIEVED_FOR);
    let mut shown = std::collections::HashSet::new();
    let mut all: Vec<Arc<V>> = cached
        .into_iter()
        .map(|cached| {
            let key = name(&cached);
            let newest = match written.get(&key) {
                Some((_, known)) if known.version() > cached.version() => Arc::clone(known),
                Some(_) => {
                    written.remove(&key);
                    cached
                }
                None => cached,
            };
            shown.insert(key);
            newest
        })
        .collect();
    all.extend(
        written
            .iter()
            .filter(|(key, (_, value))| !shown.contains(*key) && of(value))
            .map(|(_, (_, v))| Arc::clone(v)),
    );
    all
}
