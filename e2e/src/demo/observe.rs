//! One look at the Clusters, their nodes and runs, and at the machines that were there before.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use trainyard_api::cluster::Cluster;
use trainyard_api::cluster_node::{ClusterNode, NodeState};
use trainyard_api::conditions::{self, ClusterCondition, ConditionStatus};
use trainyard_api::names::node_labels;
use trainyard_api::run::Run;
use trainyard_api::run_status::RunPhase;

use crate::controlplane::what_is_set;

/// Everything that is shown and judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// The Clusters, in order of creation.
    pub pools: Vec<Pool>,
    /// Their nodes, by Cluster and ordinal.
    pub nodes: Vec<NodeRow>,
    /// The runs, in order of creation.
    pub runs: Vec<RunRow>,
    /// The machines that were there before.
    pub machines: Vec<MachineRow>,
}

/// A Cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Nodes there are.
    pub nodes: i32,
    /// Nodes there may be.
    pub max: i32,
    /// `Ready`.
    pub ready: ConditionStatus,
    /// Why, in words.
    pub message: String,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// The name of its Cluster.
    pub pool: String,
    /// Its ordinal.
    pub ordinal: i64,
    /// Its state.
    pub state: Option<NodeState>,
    /// Names of the runs on it.
    pub runs: Vec<String>,
    /// Accelerators it has.
    pub accelerators: i64,
    /// How many of them its runs have.
    pub in_use: i64,
    /// Seconds until it leaves, while it idles.
    pub leaves_in: Option<i64>,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Its name.
    pub name: String,
    /// The name of its Cluster.
    pub pool: String,
    /// Its phase.
    pub phase: RunPhase,
    /// What it waits for, or what became of it, in words.
    pub message: String,
    /// Nodes it needs.
    pub nodes: i32,
    /// When its pods were released.
    pub started: Option<Timestamp>,
}

/// One machine that was there before.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineRow {
    /// The name of its Node.
    pub name: String,
    /// The Cluster that has it.
    pub lent_to: Option<String>,
    /// Whether it looks as it did when it was found.
    pub as_found: bool,
}

impl Look {
    /// What of it belongs to one Cluster. The machines stay: they are nobody's.
    #[must_use]
    pub fn of(&self, pool: &str) -> Self {
        let mut look = self.clone();
        look.pools.retain(|one| one.name == pool);
        look.nodes.retain(|node| node.pool == pool);
        look.runs.retain(|run| run.pool == pool);
        look
    }

    /// Whether so many runs there are and all of them are done, no node is left, and every Cluster is Ready.
    pub fn is_done_with(&self, runs: usize) -> bool {
        self.runs_are_done(runs)
            && self.nodes.is_empty()
            && !self.pools.is_empty()
            && self.pools.iter().all(|pool| pool.nodes == 0 && pool.ready == ConditionStatus::True)
    }

    /// Whether so many runs there are, and all of them are done.
    pub fn runs_are_done(&self, runs: usize) -> bool {
        self.runs.len() == runs && self.runs.iter().all(|run| run.phase == RunPhase::Completed)
    }
}

/// How machines look as they are found, by name: to be compared with how they look later.
pub type Found = BTreeMap<String, Value>;

/// Notes how these machines look now, and that they are these and no others of the same name.
pub async fn find(client: &Client, machines: &[&str]) -> Result<Found> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut found = Found::new();
    for name in machines {
        found.insert((*name).to_owned(), identity(&nodes.get(name).await?));
    }
    Ok(found)
}

fn identity(node: &Node) -> Value {
    json!({"uid": node.uid(), "set": what_is_set(node)})
}

/// Looks at one namespace, and at the machines that were found.
pub async fn look(client: &Client, namespace: &str, found: &Found, now: Timestamp) -> Result<Look> {
    let everything = ListParams::default();
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), namespace);
    let nodes: Api<ClusterNode> = Api::namespaced(client.clone(), namespace);
    let runs: Api<Run> = Api::namespaced(client.clone(), namespace);
    let machines: Api<Node> = Api::all(client.clone());
    let mut pools = clusters.list(&everything).await?.items;
    pools.sort_by_key(|cluster| (cluster.creation_timestamp(), cluster.name_any()));
    let idle: BTreeMap<String, i32> =
        pools.iter().map(|pool| (pool.name_any(), pool.spec.scale.idle_seconds_before_scale_down)).collect();
    let mut nodes: Vec<NodeRow> = nodes
        .list(&everything)
        .await?
        .items
        .iter()
        .map(|node| node_row(node, idle.get(&node.spec.cluster.name).copied().unwrap_or_default(), now))
        .collect();
    nodes.sort_by_key(|node| (node.pool.clone(), node.ordinal));
    let mut runs = runs.list(&everything).await?.items;
    runs.sort_by_key(|run| (run.creation_timestamp(), run.name_any()));
    let machines = machines.list(&everything).await?.items;
    Ok(Look {
        pools: pools.iter().map(pool_row).collect(),
        nodes,
        runs: runs.iter().map(run_row).collect(),
        machines: machines.iter().filter_map(|node| machine_row(node, found)).collect(),
    })
}

fn pool_row(cluster: &Cluster) -> Pool {
    let status = cluster.status.clone().unwrap_or_default();
    let ready = conditions::find(&status.conditions, ClusterCondition::Ready);
    Pool {
        name: cluster.name_any(),
        nodes: status.current_node_count,
        max: cluster.spec.scale.max_nodes,
        ready: ready.map_or(ConditionStatus::Unknown, |ready| ready.status),
        message: ready.map(|ready| ready.message.clone()).unwrap_or_default(),
    }
}

fn node_row(node: &ClusterNode, idle_seconds: i32, now: Timestamp) -> NodeRow {
    let status = node.status.clone().unwrap_or_default();
    let idle_from =
        [status.first_ready_time.map(|time| time.0), node.spec.idle_since.as_ref().map(|time| time.0)];
    let leaves_at = idle_from
        .into_iter()
        .flatten()
        .max()
        .and_then(|from| from.checked_add(SignedDuration::from_secs(idle_seconds.into())).ok());
    let idles = status.state == Some(NodeState::Idle) && node.spec.retired.is_none();
    NodeRow {
        name: node.name_any(),
        pool: node.spec.cluster.name.clone(),
        ordinal: node.spec.ordinal,
        state: status.state,
        runs: node.spec.claims.iter().map(|claim| claim.run_name.clone()).collect(),
        accelerators: node.spec.vm_size.accelerators.iter().map(|kind| i64::from(kind.count)).sum(),
        in_use: node.spec.claims.iter().flat_map(|claim| claim.share.accelerators.values()).sum(),
        leaves_in: leaves_at.filter(|_| idles).map(|at| at.duration_since(now).as_secs().max(0)),
    }
}

fn run_row(run: &Run) -> RunRow {
    let status = run.status.clone().unwrap_or_default();
    let waiting = status.queue.as_ref().and_then(|queue| queue.message.clone());
    RunRow {
        name: run.name_any(),
        pool: run.spec.cluster_ref.name.clone(),
        phase: status.phase.unwrap_or_default(),
        message: waiting.or(status.message).unwrap_or_default(),
        nodes: run.spec.node_count,
        started: status.attempts.last().and_then(|attempt| attempt.launched.as_ref()).map(|time| time.0),
    }
}

fn machine_row(node: &Node, found: &Found) -> Option<MachineRow> {
    let was = found.get(&node.name_any())?;
    Some(MachineRow {
        name: node.name_any(),
        lent_to: node.labels().get(node_labels::CLUSTER).cloned(),
        as_found: identity(node) == *was,
    })
}
