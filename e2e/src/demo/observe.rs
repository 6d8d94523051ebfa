//! One look at the Cluster, its nodes and its runs.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use trainyard_api::cluster::Cluster;
use trainyard_api::cluster_node::{ClusterNode, NodeState};
use trainyard_api::conditions::{self, ClusterCondition, ConditionStatus};
use trainyard_api::run::Run;
use trainyard_api::run_status::RunPhase;

/// Everything that is shown and judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// The Cluster, if it is there.
    pub pool: Option<Pool>,
    /// Its nodes, by ordinal.
    pub nodes: Vec<NodeRow>,
    /// The runs, in order of creation.
    pub runs: Vec<RunRow>,
}

/// The Cluster.
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
    /// Its ordinal.
    pub ordinal: i64,
    /// Its state.
    pub state: Option<NodeState>,
    /// Names of the runs on it.
    pub runs: Vec<String>,
    /// Seconds until it leaves, while it idles.
    pub leaves_in: Option<i64>,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Its name.
    pub name: String,
    /// Its phase.
    pub phase: RunPhase,
    /// What it waits for, or what became of it, in words.
    pub message: String,
    /// Nodes it needs.
    pub nodes: i32,
    /// When its pods were released.
    pub started: Option<Timestamp>,
}

/// Looks at one namespace.
pub async fn look(client: &Client, namespace: &str, cluster: &str, now: Timestamp) -> Result<Look> {
    let everything = ListParams::default();
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), namespace);
    let nodes: Api<ClusterNode> = Api::namespaced(client.clone(), namespace);
    let runs: Api<Run> = Api::namespaced(client.clone(), namespace);
    let pool = clusters.get_opt(cluster).await?;
    let idle = pool.as_ref().map_or(0, |pool| pool.spec.scale.idle_seconds_before_scale_down);
    let mut nodes: Vec<NodeRow> =
        nodes.list(&everything).await?.items.iter().map(|node| node_row(node, idle, now)).collect();
    nodes.sort_by_key(|node| node.ordinal);
    let mut runs = runs.list(&everything).await?.items;
    runs.sort_by_key(|run| (run.creation_timestamp(), run.name_any()));
    Ok(Look { pool: pool.as_ref().map(pool_row), nodes, runs: runs.iter().map(run_row).collect() })
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
        ordinal: node.spec.ordinal,
        state: status.state,
        runs: node.spec.claims.iter().map(|claim| claim.run_name.clone()).collect(),
        leaves_in: leaves_at.filter(|_| idles).map(|at| at.duration_since(now).as_secs().max(0)),
    }
}

fn run_row(run: &Run) -> RunRow {
    let status = run.status.clone().unwrap_or_default();
    let waiting = status.queue.as_ref().and_then(|queue| queue.message.clone());
    RunRow {
        name: run.name_any(),
        phase: status.phase.unwrap_or_default(),
        message: waiting.or(status.message).unwrap_or_default(),
        nodes: run.spec.node_count,
        started: status.attempts.last().and_then(|attempt| attempt.launched.as_ref()).map(|time| time.0),
    }
}
