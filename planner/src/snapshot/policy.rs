//! What the owner of a Cluster asks of it, resolved.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{GrowthBlock, Placement};
use crate::capacity::Capacity;

/// The Cluster's specification, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `scale.minNodes`.
    pub min_nodes: i64,
    /// `scale.maxNodes`.
    pub max_nodes: i64,
    /// `scale.idleSecondsBeforeScaleDown`.
    pub idle_timeout: SignedDuration,
    /// What one new node of this size will have for runs, as far as is known before it exists.
    pub node_capacity: Capacity,
    /// Where nodes may be placed.
    #[serde(default)]
    pub placement: Placement,
    /// Why no new node can be asked for at all (class missing, size unknown, ...). Existing nodes go on working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_blocked: Option<GrowthBlock>,
    /// What the engine could still give, where it can count that: machines it finds, and does not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stock: Option<Stock>,
    /// Why `max_nodes` is less than the user wrote, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_limited: Option<GrowthBlock>,
    /// `scale.initialNodes`: so many are asked for once, and each is kept until it has been ready.
    #[serde(default)]
    pub initial_nodes: i64,
    /// The highest ordinal when they had been asked for, from `Cluster.status.initialNodesLastOrdinal`; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_last_ordinal: Option<i64>,
    /// `scale.deallocation`.
    #[serde(default)]
    pub deallocation: Deallocation,
    /// `hold`.
    #[serde(default)]
    pub hold: PoolHold,
}

/// Machines that are there for the taking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stock {
    /// How many are free, those left out that nodes of this Cluster without a machine are about to take.
    pub free: i64,
    /// What is the matter with the others, in words.
    pub message: String,
}

/// What becomes of runs on nodes above a maximum that was lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deallocation {
    /// They run on; their nodes leave when they are done.
    #[default]
    WaitForRunCompletion,
    /// As many as must be are stopped and queued again at their old place.
    Requeue,
    /// As many as must be are stopped for good.
    Terminate,
}

/// What a Cluster does not do for now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolHold {
    /// Nothing is held back.
    #[default]
    None,
    /// No run is started; nodes come for the minimum and leave as ever.
    NoNewRuns,
    /// No run is started, no node asked for, and no node given back that could still serve.
    Freeze,
}
