//! Wire objects as the planner sees them.
//!
//! [`node`] and [`run`] reduce one object each to what decisions read; they are what the cluster controller caches.
//! [`parts`] tells the Clusters of one name apart; [`assemble`] puts everything together into the snapshot of one Cluster.

pub mod node;
pub mod parts;
pub mod removals;
pub mod run;

use jiff::SignedDuration;
use trainyard_api::cluster::{
    BackoffCause, Cluster, ClusterErrorCode, ClusterHold, Deallocation as WireDeallocation,
};
use trainyard_planner::{
    ActiveRun, Backoff, Capacity, Deallocation, EndedAttempt, FailureCause, GrowthBlock, Lifetime, Machine,
    NodeName, Placement, Policy, PoolHold, QueuedRun, Snapshot, Stock, Zone,
};

use crate::catalogue::{Refusal, Resolved};
use crate::node::found::Counted;
use crate::run::acceptance;
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
    /// Nodes that other Clusters of its namespace have of its class.
    pub nodes_elsewhere: i64,
    /// What its engine still has, where it can count that.
    pub counted: Option<&'a Counted>,
}

/// The planner's snapshot of that world.
pub fn assemble(world: &World<'_>) -> Snapshot {
    let status = world.cluster.and_then(|cluster| cluster.status.as_ref());
    let node_capacity = node_capacity(world);
    let mut queued: Vec<QueuedRun> = Vec::new();
    let mut active: Vec<ActiveRun> = Vec::new();
    let mut ended: Vec<EndedAttempt> = Vec::new();
    for run in world.runs {
        match run.standing() {
            Standing::Queued => queued.push(run.as_queued(&node_capacity)),
            Standing::Active(progress) => active.extend(run.as_active(progress)),
            Standing::Aside => {}
        }
        ended.extend(run.ended_attempt());
    }
    Snapshot {
        cluster: world.cluster_key.to_owned(),
        policy: policy(world, node_capacity.clone()),
        lifetime: lifetime(world.cluster),
        nodes: world.nodes.iter().map(|node| node.to_planner(&node_capacity)).collect(),
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
        removals: world.cluster.map(removals::asked).unwrap_or_default(),
        zone: status.and_then(|status| status.zone.clone()).map(Zone),
    }
}

/// What a node of this Cluster has for runs: as measured, now or when there last were nodes; before the first one, as
/// promised by the size. Zero, when that is not known either: then there are no nodes.
fn node_capacity(world: &World<'_>) -> Capacity {
    let remembered = world.cluster.and_then(|cluster| cluster.status.as_ref()?.node_capacity.as_ref());
    measured_capacity(world.nodes.iter().filter_map(|node| node.measured.as_ref()))
        .or_else(|| match (remembered, world.catalogue.ok()) {
            (Some(remembered), Some(Resolved { size, .. })) => {
                let promised = acceptance::promised(size.vcpus, &size.memory, &size.accelerators);
                Some(node::planner_capacity(&acceptance::believed(remembered, &promised)))
            }
            (Some(remembered), None) => Some(node::planner_capacity(remembered)),
            (None, Some(resolved)) => Some(node::promised(&resolved.size)),
            (None, None) => None,
        })
        .or_else(|| world.nodes.first().map(|node| node.promised.clone()))
        .unwrap_or_default()
}

/// What each of these nodes has at least. Nodes of one size differ by little (memory that firmware keeps, a DaemonSet
/// that is on some); a part of the least is a part of all.
pub fn measured_capacity<'a>(nodes: impl IntoIterator<Item = &'a Capacity>) -> Option<Capacity> {
    let mut nodes = nodes.into_iter();
    let mut least = nodes.next()?.clone();
    for node in nodes {
        least.cpu_millis = least.cpu_millis.min(node.cpu_millis);
        least.memory_bytes = least.memory_bytes.min(node.memory_bytes);
        least.pods = least.pods.min(node.pods);
        for (name, count) in &mut least.accelerators {
            *count = (*count).min(node.accelerators.get(name).copied().unwrap_or(0));
        }
    }
    Some(least)
}

/// Whether the Cluster is to stay.
pub fn lifetime(cluster: Option<&Cluster>) -> Lifetime {
    match cluster {
        None => Lifetime::Gone,
        Some(cluster) if cluster.metadata.deletion_timestamp.is_some() => Lifetime::Deleting,
        Some(_) => Lifetime::Wanted,
    }
}

/// The most nodes there may be: what the user wrote, or less when the class grants less, and then why. Nodes that are there
/// are let be: what a class no longer grants ends no run.
fn maximum(world: &World<'_>) -> (i64, Option<GrowthBlock>) {
    let written = world.cluster.map_or(0, |cluster| i64::from(cluster.spec.scale.max_nodes));
    let Ok(Resolved { grant, .. }) = world.catalogue else { return (written, None) };
    let class = &grant.class;
    let of_cluster = grant.nodes_per_cluster.map(|most| {
        let nodes = counted(most);
        (most, format!("ProvisioningClass {class} grants {nodes} to one Cluster"))
    });
    let of_namespace = grant.nodes_per_namespace.map(|most| {
        let (left, nodes, others) = (most - world.nodes_elsewhere, counted(most), world.nodes_elsewhere);
        let said = format!(
            "ProvisioningClass {class} grants {nodes} to all Clusters of a namespace, and the others have {others} of them"
        );
        (left, said)
    });
    let there = world.nodes.iter().filter(|node| node.machine != Machine::Gone).count() as i64;
    let least = of_cluster.into_iter().chain(of_namespace).min_by_key(|(most, _)| *most);
    match least.map(|(most, said)| (most.max(there).max(0), said)).filter(|(most, _)| *most < written) {
        None => (written, None),
        Some((most, said)) => {
            let message = format!("{said}; an administrator can raise that, or lower what is asked for");
            (
                most,
                Some(GrowthBlock { code: ClusterErrorCode::NodeLimitReached.as_str().to_owned(), message }),
            )
        }
    }
}

fn counted(nodes: i64) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

fn policy(world: &World<'_>, node_capacity: Capacity) -> Policy {
    let (max_nodes, max_limited) = maximum(world);
    let scale = world.cluster.map(|cluster| &cluster.spec.scale);
    let status = world.cluster.and_then(|cluster| cluster.status.as_ref());
    Policy {
        min_nodes: scale.map_or(0, |scale| i64::from(scale.min_nodes)),
        max_nodes,
        idle_timeout: SignedDuration::from_secs(
            scale.map_or(0, |scale| i64::from(scale.idle_seconds_before_scale_down)),
        ),
        node_capacity,
        placement: world.catalogue.map_or(Placement::Any, |resolved| resolved.placement.clone()),
        growth_blocked: world.catalogue.err().map(|refusal| GrowthBlock {
            code: refusal.code.as_str().to_owned(),
            message: refusal.message.clone(),
        }),
        max_limited,
        initial_nodes: scale.map_or(0, |scale| i64::from(scale.initial_nodes)),
        initial_last_ordinal: status.and_then(|status| status.initial_nodes_last_ordinal),
        deallocation: scale.map_or_else(Deallocation::default, |scale| match scale.deallocation {
            WireDeallocation::WaitForRunCompletion => Deallocation::WaitForRunCompletion,
            WireDeallocation::Requeue => Deallocation::Requeue,
            WireDeallocation::Terminate => Deallocation::Terminate,
        }),
        hold: world.cluster.map_or_else(PoolHold::default, |cluster| match cluster.spec.hold {
            ClusterHold::None => PoolHold::None,
            ClusterHold::NoNewRuns => PoolHold::NoNewRuns,
            ClusterHold::Freeze => PoolHold::Freeze,
        }),
        stock: world.counted.map(|counted| stock(counted, world.nodes)),
    }
}

/// What an engine has counted, as the planner sees it: less what nodes are about to take that still await a machine.
pub fn stock(counted: &Counted, nodes: &[&LightNode]) -> Stock {
    Stock { free: counted.free - awaiting(nodes), message: counted.message.clone() }
}

/// How many of these nodes still await a machine.
pub fn awaiting(nodes: &[&LightNode]) -> i64 {
    nodes.iter().filter(|node| node.has_no_machine_yet()).count() as i64
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

#[cfg(test)]
mod tests;
