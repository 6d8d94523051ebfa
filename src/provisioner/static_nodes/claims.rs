//! Who is to have Nodes that look free: ClusterNodes that exist and await a machine. Pure.
//!
//! A gang's Nodes are taken one after another, and the rest is its own meanwhile. That follows from objects that are stored, so
//! it is the same to every process, and to one that has just started. Where less is there than is awaited, those go first
//! that were asked for first, so that one gang is complete and not each of two by half.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt as _;
use trainyard_api::{ClusterNode, cluster_node::ClusterNodeSpec};

use crate::provisioner::Pool;

/// What the ClusterNodes of one Cluster await, as far as they are alike.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub pool: Pool,
    pub spec: ClusterNodeSpec,
    pub nodes: i64,
    /// Its place among those of other Clusters. None for what is set aside for ClusterNodes that are not seen yet: after all that
    /// are.
    pub turn: Option<Turn>,
}

/// Since when a Cluster awaits machines, and its UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(Timestamp, String);

impl Claim {
    /// Whether one of another Cluster goes before what this turn is about. Before one that has no turn, all do.
    pub(super) fn goes_before(&self, turn: Option<&Turn>) -> bool {
        turn.is_none_or(|turn| self.turn.as_ref().is_some_and(|own| own < turn))
    }
}

/// The claims of these ClusterNodes, all of which await a machine.
pub(super) fn of(awaiting: &[Arc<ClusterNode>]) -> Vec<Claim> {
    let mut by_cluster: BTreeMap<&str, Vec<&ClusterNode>> = BTreeMap::new();
    for node in awaiting {
        by_cluster.entry(&node.spec.cluster.uid).or_default().push(node);
    }
    let mut claims = Vec::new();
    for (uid, mut nodes) in by_cluster {
        nodes.sort_by_key(|node| node.spec.ordinal);
        let created = |node: &&ClusterNode| node.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let turn = nodes.iter().filter_map(created).min().map(|since| Turn(since, uid.to_owned()));
        for alike in nodes.chunk_by(|one, other| are_alike(&one.spec, &other.spec)) {
            let pool = Pool {
                namespace: alike[0].namespace().unwrap_or_default(),
                name: alike[0].spec.cluster.name.clone(),
                uid: uid.to_owned(),
            };
            let (spec, nodes) = (alike[0].spec.clone(), alike.len() as i64);
            claims.push(Claim { pool, spec, nodes, turn: turn.clone() });
        }
    }
    claims
}

/// Whether the same Nodes would do for both.
fn are_alike(one: &ClusterNodeSpec, other: &ClusterNodeSpec) -> bool {
    one.vm_size == other.vm_size
        && one.engine == other.engine
        && one.taint == other.taint
        && one.tolerations == other.tolerations
}
