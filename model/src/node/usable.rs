//! Whether run pods could work on a Node, and what is in the way.
//!
//! Called by [`assess`](super::assess()) only. Taints that Kubernetes sets and lifts by itself are told apart from taints
//! that an administrator must tolerate in the class.

use trainyard_api::{
    cluster_node::{CapacityType, ClusterNodeSpec},
    placement::{Taint, Toleration, TolerationOperator},
};

use super::{
    pods::PodId,
    seen::{NodeFacts, NodeTaint},
    strangers::Crowded,
};

/// What keeps runs off a Node; the first that applies, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The engine has not let go of it yet.
    NotRegistered,
    /// Its kubelet is not ready, or a taint says that a part of it is not.
    NotReady(String),
    /// Somebody cordoned it.
    Cordoned,
    /// A taint that the run pods do not tolerate.
    Taint(NodeTaint),
    /// Accelerators that the size promises are not allocatable.
    Accelerators {
        /// The resource.
        resource: String,
        /// How many are allocatable.
        has: i64,
        /// How many the size promises.
        needs: i64,
    },
    /// Accelerators that the size promises are somebody else's pod's.
    Taken {
        /// The resource.
        resource: String,
        /// How many are left.
        has: i64,
        /// How many the size promises.
        needs: i64,
        /// The pod, where one is known.
        pod: Option<PodId>,
    },
    /// Pods of others leave too little of it.
    Crowded(Crowded),
}

/// Taint by which Karpenter keeps everything off a Node it has not tied to its claim.
const UNREGISTERED: &str = "karpenter.sh/unregistered";
/// Taint by which Karpenter marks a Node it removes.
const DISRUPTED: &str = "karpenter.sh/disrupted";
/// Taint that comes with `spec.unschedulable`.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Prefixes of taints that Kubernetes, a cloud controller or a readiness gate sets while a Node comes up, and lifts.
const EPHEMERAL: [&str; 6] = [
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "readiness.k8s.io/",
    "startup-taint.cluster-autoscaler.kubernetes.io/",
    "status-taint.cluster-autoscaler.kubernetes.io/",
    "node.cilium.io/agent-not-ready",
];

/// Taints by which a cloud, or its agent on the Node, announces that it takes the machine back.
const PREEMPTION: [&str; 5] = [
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "cloud.google.com/impending-node-termination",
    "remediator.kubernetes.azure.com/unschedulable",
    "node.cloudprovider.kubernetes.io/shutdown",
];

/// The first obstacle, or none when runs may use the Node.
pub fn obstacle(spec: &ClusterNodeSpec, node: &NodeFacts) -> Option<Obstacle> {
    if node.taints.iter().any(|taint| taint.key == UNREGISTERED) {
        return Some(Obstacle::NotRegistered);
    }
    if !node.ready {
        return Some(Obstacle::NotReady(node.not_ready_message.clone()));
    }
    if node.cordoned {
        return Some(Obstacle::Cordoned);
    }
    let in_the_way = |taint: &&NodeTaint| {
        taint.effect != "PreferNoSchedule" && taint.key != UNSCHEDULABLE && !is_tolerated(spec, taint)
    };
    let mut taints: Vec<_> = node.taints.iter().filter(in_the_way).collect();
    taints.sort_by(|a, b| (&a.key, &a.value, &a.effect).cmp(&(&b.key, &b.value, &b.effect)));
    if let Some(taint) = taints.iter().find(|taint| is_ephemeral(taint)) {
        return Some(Obstacle::NotReady(format!("taint {taint} is still on it")));
    }
    if let Some(taint) = taints.first() {
        return Some(Obstacle::Taint((*taint).clone()));
    }
    spec.vm_size.accelerators.iter().find_map(|accelerator| {
        let has = node.allocatable.devices.get(&accelerator.resource_name).copied().unwrap_or(0);
        let needs = i64::from(accelerator.count);
        (has < needs).then(|| Obstacle::Accelerators {
            resource: accelerator.resource_name.clone(),
            has,
            needs,
        })
    })
}

/// Whether a cloud has announced that it takes this machine back; only spot machines are taken back.
pub fn preemption_notice<'a>(spec: &ClusterNodeSpec, node: &'a NodeFacts) -> Option<&'a NodeTaint> {
    is_spot(spec).then(|| node.taints.iter().find(|taint| PREEMPTION.contains(&taint.key.as_str()))).flatten()
}

/// Whether the cloud may take the machine back.
pub fn is_spot(spec: &ClusterNodeSpec) -> bool {
    spec.engine.karpenter.as_ref().is_some_and(|engine| engine.capacity_type == CapacityType::Spot)
}

fn is_ephemeral(taint: &NodeTaint) -> bool {
    taint.key == DISRUPTED || EPHEMERAL.iter().any(|prefix| taint.key.starts_with(prefix))
}

/// Whether run pods tolerate this taint: they tolerate the class's own and what the class lists.
fn is_tolerated(spec: &ClusterNodeSpec, taint: &NodeTaint) -> bool {
    let Taint { key, value, effect } = &spec.taint;
    let own = taint.key == *key && taint.value == *value && taint.effect == effect.as_str();
    own || spec.tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &NodeTaint) -> bool {
    let Toleration { key, operator, value, effect } = toleration;
    let key_fits = match key {
        Some(key) => *key == taint.key,
        None => *operator == TolerationOperator::Exists,
    };
    let value_fits = match operator {
        TolerationOperator::Exists => true,
        TolerationOperator::Equal => value.as_deref().unwrap_or_default() == taint.value,
    };
    key_fits && value_fits && effect.is_none_or(|effect| effect.as_str() == taint.effect)
}
