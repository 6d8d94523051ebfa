//! The CRDs of all kinds, made from the types. Called by `trainyard crds`, by the tests that hold `crds/` current, and
//! by whoever needs the schema of a kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{Cluster, ClusterNode, Experiment, ProvisioningClass, Run, VmSize};

/// The CRDs of all kinds.
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    vec![
        Cluster::crd(),
        ClusterNode::crd(),
        Experiment::crd(),
        ProvisioningClass::crd(),
        Run::crd(),
        VmSize::crd(),
    ]
}
