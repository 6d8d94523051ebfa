//! `Run.spec.resourcesPerNode`: a part of each machine, so that several Runs share one.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::capacity::amount;

/// What a Run takes of each of its nodes. What is left out follows from what is written: cpu and memory go with the part
/// of the machine's accelerators, or with each other; accelerators are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = something(), validation = some_cpu(), validation = memory_has_a_unit())]
pub struct ResourcesPerNode {
    /// Accelerators of each node, 0 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub accelerators: Option<i32>,
    /// Cpu of each node, as `8` or `7500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "amount")]
    pub cpu: Option<IntOrString>,
    /// Memory of each node, as `64Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "amount")]
    pub memory: Option<IntOrString>,
}

fn something() -> kube::core::Rule {
    kube::core::Rule::new("(has(self.accelerators) && self.accelerators > 0) || has(self.cpu) || has(self.memory)")
        .message(
            "resourcesPerNode must have at least one of accelerators (1 or more), cpu and memory; leave it out to take whole nodes",
        )
}

fn some_cpu() -> kube::core::Rule {
    kube::core::Rule::new("!has(self.cpu) || quantity(string(self.cpu)).isGreaterThan(quantity('0'))")
        .message("cpu must be more than 0, as 8 or 7500m; leave it out to take what goes with the accelerators or memory")
        .field_path(".cpu")
}

/// `memory: 64` would mean 64 bytes, and nobody means that.
fn memory_has_a_unit() -> kube::core::Rule {
    kube::core::Rule::new(
        "!has(self.memory) || quantity(string(self.memory)).compareTo(quantity('1Mi')) >= 0",
    )
    .message("memory must be at least 1Mi; a number without a unit is bytes, write 64Gi")
    .field_path(".memory")
}
