//! One ClusterNode, reduced to what the cluster controller reads of it.
//!
//! [`LightNode::of`] keeps what is compared, claimed and planned with; the size facts and engine block, which are copied
//! to every node and never change, stay in the API server.

use jiff::Timestamp;
use trainyard_api::{
    capacity::Capacity as WireCapacity,
    cluster_node::{
        Claim as WireClaim, ClusterNode, NodeReason, NodeState, RetireReason as WireRetire, VmSizeFacts,
    },
    conditions::{self, ClusterNodeCondition},
};
use trainyard_planner::{
    Capacity, Claim, Failure, FailureCause, Machine, Node, NodeName, RetireReason, Retired, RunId, Zone,
};

use crate::node::lost::is_lost;
use crate::run::acceptance;

/// What the cluster controller keeps of a ClusterNode.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one fact of the ClusterNode, and any may be with any other"
)]
#[derive(Clone, Debug, PartialEq)]
pub struct LightNode {
    /// Its namespace, the Cluster's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The version this was read at: the precondition of every write that rests on it.
    pub resource_version: String,
    /// Name of its Cluster.
    pub cluster_name: String,
    /// UID of its Cluster.
    pub cluster_uid: String,
    /// Its ordinal.
    pub ordinal: i64,
    /// When it was created.
    pub created: Timestamp,
    /// It was deleted by somebody.
    pub deleted: bool,
    /// `spec.claims` as on the wire: a write replaces the list.
    pub claims: Vec<WireClaim>,
    /// `spec.idleSince`.
    pub idle_since: Option<Timestamp>,
    /// `spec.retired`.
    pub retired: Option<Retired>,
    /// Its machine was there before.
    pub lent: bool,
    /// `spec.released`.
    pub released: bool,
    /// What is seen of its machine.
    pub machine: Machine,
    /// What went wrong with it.
    pub failure: Option<Failure>,
    /// Whether it is lost, so that pods on it count as gone.
    pub lost: bool,
    /// When it first became ready for runs.
    pub first_ready: Option<Timestamp>,
    /// Since when it has not been ready for runs.
    pub not_ready_since: Option<Timestamp>,
    /// Its zone.
    pub zone: Option<String>,
    /// What it has for runs, once it has been measured.
    pub measured: Option<Capacity>,
    /// What its size promises.
    pub promised: Capacity,
    /// Name and UID of its Node, once there is one.
    pub node: Option<(String, String)>,
    /// The state the node controller computed, and its message, for reports.
    pub state: Option<NodeState>,
}

impl LightNode {
    /// Reduces a ClusterNode. `None` for one without the metadata that every stored object has.
    pub fn of(node: &ClusterNode) -> Option<Self> {
        let metadata = &node.metadata;
        let created = metadata.creation_timestamp.as_ref()?.0;
        let status = node.status.as_ref();
        let machine = machine(node);
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            resource_version: metadata.resource_version.clone()?,
            cluster_name: node.spec.cluster.name.clone(),
            cluster_uid: node.spec.cluster.uid.clone(),
            ordinal: node.spec.ordinal,
            created,
            deleted: metadata.deletion_timestamp.is_some(),
            claims: node.spec.claims.clone(),
            idle_since: node.spec.idle_since.as_ref().map(|time| time.0),
            retired: node
                .spec
                .retired
                .as_ref()
                .map(|retired| Retired { at: retired.time.0, reason: planner_reason(retired.reason) }),
            lent: node.spec.engine.static_node.is_some(),
            released: node.spec.released.is_some(),
            failure: failure(node, created),
            lost: is_lost(node),
            machine,
            first_ready: status.and_then(|status| status.first_ready_time.as_ref()).map(|time| time.0),
            not_ready_since: not_ready_since(node).filter(|_| machine == Machine::NotReady),
            zone: status.and_then(|status| status.zone.clone()).or_else(|| required_zone(node)),
            measured: status.and_then(|status| status.allocatable.as_ref()).map(planner_capacity),
            promised: promised(&node.spec.vm_size),
            node: status.and_then(|status| status.node_name.clone().zip(status.node_uid.clone())),
            state: status.and_then(|status| status.state),
        })
    }

    /// The planner's view, of the object alone: what its release met is remembered elsewhere. `expected` is what it will
    /// have, as long as it has not been measured.
    pub fn to_planner(&self, expected: &Capacity) -> Node {
        Node {
            name: NodeName(self.name.clone()),
            ordinal: self.ordinal,
            requested_at: self.created,
            machine: self.machine,
            failure: self.failure.clone(),
            first_ready: self.first_ready,
            not_ready_since: self.not_ready_since,
            zone: self.zone.clone().map(Zone),
            capacity: self.measured.as_ref().unwrap_or(expected).clone(),
            claims: self.claims.iter().map(planner_claim).collect(),
            idle_since: self.idle_since,
            retired: self.retired.clone(),
            lent: self.lent,
            released: self.released,
            deleted: self.deleted,
            occupied: None,
        }
    }

    /// Whether a machine is still to be found for it.
    pub fn has_no_machine_yet(&self) -> bool {
        self.machine == Machine::Coming && self.node.is_none() && !self.released && !self.deleted
    }

    /// Whether runs may be placed there as far as this observation goes.
    pub fn takes_runs(&self) -> bool {
        self.machine == Machine::Ready
            && self.retired.is_none()
            && !self.released
            && !self.deleted
            && self.node.is_some()
    }
}

/// What is seen of a machine. What is bad wins over what the spec wants.
fn machine(node: &ClusterNode) -> Machine {
    let Some(status) = &node.status else { return Machine::Coming };
    if status.gone_time.is_some() {
        return Machine::Gone;
    }
    match status.state {
        Some(NodeState::Unusable | NodeState::Preempted | NodeState::Failed) => Machine::Failed,
        _ if status.first_ready_time.is_none() => Machine::Coming,
        _ if conditions::is_true(&status.conditions, ClusterNodeCondition::Ready) => Machine::Ready,
        _ => Machine::NotReady,
    }
}

/// Since when runs cannot use it, for whatever reason; `status.notReadySince` tells of silent kubelets only.
fn not_ready_since(node: &ClusterNode) -> Option<Timestamp> {
    let ready = conditions::find(&node.status.as_ref()?.conditions, ClusterNodeCondition::Ready)?;
    (!ready.is_true()).then_some(ready.last_transition_time.0)
}

/// The failure the node controller recorded, if it did. A machine that works and is about to be deleted by somebody has
/// a reason, and has not failed yet: its runs are let finish where they can.
fn failure(node: &ClusterNode, created: Timestamp) -> Option<Failure> {
    let status = node.status.as_ref()?;
    if !matches!(machine(node), Machine::Failed | Machine::Gone) {
        return None;
    }
    let cause = failure_cause(status.reason?)?;
    // Conditions change when the failure is recorded. Its back-off counts from then: a machine that never came within its
    // limit was asked for long before.
    let recorded = status.conditions.iter().map(|condition| condition.last_transition_time.0).max();
    Some(Failure {
        cause,
        at: status
            .not_ready_since
            .as_ref()
            .map(|time| time.0)
            .or(recorded)
            .or(status.gone_time.as_ref().map(|time| time.0))
            .unwrap_or(created),
        message: status.message.clone().unwrap_or_default(),
    })
}

fn failure_cause(reason: NodeReason) -> Option<FailureCause> {
    match reason {
        NodeReason::StockOut => Some(FailureCause::StockOut),
        NodeReason::QuotaExceeded => Some(FailureCause::Quota),
        NodeReason::LaunchFailed | NodeReason::NameTaken => Some(FailureCause::Rejected),
        NodeReason::LaunchTimeout | NodeReason::RegistrationTimeout => Some(FailureCause::Timeout),
        NodeReason::NotUsableInTime => Some(FailureCause::Unusable),
        NodeReason::Preempted => Some(FailureCause::Preempted),
        NodeReason::Lost | NodeReason::MachineDeleted => Some(FailureCause::Lost),
        NodeReason::Pending
        | NodeReason::Requested
        | NodeReason::Launched
        | NodeReason::NodeNotReady
        | NodeReason::WaitingForAccelerators
        | NodeReason::TakenByOthers
        | NodeReason::TaintNotTolerated
        | NodeReason::Cordoned
        | NodeReason::Ready
        | NodeReason::Claimed
        | NodeReason::Released
        | NodeReason::Gone
        | NodeReason::EngineUnavailable
        | NodeReason::Unknown => None,
    }
}

fn required_zone(node: &ClusterNode) -> Option<String> {
    match node.spec.engine.karpenter.as_ref()?.zones.as_slice() {
        [zone] => Some(zone.clone()),
        _ => None,
    }
}

/// What the cloud promises of a machine of this size.
pub(crate) fn promised(size: &VmSizeFacts) -> Capacity {
    planner_capacity(&acceptance::promised(size.vcpus, &size.memory, &size.accelerators))
}

fn planner_claim(claim: &WireClaim) -> Claim {
    Claim {
        run: RunId {
            namespace: claim.run_namespace.clone(),
            name: claim.run_name.clone(),
            uid: claim.run_uid.clone(),
        },
        attempt: i64::from(claim.attempt),
        share: planner_capacity(&claim.share),
    }
}

/// A wire capacity as the planner's.
pub fn planner_capacity(capacity: &WireCapacity) -> Capacity {
    let WireCapacity { cpu_millis, memory_bytes, pods, accelerators } = capacity;
    Capacity {
        cpu_millis: *cpu_millis,
        memory_bytes: *memory_bytes,
        pods: *pods,
        accelerators: accelerators.clone(),
    }
}

/// A planner's capacity as it is written in a claim.
pub fn wire_capacity(capacity: &Capacity) -> WireCapacity {
    let Capacity { cpu_millis, memory_bytes, pods, accelerators } = capacity;
    WireCapacity {
        cpu_millis: *cpu_millis,
        memory_bytes: *memory_bytes,
        pods: *pods,
        accelerators: accelerators.clone(),
    }
}

fn planner_reason(reason: WireRetire) -> RetireReason {
    match reason {
        WireRetire::IdleTimeout => RetireReason::Idle,
        WireRetire::ScaleDown => RetireReason::ScaleDown,
        WireRetire::NotNeeded => RetireReason::NotNeeded,
        WireRetire::ClusterDeleted => RetireReason::ClusterDeleted,
        WireRetire::Deleted => RetireReason::Deleted,
        WireRetire::Removed => RetireReason::Removed,
        WireRetire::Lost => RetireReason::Lost,
        WireRetire::Preempted => RetireReason::Preempted,
        WireRetire::Unusable => RetireReason::Unusable,
        // A reason of a newer version may be final, so it is not undone.
        WireRetire::Failed | WireRetire::Unknown => RetireReason::Failed,
    }
}

/// The wire's word for a reason to leave.
pub fn wire_reason(reason: RetireReason) -> WireRetire {
    match reason {
        RetireReason::Idle => WireRetire::IdleTimeout,
        RetireReason::ScaleDown => WireRetire::ScaleDown,
        RetireReason::NotNeeded => WireRetire::NotNeeded,
        RetireReason::ClusterDeleted => WireRetire::ClusterDeleted,
        RetireReason::Deleted => WireRetire::Deleted,
        RetireReason::Removed => WireRetire::Removed,
        RetireReason::Lost => WireRetire::Lost,
        RetireReason::Preempted => WireRetire::Preempted,
        RetireReason::Unusable => WireRetire::Unusable,
        RetireReason::Failed => WireRetire::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(status: &Value) -> LightNode {
        let node: ClusterNode = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ClusterNode",
            "metadata": {"name": "n1", "namespace": "ml", "uid": "u1", "resourceVersion": "7",
                         "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"cluster": {"name": "c", "uid": "c1"}, "ordinal": 1, "engine": {},
                     "vmSize": {"sizeName": "S", "vcpus": 1, "memory": "1Gi"},
                     "taint": {"key": "k", "effect": "NoSchedule"}},
            "status": status,
        }))
        .expect("a ClusterNode");
        LightNode::of(&node).expect("it has all metadata")
    }

    fn condition(kind: &str, status: &str, since: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "message": "", "lastTransitionTime": since})
    }

    #[test]
    fn a_machine_that_works_while_somebody_deletes_it_has_not_failed() {
        let node = node(&json!({
            "state": "Running", "reason": "MachineDeleted", "firstReadyTime": "2030-01-01T00:05:00Z",
            "conditions": [condition("Ready", "False", "2030-01-01T01:00:00Z")],
        }));
        assert_eq!((node.machine, node.failure.clone()), (Machine::NotReady, None));
        assert!(!node.takes_runs());
    }

    #[test]
    fn a_cordoned_node_is_not_ready_since_its_condition_says_so() {
        let cordoned = json!({
            "state": "Idle", "reason": "Cordoned", "firstReadyTime": "2030-01-01T00:05:00Z",
            "conditions": [condition("Ready", "False", "2030-01-01T01:00:00Z")],
        });
        let node = node(&cordoned);
        assert_eq!(node.machine, Machine::NotReady);
        assert_eq!(
            node.not_ready_since.map(|time| time.to_string()).as_deref(),
            Some("2030-01-01T01:00:00Z")
        );
    }

    #[test]
    fn a_failure_counts_from_when_it_was_recorded_and_not_from_the_request() {
        let node = node(&json!({
            "state": "Failed", "reason": "LaunchTimeout", "message": "not launched within 15 min",
            "requestedTime": "2030-01-01T00:00:10Z",
            "conditions": [condition("Launched", "False", "2030-01-01T00:15:10Z"),
                           condition("Ready", "False", "2030-01-01T00:00:10Z")],
        }));
        let failure = node.failure.expect("a failure");
        assert_eq!(failure.cause, FailureCause::Timeout);
        assert_eq!(failure.at.to_string(), "2030-01-01T00:15:10Z");
    }

    #[test]
    fn a_node_takes_runs_only_while_it_is_ready_and_neither_leaves_nor_is_deleted() {
        let ready = json!({
            "state": "Idle", "reason": "Ready", "firstReadyTime": "2030-01-01T00:05:00Z",
            "nodeName": "vm1", "nodeUID": "vm1-uid",
            "conditions": [condition("Ready", "True", "2030-01-01T00:05:00Z")],
        });
        let ready = node(&ready);
        assert!(ready.takes_runs());
        let retired = Retired { at: ready.created, reason: RetireReason::Idle };
        assert!(!LightNode { retired: Some(retired), ..ready.clone() }.takes_runs());
        assert!(!LightNode { released: true, ..ready.clone() }.takes_runs());
        assert!(!LightNode { deleted: true, ..ready.clone() }.takes_runs());
        assert!(!LightNode { node: None, ..ready }.takes_runs());
    }
}
