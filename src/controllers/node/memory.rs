//! What the controller remembers between two looks at one Cluster, and could do without.
//!
//! Nothing here decides what is right; a process that starts with an empty memory reaches the same end, with a live read
//! more or a few seconds later. What must survive is in the status of ClusterNodes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use trainyard_api::ClusterNode;
use trainyard_model::node::strangers::Strangers;

use super::ClusterUid;
use crate::kubernetes::version::order;

/// Memories by Cluster.
#[derive(Default)]
pub(super) struct Memory {
    pools: Mutex<HashMap<ClusterUid, PoolMemory>>,
}

/// The memory of one Cluster's machines.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PoolMemory {
    /// By UID of the ClusterNode: since when a live read has shown that its machine is gone.
    pub gone_since: HashMap<String, Timestamp>,
    /// By UID of the ClusterNode: the machine asked for, until its status says so.
    pub requested: HashMap<String, String>,
    /// By UID of the ClusterNode: what holds up its release, and until when it is not looked at again.
    pub held_up: HashMap<String, HeldUp>,
    /// By UID of the ClusterNode: what other pods take of its Node.
    pub strangers: HashMap<String, LookedAt>,
    /// By UID of the ClusterNode: as this process last wrote it, until its cache has caught up. Planned from an older
    /// version, the next write would only be refused.
    pub written: HashMap<String, Arc<ClusterNode>>,
    /// By UID of the machine: since when no ClusterNode accounts for it.
    pub strays: HashMap<String, Timestamp>,
}

/// Something that holds up a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldUp {
    /// What, in words.
    pub by: String,
    /// When to look again.
    pub until: Timestamp,
}

/// What a live list showed of other pods on a Node, and how long that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedAt {
    /// UID of the Node.
    pub node_uid: String,
    /// What they take.
    pub strangers: Strangers,
    /// UID and attempt of the runs that have held the node since. When one of them has gone, perhaps because a pod of it
    /// found no place, it is time for another look.
    pub holders: BTreeSet<(String, i32)>,
    /// When to look again although nothing has happened here.
    pub again_at: Option<Timestamp>,
}

impl PoolMemory {
    /// A ClusterNode in its newest known version.
    pub(super) fn newest(&self, cached: Arc<ClusterNode>) -> Arc<ClusterNode> {
        let written = cached.metadata.uid.as_ref().and_then(|uid| self.written.get(uid));
        match written {
            Some(written) if version(written) > version(&cached) => Arc::clone(written),
            _ => cached,
        }
    }
}

fn version(node: &ClusterNode) -> u64 {
    node.metadata.resource_version.as_deref().map_or(0, order)
}

impl Memory {
    /// A copy of one Cluster's memory; one key is never reconciled twice at a time, so nobody else changes it.
    pub(super) fn recall(&self, cluster: &ClusterUid) -> PoolMemory {
        self.lock().get(cluster).cloned().unwrap_or_default()
    }

    /// Keeps it; an empty one is forgotten.
    pub(super) fn keep(&self, cluster: &ClusterUid, memory: PoolMemory) {
        if memory == PoolMemory::default() {
            self.lock().remove(cluster);
        } else {
            self.lock().insert(cluster.clone(), memory);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClusterUid, PoolMemory>> {
        // Every change is one call on the map, so it is whole even if a panic happened elsewhere under the lock.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
