//! The place of a waiting Run, and what it waits for: written by the cluster controller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::schema;

closed_set! {
    /// What a queued Run waits for.
    QueueReason {
        /// Machines asked for on its behalf are on their way.
        NodesPreparing,
        /// Nodes that other runs use.
        NodesBusy,
        /// Nodes that leave or are not fit for use, and count against `maxNodes` until they are gone.
        NodesLeaving,
        /// Runs before it in the queue.
        BehindOthers,
        /// Nodes it could use are reserved for a run before it.
        Reserved,
        /// The Cluster may not have that many nodes: raise `maxNodes`.
        ExceedsMaxNodes,
        /// The Cluster's size has not what a node of it needs.
        ExceedsNode,
        /// Its nodes did not come in time; it is held for a while.
        CapacityHold,
        /// Machines were refused (see the Cluster's `errors`) and are asked for again later.
        CapacityBackoff,
        /// So many machines are not free: others use them, or something is in the way; the message says what.
        NoFreeMachines,
        /// The Cluster cannot get machines until somebody changes something; see its `errors`.
        ClusterStalled,
        /// The Cluster is on hold.
        ClusterOnHold,
        /// The Cluster is being deleted.
        ClusterDeleting,
        /// For nothing any more: it has waited longer than its `queueDeadline`, and ends.
        QueueDeadline,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// The place of a waiting Run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunQueue {
    /// Its place, from 1; beyond 20 rounded up to 50, 100, 200, 500 and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub position: Option<i32>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<QueueReason>,
    /// The same, as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub message: Option<String>,
    /// When it may start, as far as limits that users wrote tell; absent rather than guessed. Rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_start: Option<Time>,
    /// When the first machine of its gang was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang_since: Option<Time>,
    /// That it is held because its gang did not come together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// That its wait is to end, and the Run as Failed. Final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
}

closed_set! {
    /// Why a waiting Run is to end.
    GivenUp {
        /// It waited longer than its `queueDeadline`.
        QueueDeadline,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

closed_set! {
    /// Why a Run is held.
    HoldReason {
        /// Its gang did not come together within `gangTimeout`.
        GangTimeout,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// That a Run is passed over until some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Until when.
    pub until: Time,
    /// How often in a row: the time doubles from 20 minutes to 4 hours.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: i32,
    /// Why.
    pub reason: HoldReason,
}
