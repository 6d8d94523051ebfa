//! The nodes of an attempt, and orders about it: written by the cluster controller.

use kube::KubeSchema;
use kube::core::{Reason, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::schema;

/// The nodes of one attempt: the commit of the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = allocation_is_a_commit(), validation = directive_is_final())]
pub struct Allocation {
    /// Number of the attempt, from 1; grows by one with every allocation, started or not.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub attempt: i32,
    /// Its nodes, in the order in which processes are placed on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub nodes: Vec<AllocatedNode>,
    /// What to do with the attempt before its own end. Final for the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directive: Option<Directive>,
}

/// One node of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllocatedNode {
    /// Name of the ClusterNode.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Name of its Node: pods are bound to it.
    #[schemars(schema_with = "schema::object_name")]
    pub node_name: String,
    /// UID of its Node: a Node of that name and another UID is another machine.
    #[serde(rename = "nodeUID")]
    #[schemars(schema_with = "schema::uid")]
    pub node_uid: String,
}

closed_set! {
    /// What the cluster controller tells the run controller to do with an attempt.
    DirectiveKind {
        /// End it, to be queued again; what it costs follows from the reason.
        Stop,
        /// End it, to be queued again at no cost.
        Requeue,
        /// End it, and the Run as Failed.
        Fail,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

closed_set! {
    /// Why.
    DirectiveReason {
        /// The allocation was not launched and its claims are not on every node.
        Withdrawn,
        /// A node of the attempt is gone, or not Ready for too long.
        NodeLost,
        /// The cloud takes a node of the attempt back.
        NodePreempted,
        /// A node of the attempt cannot be used.
        NodeUnusable,
        /// Somebody asked for a node of the attempt to be removed now.
        NodeRemoved,
        /// The Cluster is being deleted.
        ClusterDeleted,
        /// `maxNodes` of the Cluster was lowered below what runs, and its `deallocation` asks for this.
        MaxNodesLowered,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// An order about one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Directive {
    /// What to do.
    pub kind: DirectiveKind,
    /// Why.
    pub reason: DirectiveReason,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::message")]
    pub message: String,
}

// The rules below are the last line of defence of the protocol: they hold whatever a stale or paused process writes.

fn allocation_is_a_commit() -> Rule {
    Rule::new(
        "self.attempt > oldSelf.attempt || (self.attempt == oldSelf.attempt && \
         has(self.nodes) == has(oldSelf.nodes) && (!has(self.nodes) || self.nodes == oldSelf.nodes))",
    )
    .message("the nodes of an attempt cannot be changed, and attempts only grow: allocate the next attempt")
    .field_path(".nodes")
    .reason(Reason::FieldValueForbidden)
}

fn directive_is_final() -> Rule {
    Rule::new(
        "self.attempt > oldSelf.attempt || !has(oldSelf.directive) || (has(self.directive) && \
         self.directive.kind == oldSelf.directive.kind && self.directive.reason == oldSelf.directive.reason)",
    )
    .message("a directive is final for its attempt")
    .field_path(".directive")
    .reason(Reason::FieldValueForbidden)
}
