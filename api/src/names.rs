//! Every name that is an API by itself: group, labels, annotations, finalizers, field managers, the scheduling gate; the
//! reasons of Events are in [`event`].
//!
//! Once released, none of these may be renamed without a migration: objects in a cluster carry them.

use crate::closed_set::closed_set;

pub mod event;

/// API group of all kinds.
pub const GROUP: &str = "trainyard.dev";
/// The only version served so far.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of all kinds.
pub const API_VERSION: &str = "trainyard.dev/v1alpha1";
/// Category of all kinds: `kubectl get trainyard`.
pub const CATEGORY: &str = "trainyard";

/// Longest name of a Cluster or a Run: pods, Services and hostnames are made from it and have 63 characters.
pub const NAME_MAX: usize = 40;
/// Longest name of an Experiment: it is a label value.
pub const EXPERIMENT_NAME_MAX: usize = 63;
/// The Experiment of a Run that names none.
pub const DEFAULT_EXPERIMENT: &str = "default";

/// Keeps a pod from being scheduled until its whole attempt may start.
pub const START_GATE: &str = "trainyard.dev/start";

/// Labels on the objects trainyard creates, except Nodes (see [`node_labels`]).
pub mod labels {
    /// Name of the Cluster.
    pub const CLUSTER: &str = "trainyard.dev/cluster";
    /// UID of the Cluster.
    pub const CLUSTER_UID: &str = "trainyard.dev/cluster-uid";
    /// Namespace of the Cluster, on cluster-scoped objects.
    pub const CLUSTER_NAMESPACE: &str = "trainyard.dev/cluster-namespace";
    /// Name of the ClusterNode, on its backing object.
    pub const CLUSTER_NODE: &str = "trainyard.dev/cluster-node";
    /// UID of the ClusterNode, on its backing object.
    pub const CLUSTER_NODE_UID: &str = "trainyard.dev/cluster-node-uid";
    /// Name of the Run.
    pub const RUN: &str = "trainyard.dev/run";
    /// UID of the Run: pods of a Run are found by it, whoever owns them.
    pub const RUN_UID: &str = "trainyard.dev/run-uid";
    /// Number of the attempt, from 1.
    pub const ATTEMPT: &str = "trainyard.dev/attempt";
    /// Role of the pod: `chief`, `worker`, `ps`, `evaluator`.
    pub const ROLE: &str = "trainyard.dev/role";
    /// Index of the pod within its role, from 0.
    pub const INDEX: &str = "trainyard.dev/index";
    /// Name of the Experiment.
    pub const EXPERIMENT: &str = "trainyard.dev/experiment";
}

/// Labels on Nodes and NodeClaims. The `node-restriction.kubernetes.io` domain is closed to kubelets by the
/// `NodeRestriction` admission plugin, so a compromised machine cannot claim to be another one.
pub mod node_labels {
    /// Name of the Cluster the machine belongs to.
    pub const CLUSTER: &str = "trainyard.node-restriction.kubernetes.io/cluster";
    /// UID of the Cluster the machine belongs to.
    pub const CLUSTER_UID: &str = "trainyard.node-restriction.kubernetes.io/cluster-uid";
    /// Namespace of the Cluster and of the ClusterNode.
    pub const CLUSTER_NAMESPACE: &str = "trainyard.node-restriction.kubernetes.io/cluster-namespace";
    /// Name of the ClusterNode whose machine this is.
    pub const CLUSTER_NODE: &str = "trainyard.node-restriction.kubernetes.io/cluster-node";
    /// UID of the ClusterNode whose machine this is.
    pub const CLUSTER_NODE_UID: &str = "trainyard.node-restriction.kubernetes.io/cluster-node-uid";
    /// Which engine has the machine, where that is not told by its other objects.
    pub const ENGINE: &str = "trainyard.node-restriction.kubernetes.io/engine";
    /// On a Node that was found and not made: a hash of the taint it was given, which goes when it is given back.
    pub const ADDED_TAINT: &str = "trainyard.node-restriction.kubernetes.io/added-taint";
    /// On a Node: it was cordoned by trainyard, and not by an administrator.
    pub const CORDONED: &str = "trainyard.node-restriction.kubernetes.io/cordoned";

    /// On a Node that was found: it has been taken, and not yet been looked at once more. Until then it is nobody's machine.
    pub const TAKING: &str = "trainyard.node-restriction.kubernetes.io/taking";

    /// All of them.
    pub const ALL: [&str; 9] = [
        CLUSTER,
        CLUSTER_UID,
        CLUSTER_NAMESPACE,
        CLUSTER_NODE,
        CLUSTER_NODE_UID,
        ENGINE,
        ADDED_TAINT,
        CORDONED,
        TAKING,
    ];
}

/// Annotations people and the operator write.
pub mod annotations {
    /// `"true"` on the ProvisioningClass of Clusters that name none.
    pub const IS_DEFAULT_CLASS: &str = "trainyard.dev/is-default-class";
    /// On a Cluster: the ClusterNode to remove now, whatever runs on it.
    pub const REMOVE_NOW: &str = "trainyard.dev/remove-now";
    /// On a Cluster: the ClusterNode to treat as preempted, as a rehearsal.
    pub const REHEARSE_PREEMPTION: &str = "trainyard.dev/rehearse-preemption";
}

/// Default taint key of a Cluster's machines; the value is the Cluster's name.
pub const TAINT_KEY: &str = "trainyard.dev/cluster";

closed_set! {
    /// The finalizers trainyard sets, each on one kind of object.
    Finalizer {
        /// On a Cluster: until its ClusterNodes are gone.
        Cluster = "trainyard.dev/cluster",
        /// On a ClusterNode: until its machine is gone or returned.
        ClusterNode = "trainyard.dev/cluster-node",
        /// On a Run: until its pods are gone.
        Run = "trainyard.dev/run",
        /// On a run's pod: until its exit code is recorded.
        RunPod = "trainyard.dev/run-pod",
    }
}

closed_set! {
    /// Field managers of server-side apply, one for each pair of controller and field set.
    ///
    /// A manager always applies its whole set, because an apply that omits a field it owns deletes that field.
    FieldManager {
        /// Cluster controller: the finalizer of a Cluster.
        ClusterFinalizer = "trainyard-cluster-finalizer",
        /// Cluster controller: the status of a Cluster.
        ClusterStatus = "trainyard-cluster-status",
        /// Cluster controller: a ClusterNode's metadata and spec, its intent.
        ClusterNodeIntent = "trainyard-clusternode-intent",
        /// Node controller: a ClusterNode's status, its facts.
        ClusterNodeStatus = "trainyard-clusternode-status",
        /// Node controller: the backing object of a ClusterNode.
        Machine = "trainyard-machine",
        /// Node controller: labels, taints and cordon of a Node.
        Node = "trainyard-node",
        /// Cluster controller: `status.allocation` of a Run.
        RunAllocation = "trainyard-run-allocation",
        /// Cluster controller: `status.queue` of a Run.
        RunQueue = "trainyard-run-queue",
        /// Run controller: the finalizer of a Run.
        RunFinalizer = "trainyard-run-finalizer",
        /// Run controller: the rest of a Run's status.
        RunStatus = "trainyard-run-status",
        /// Run controller: pods, and their gate and finalizer.
        RunPods = "trainyard-run-pods",
        /// Run controller: Service, ConfigMap and Secret of a Run.
        RunObjects = "trainyard-run-objects",
        /// Experiment controller: an Experiment made on first use.
        ExperimentCreate = "trainyard-experiment-create",
        /// Experiment controller: the status of an Experiment.
        ExperimentStatus = "trainyard-experiment-status",
        /// The status of a VmSize.
        VmSizeStatus = "trainyard-vmsize-status",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn field_managers_and_finalizers_are_all_different() {
        let managers: BTreeSet<_> = FieldManager::ALL.iter().map(|m| m.as_str()).collect();
        assert_eq!(managers.len(), FieldManager::ALL.len());
        let finalizers: BTreeSet<_> = Finalizer::ALL.iter().map(|f| f.as_str()).collect();
        assert_eq!(finalizers.len(), Finalizer::ALL.len());
    }

    #[test]
    fn field_managers_fit_the_limit_of_the_api_server() {
        assert!(FieldManager::ALL.iter().all(|m| m.as_str().len() <= 128));
    }

    #[test]
    fn node_labels_are_closed_to_kubelets() {
        for label in node_labels::ALL {
            let (domain, _) = label.split_once('/').expect("a label of ours has a domain");
            assert!(domain.ends_with(".node-restriction.kubernetes.io"), "{label}");
        }
    }

    #[test]
    fn api_version_is_group_and_version() {
        assert_eq!(API_VERSION, format!("{GROUP}/{VERSION}"));
    }
}
