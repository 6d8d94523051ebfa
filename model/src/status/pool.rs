//! `Cluster.status` from the planner's report on the pool.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_api::{
    cluster::{
        AllocationState, Backoff as WireBackoff, Cluster, ClusterError, ClusterErrorCode, ClusterQueue,
        ClusterStatus, NodeStateCounts, ProvisioningState,
    },
    conditions::{self, ClusterCondition, Condition, ConditionStatus},
    text,
};
use trainyard_planner::{Capacity, GrowthBlock, Lifetime, NodeCounts, PoolHealth, PoolReport};

use crate::catalogue::{Refusal, Resolved};
use crate::node::found::{Counted, TooSmall};
use crate::snapshot::{lifetime, node::wire_capacity, removals, wire_cause};

/// Most errors that status shows; the schema takes no more.
const MAX_ERRORS: usize = 10;
/// Most back-off entries that status remembers; the schema takes no more.
const MAX_BACKOFF: usize = 8;

/// What the status of a Cluster says beside what the planner reports.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Its size and class.
    pub catalogue: Result<&'a Resolved, &'a Refusal>,
    /// Why it may not have as many nodes as its user wrote.
    pub limit: Option<&'a GrowthBlock>,
    /// What each of its nodes has at least, once one was measured.
    pub measured: Option<&'a Capacity>,
    /// What its engine still has, where it can count that.
    pub counted: Option<&'a Counted>,
}

/// Why it may not be as asked, beside what the planner reports.
#[derive(Clone, Copy)]
struct Reasons<'a> {
    refusal: Option<&'a Refusal>,
    limit: Option<&'a GrowthBlock>,
    counted: Option<&'a Counted>,
}

/// The status of `cluster` after a plan that reported `report` at `now`.
///
/// Deterministic, and equal to the status that is there when nothing changed, so that nothing is written then.
pub fn cluster_status(
    cluster: &Cluster,
    report: &PoolReport,
    Circumstances { catalogue, limit, measured, counted }: Circumstances<'_>,
    now: Timestamp,
) -> ClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let allocation_state = if report.resizing { AllocationState::Resizing } else { AllocationState::Steady };
    let limit = limit.filter(|_| report.health == PoolHealth::Blocked);
    let reasons = Reasons { refusal: catalogue.err(), limit, counted };
    let errors = errors(cluster, &before.errors, report, reasons, now);
    let health = health(report, catalogue.err());
    let allocation_changed = before.allocation_state != Some(allocation_state);
    ClusterStatus {
        provisioning_state: Some(provisioning_state(cluster, health.0)),
        allocation_state: Some(allocation_state),
        allocation_state_transition_time: if allocation_changed {
            Some(Time(now))
        } else {
            before.allocation_state_transition_time
        },
        current_node_count: report.current_nodes as i32,
        target_node_count: report.target_nodes as i32,
        node_state_counts: counts(report.counts),
        conditions: conditions(&before.conditions, health, &errors, generation, now),
        errors,
        queue: ClusterQueue {
            queued: report.queued as i32,
            active: report.active as i32,
            oldest_queued_since: report.oldest_queued.map(Time),
        },
        next_scale_down_time: report.next_scale_down.map(Time),
        backoff: backoff(report),
        last_node_ordinal: report.last_ordinal,
        initial_nodes_last_ordinal: report.initial_last_ordinal,
        node_capacity: measured.map(wire_capacity).or(before.node_capacity),
        zone: report.zone.as_ref().map(|zone| zone.0.clone()),
        vm_size: catalogue.ok().map(|resolved| resolved.size.clone()).or(before.vm_size),
        provisioning_class: catalogue
            .ok()
            .map(|resolved| resolved.class.clone())
            .or(before.provisioning_class),
        observed_generation: generation,
    }
}

/// A Cluster without a size or class that has no node yet is of no use before somebody acts, whether or not a run waits:
/// a typing error is said when it is made. One that has nodes goes on with them, and is what the planner says.
pub fn health(report: &PoolReport, refusal: Option<&Refusal>) -> (PoolHealth, String) {
    match refusal {
        Some(refusal) if report.current_nodes == 0 && report.health != PoolHealth::Deleting => {
            let why = text::because(&refusal.message);
            (PoolHealth::Blocked, format!("no nodes can be asked for ({}){why}", refusal.code))
        }
        _ => (report.health, report.message.clone()),
    }
}

fn counts(counts: NodeCounts) -> NodeStateCounts {
    let NodeCounts { preparing, idle, running, leaving, unusable, preempted } = counts;
    NodeStateCounts {
        preparing: preparing as i32,
        idle: idle as i32,
        running: running as i32,
        leaving: leaving as i32,
        unusable: unusable as i32,
        preempted: preempted as i32,
    }
}

fn provisioning_state(cluster: &Cluster, health: PoolHealth) -> ProvisioningState {
    if lifetime(Some(cluster)) != Lifetime::Wanted {
        return ProvisioningState::Deleting;
    }
    match health {
        PoolHealth::Blocked => ProvisioningState::Failed,
        PoolHealth::Deleting => ProvisioningState::Deleting,
        PoolHealth::Steady | PoolHealth::Resizing | PoolHealth::BackingOff => ProvisioningState::Succeeded,
    }
}

fn backoff(report: &PoolReport) -> Vec<WireBackoff> {
    report
        .backoff
        .iter()
        .filter_map(|entry| {
            Some(WireBackoff {
                cause: wire_cause(entry.cause)?.0,
                zone: entry.zone.as_ref().map(|zone| zone.0.clone()),
                count: entry.count as i32,
                until: Time(entry.until),
            })
        })
        .take(MAX_BACKOFF)
        .collect()
}

/// What keeps the Cluster from being as asked. An error that is still there keeps its `since`.
fn errors(
    cluster: &Cluster,
    before: &[ClusterError],
    report: &PoolReport,
    Reasons { refusal, limit, counted }: Reasons<'_>,
    now: Timestamp,
) -> Vec<ClusterError> {
    let known = |code: ClusterErrorCode| before.iter().find(|error| error.code == code);
    let mut errors: Vec<ClusterError> = Vec::new();
    let mut add = |code: ClusterErrorCode, message: &str, count: i64| {
        if errors.iter().any(|error| error.code == code) {
            return;
        }
        let earlier = known(code);
        // The engine's words of an earlier look are kept when this plan only remembers that there was a refusal.
        let message = match earlier {
            Some(earlier) if message.is_empty() => earlier.message.clone(),
            _ => text::clip(message, text::MESSAGE_MAX),
        };
        errors.push(ClusterError {
            code,
            message,
            since: earlier.map_or(Time(now), |earlier| earlier.since.clone()),
            count: count as i32,
        });
    };
    if let Some(refusal) = refusal {
        add(refusal.code, &refusal.message, 1);
    }
    for removals::Asked { annotation, node } in removals::unknown(cluster) {
        let message = format!(
            "annotation {annotation} names {node}, and this Cluster never had such a node; see `kubectl get tycn`, and \
             correct or remove the annotation"
        );
        add(ClusterErrorCode::NodeToRemoveNotFound, &message, 1);
    }
    if let Some(limit) = limit {
        add(ClusterErrorCode::NodeLimitReached, &limit.message, 1);
    }
    if let Some(shortage) = &report.shortage {
        add(ClusterErrorCode::StockOut, &shortage.message, shortage.nodes);
    }
    for entry in &report.backoff {
        if let Some((_, code)) = wire_cause(entry.cause) {
            add(code, &entry.message, entry.count);
        }
    }
    if let Some(TooSmall { nodes, message }) = counted.and_then(|counted| counted.too_small.as_ref()) {
        add(ClusterErrorCode::NodesTooSmall, message, *nodes);
    }
    if let Some(held_up) = &report.held_up {
        add(ClusterErrorCode::NodesOccupied, &held_up.message, held_up.nodes);
    }
    errors.truncate(MAX_ERRORS);
    errors
}

fn conditions(
    before: &[Condition],
    (health, message): (PoolHealth, String),
    errors: &[ClusterError],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    // Ready is Unknown while work is under way and False only when a person must act: that is what kstatus, Flux and
    // Argo CD take for "in progress" and "failed".
    let ready = match health {
        PoolHealth::Steady => ConditionStatus::True,
        PoolHealth::Resizing | PoolHealth::BackingOff | PoolHealth::Deleting => ConditionStatus::Unknown,
        PoolHealth::Blocked => ConditionStatus::False,
    };
    let reason = match (health, errors.first()) {
        (PoolHealth::Blocked | PoolHealth::BackingOff, Some(error)) => error.code.as_str(),
        (PoolHealth::Blocked, None) => "Blocked",
        (PoolHealth::BackingOff, None) => "BackingOff",
        (PoolHealth::Steady, _) => "AsAsked",
        (PoolHealth::Resizing, _) => "Resizing",
        (PoolHealth::Deleting, _) => "Deleting",
    };
    let mut after = before.to_vec();
    let condition = |kind, status| Condition::new(kind, status, reason, &message, now).observed(generation);
    conditions::set(&mut after, condition(ClusterCondition::Ready, ready));
    match ready {
        ConditionStatus::Unknown => {
            conditions::set(&mut after, condition(ClusterCondition::Reconciling, ConditionStatus::True));
            conditions::remove(&mut after, ClusterCondition::Stalled);
        }
        ConditionStatus::False => {
            conditions::set(&mut after, condition(ClusterCondition::Stalled, ConditionStatus::True));
            conditions::remove(&mut after, ClusterCondition::Reconciling);
        }
        ConditionStatus::True => {
            conditions::remove(&mut after, ClusterCondition::Reconciling);
            conditions::remove(&mut after, ClusterCondition::Stalled);
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trainyard_api::cluster::EngineKind;
    use trainyard_api::{ProvisioningClass, VmSize};
    use trainyard_planner::plan;

    use super::*;
    use crate::catalogue;
    use crate::snapshot::{World, assemble};

    fn status_of(cluster: &Cluster, sizes: &[&VmSize], classes: &[&ProvisioningClass]) -> ClusterStatus {
        let found = catalogue::resolve(cluster, sizes, classes, None);
        let snapshot = assemble(&World {
            cluster: Some(cluster),
            cluster_key: "ml/nc6",
            nodes: &[],
            runs: &[],
            catalogue: found.as_ref(),
            nodes_elsewhere: 0,
            counted: None,
        });
        let report = plan(&snapshot, Timestamp::UNIX_EPOCH).report.pool;
        let circumstances =
            Circumstances { catalogue: found.as_ref(), limit: None, measured: None, counted: None };
        cluster_status(cluster, &report, circumstances, Timestamp::UNIX_EPOCH)
    }

    /// Whoever may not read the catalogue reads it here.
    #[test]
    fn size_engine_and_grant_are_recorded_and_kept_when_they_are_found_no_more() {
        let mut cluster: Cluster = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Cluster",
            "metadata": {"name": "nc6", "namespace": "ml", "uid": "c1"},
            "spec": {"vmSize": "box", "provisioningClass": "lab", "scale": {"maxNodes": 2}},
        }))
        .expect("a Cluster");
        let size: VmSize = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "VmSize", "metadata": {"name": "lab-box"},
            "spec": {"sizeName": "Lab_Box", "aliases": ["box"], "family": "own", "vcpus": 4, "memory": "16Gi"},
        }))
        .expect("a VmSize");
        let class: ProvisioningClass = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ProvisioningClass",
            "metadata": {"name": "lab", "uid": "class-1"},
            "spec": {"static": {"nodeSelector": {"pool": "lab"}}, "maxNodesPerCluster": 3, "maxNodesPerNamespace": 5},
        }))
        .expect("a ProvisioningClass");
        let status = status_of(&cluster, &[&size], &[&class]);
        assert_eq!(
            serde_json::to_value((&status.vm_size, &status.provisioning_class)).expect("JSON"),
            json!([
                {"sizeName": "Lab_Box", "vcpus": 4, "memory": "16Gi"},
                {"name": "lab", "uid": "class-1", "engine": "Static", "maxNodesPerCluster": 3, "maxNodesPerNamespace": 5},
            ])
        );
        cluster.status = Some(status.clone());
        assert_eq!(catalogue::recorded_engine(&cluster), Some(EngineKind::Static));
        let lost = status_of(&cluster, &[], &[]);
        assert_eq!(lost.errors[0].code, ClusterErrorCode::VmSizeNotFound);
        assert_eq!((lost.vm_size, lost.provisioning_class), (status.vm_size, status.provisioning_class));
    }
}
