//! Wire objects as the planner sees them.
//!
//! [`node`] and [`run`] reduce one object each to what decisions read; they are what the cluster controller caches.
//! [`assemble`] puts them together into the snapshot of one Cluster.

pub mod node;
pub mod run;

use jiff::SignedDuration;
use trainyard_api::cluster::{BackoffCause, Cluster, ClusterErrorCode};
use trainyard_planner::{
    ActiveRun, Backoff, EndedAttempt, FailureCause, GrowthBlock, Lifetime, NodeName, Placement, Policy,
    QueuedRun, Snapshot, Zone,
};

use crate::catalogue::{Refusal, Resolved};
use node::LightNode;
use run::{LightRun, Standing};

/// All that is known of one Cluster at one moment.
pub struct World<'a> {
    /// The Cluster, or `None` when no live read finds the one that `nodes` belong to.
    pub cluster: Option<&'a Cluster>,
    /// `<namespace>/<name>` of the Cluster.
    pub cluster_key: &'a str,
    /// Its nodes, by the Cluster's UID.
    pub nodes: &'a [&'a LightNode],
    /// The runs that name it, finished ones left out.
    pub runs: &'a [&'a LightRun],
    /// Its size and class.
    pub catalogue: Result<&'a Resolved, &'a Refusal>,
}

/// The planner's snapshot of that world.
pub fn assemble(world: &World<'_>) -> Snapshot {
    let status = world.cluster.and_then(|cluster| cluster.status.as_ref());
    let mut queued: Vec<QueuedRun> = Vec::new();
    let mut active: Vec<ActiveRun> = Vec::new();
    let mut ended: Vec<EndedAttempt> = Vec::new();
    for run in world.runs {
        match run.standing() {
            Standing::Queued => queued.push(run.as_queued()),
            Standing::Active(progress) => active.extend(run.as_active(progress)),
            Standing::Aside => {}
        }
        ended.extend(run.ended_attempt());
    }
    Snapshot {
        cluster: world.cluster_key.to_owned(),
        policy: policy(world),
        lifetime: lifetime(world.cluster),
        nodes: world.nodes.iter().map(|node| node.to_planner()).collect(),
        queued,
        active,
        ended,
        backoff: status.map(|status| status.backoff.iter().filter_map(backoff).collect()).unwrap_or_default(),
        // A status that was lost or restored from an old copy must not lead to a second node of one name.
        last_ordinal: world
            .nodes
            .iter()
            .map(|node| node.ordinal)
            .chain(status.map(|status| status.last_node_ordinal))
            .max()
            .unwrap_or(0),
        zone: status.and_then(|status| status.zone.clone()).map(Zone),
    }
}

/// Whether the Cluster is to stay.
pub fn lifetime(cluster: Option<&Cluster>) -> Lifetime {
    match cluster {
        None => Lifetime::Gone,
        Some(cluster) if cluster.metadata.deletion_timestamp.is_some() => Lifetime::Deleting,
        Some(_) => Lifetime::Wanted,
    }
}

fn policy(world: &World<'_>) -> Policy {
    let scale = world.cluster.map(|cluster| &cluster.spec.scale);
    Policy {
        min_nodes: scale.map_or(0, |scale| i64::from(scale.min_nodes)),
        max_nodes: scale.map_or(0, |scale| i64::from(scale.max_nodes)),
        idle_timeout: SignedDuration::from_secs(
            scale.map_or(0, |scale| i64::from(scale.idle_seconds_before_scale_down)),
        ),
        node_capacity: world.catalogue.map(|resolved| resolved.capacity.clone()).unwrap_or_default(),
        placement: world.catalogue.map_or(Placement::Any, |resolved| resolved.placement.clone()),
        growth_blocked: world.catalogue.err().map(|refusal| GrowthBlock {
            code: refusal.code.as_str().to_owned(),
            message: refusal.message.clone(),
        }),
    }
}

fn backoff(entry: &trainyard_api::cluster::Backoff) -> Option<Backoff> {
    Some(Backoff {
        cause: failure_cause(entry.cause)?,
        zone: entry.zone.clone().map(Zone),
        count: i64::from(entry.count),
        until: entry.until.0,
        message: String::new(),
    })
}

/// The planner's word for a back-off's cause; `None` for one written by a newer version.
pub fn failure_cause(cause: BackoffCause) -> Option<FailureCause> {
    match cause {
        BackoffCause::StockOut => Some(FailureCause::StockOut),
        BackoffCause::QuotaExceeded => Some(FailureCause::Quota),
        BackoffCause::LaunchFailed => Some(FailureCause::Rejected),
        BackoffCause::LaunchTimeout => Some(FailureCause::Timeout),
        BackoffCause::NodesUnusable => Some(FailureCause::Unusable),
        BackoffCause::Unknown => None,
    }
}

/// The wire's words for a failure: the back-off's cause and the error's code. `None` for what is not backed off, since
/// another machine of the kind may well be had: a lost or preempted one.
pub fn wire_cause(cause: FailureCause) -> Option<(BackoffCause, ClusterErrorCode)> {
    match cause {
        FailureCause::StockOut => Some((BackoffCause::StockOut, ClusterErrorCode::StockOut)),
        FailureCause::Quota => Some((BackoffCause::QuotaExceeded, ClusterErrorCode::QuotaExceeded)),
        FailureCause::Rejected => Some((BackoffCause::LaunchFailed, ClusterErrorCode::LaunchFailed)),
        FailureCause::Timeout => Some((BackoffCause::LaunchTimeout, ClusterErrorCode::LaunchTimeout)),
        FailureCause::Unusable => Some((BackoffCause::NodesUnusable, ClusterErrorCode::NodesUnusable)),
        FailureCause::Preempted | FailureCause::Lost => None,
    }
}

/// A ClusterNode's name as the planner writes it.
pub fn node_name(name: impl Into<String>) -> NodeName {
    NodeName(name.into())
}
