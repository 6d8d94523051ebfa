//! What other namespaces and other Clusters mean for one Cluster: whose Runs it lets in, and what is left of a grant that
//! the Clusters of a namespace share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use trainyard_api::cluster::Cluster;
use trainyard_model::catalogue::Resolved;
use trainyard_model::snapshot::run::{LightRun, Standing};
use trainyard_planner::Machine;

use super::Context;
use super::caches::entry;
use crate::kubernetes::key::ObjectKey;

/// Turns of the namespaces whose Clusters share a grant.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the namespace's turn where a class limits the nodes of a namespace: two of its Clusters that count each
    /// other's nodes at one moment would both take what is left.
    pub async fn of(&self, context: &Context, namespace: &str) -> Option<OwnedMutexGuard<()>> {
        let is_limited =
            |class: &trainyard_api::ProvisioningClass| class.spec.max_nodes_per_namespace.is_some();
        if context.caches.classes.filter(is_limited).is_empty() {
            return None;
        }
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(namespace.to_owned()).or_default())
        };
        Some(turn.lock_owned().await)
    }
}

/// Whether a run may wait for this Cluster. One with a live attempt goes on: its namespace was let in when it started.
pub fn lets_in(context: &Context, cluster: &Cluster, key: &ObjectKey, run: &LightRun) -> bool {
    let namespace = &run.id.namespace;
    let labels = || context.caches.namespaces.get(&ObjectKey::cluster_scoped(namespace));
    !matches!(run.standing(), Standing::Queued)
        || *namespace == key.namespace
        || cluster.spec.lets_in(&key.namespace, namespace, labels().as_deref())
}

/// Nodes of the class that other Clusters of the namespace have; 0 where the class does not ask.
pub fn nodes_elsewhere(context: &Context, key: &ObjectKey, resolved: &Resolved, now: Timestamp) -> i64 {
    if resolved.grant.nodes_per_namespace.is_none() {
        return 0;
    }
    let others = context.caches.clusters.filter(|other| {
        let other = ObjectKey::of(other);
        other.namespace == key.namespace && other.name != key.name
    });
    // A class that was recorded a moment ago counts, though no watch has shown it yet: nodes are asked for right after.
    let others = others.into_iter().map(|other| context.memory.newest_cluster(other, now));
    let others = others.filter(|other| {
        let class = other.status.as_ref().and_then(|status| status.provisioning_class.as_ref());
        class.is_some_and(|class| class.name == resolved.class.name)
    });
    let nodes_of = |other: Arc<Cluster>| {
        let other = ObjectKey::of(&*other);
        let cached = context.caches.nodes.indexed(&entry(&other.namespace, &other.name));
        let of = |node: &trainyard_model::snapshot::node::LightNode| {
            node.namespace == other.namespace && node.cluster_name == other.name
        };
        let newest = context.memory.newest_nodes(cached, of, now);
        let all = newest.nodes.into_iter().chain(newest.doubtful);
        all.filter(|node| node.machine != Machine::Gone).count() as i64
    };
    others.map(nodes_of).sum()
}
