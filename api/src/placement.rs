//! What a machine is asked for with, and what keeps others off it: shared by ProvisioningClass and ClusterNode.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::schema;

closed_set! {
    /// What a taint does to pods that do not tolerate it.
    #[derive(Default)]
    TaintEffect {
        /// They are not placed there.
        #[default]
        NoSchedule,
        /// They are not placed there, and those that run there are evicted.
        NoExecute,
    }
}

/// A taint on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key of the taint.
    #[schemars(schema_with = "schema::qualified_name")]
    pub key: String,
    /// Value of the taint.
    #[serde(default)]
    #[schemars(schema_with = "schema::label_value")]
    pub value: String,
    /// What it does to other pods.
    pub effect: TaintEffect,
}

closed_set! {
    /// How a toleration compares.
    #[derive(Default)]
    TolerationOperator {
        /// Key and value are the taint's.
        #[default]
        Equal,
        /// The key is the taint's, whatever its value.
        Exists,
    }
}

closed_set! {
    /// The effects a toleration can name.
    ToleratedEffect {
        /// Not placed.
        NoSchedule,
        /// Rather not placed.
        PreferNoSchedule,
        /// Not placed, and evicted.
        NoExecute,
    }
}

/// A toleration of run pods, for taints that the machines have by themselves (`sku=gpu:NoSchedule`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = toleration_is_whole())]
pub struct Toleration {
    /// Key of the taint; with `operator: Exists`, none means every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::qualified_name")]
    pub key: Option<String>,
    /// How key and value are compared.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value of the taint, for `operator: Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_value")]
    pub value: Option<String>,
    /// The effect tolerated; none means every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<ToleratedEffect>,
}

/// The engine's own object that holds subnets, VM images and operating system (`AKSNodeClass`, `EC2NodeClass`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeClassRef {
    /// API group, as `karpenter.azure.com`.
    #[schemars(schema_with = "schema::object_name")]
    pub group: String,
    /// Kind, as `AKSNodeClass`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

closed_set! {
    /// How a requirement compares a node label with values.
    RequirementOperator {
        /// One of the values.
        In,
        /// None of the values.
        NotIn,
        /// Any value.
        Exists,
        /// No such label.
        DoesNotExist,
        /// Greater than the one value, as integers.
        Gt,
        /// Less than the one value, as integers.
        Lt,
    }
}

/// A condition on a label of the machine to be made: the form of a node selector requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = values_fit_the_operator())]
pub struct Requirement {
    /// Label key, as `kubernetes.io/arch`.
    #[schemars(schema_with = "schema::qualified_name")]
    pub key: String,
    /// How it is compared.
    pub operator: RequirementOperator,
    /// Values; none for Exists and `DoesNotExist`, one for Gt and Lt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        inner(length(max = 63), regex(pattern = schema::LABEL_VALUE_PATTERN)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub values: Vec<String>,
}

/// Kubernetes refuses the pod otherwise.
fn toleration_is_whole() -> kube::core::Rule {
    kube::core::Rule::new("self.operator == 'Exists' ? !has(self.value) : has(self.key)").message(
        "a toleration with operator Exists has no value; one with operator Equal, the default, has a key",
    )
}

/// Karpenter refuses the NodeClaim otherwise.
fn values_fit_the_operator() -> kube::core::Rule {
    kube::core::Rule::new(
        "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : \
         self.operator in ['Gt', 'Lt'] ? has(self.values) && size(self.values) == 1 && \
         self.values[0].matches('^[0-9]{1,9}$') : \
         !has(self.values) || size(self.values) == 0",
    )
    .message("values must be there for In and NotIn, be one whole number for Gt and Lt, and be absent for Exists and DoesNotExist")
}
