//! What a queued run waits for, as data; the sentence is made only when somebody reads it.
//!
//! In: numbers and names, filled while the queue is served. Out: a stable [`WaitReason`] and a sentence. Sentences of runs
//! far behind name nothing that changes with every finished run, so that a moving queue rewrites no thousand statuses.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;
use crate::identity::RunId;
use crate::report::WaitReason;
use crate::snapshot::{FailureCause, PoolHold};

/// Why a run waits, and what for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Wait {
    /// Its machines are booting or are asked for by this plan.
    NodesComing(Machines),
    /// Machines must be asked for, and refusals are being waited out.
    CapacityBackoff {
        /// What it has and lacks.
        machines: Machines,
        /// What was refused.
        cause: FailureCause,
        /// When they are asked for again.
        until: Timestamp,
        /// The engine's last words.
        message: String,
    },
    /// It gave its machines back after `gangTimeout`.
    CapacityHold {
        /// How many nodes it needs.
        needed: i64,
        /// Until when it is passed over.
        until: Timestamp,
        /// The how manieth time.
        count: i64,
    },
    /// It is the next to start, and running runs have its nodes.
    NodesBusy {
        /// How many nodes it needs.
        needed: i64,
        /// How many of them have room for it already and are reserved.
        idle: i64,
        /// How many of them are booting.
        coming: i64,
        /// How many of them are working. The rest is yet to be asked for.
        busy: i64,
        /// When the last of them must be free, if their runs' limits tell.
        free_at: Option<Timestamp>,
    },
    /// It could start, but would delay a run before it that has nodes reserved.
    BehindReservation {
        /// That run, of the same namespace; told to the first of the queue only, because it changes often.
        holder: Option<RunId>,
    },
    /// Runs before it come first.
    BehindInQueue {
        /// True when they come first because of their priority.
        higher_priority: bool,
    },
    /// It can never start with this maximum.
    ExceedsMaxNodes {
        /// How many nodes it needs.
        needed: i64,
        /// How many there may be.
        maximum: i64,
    },
    /// It can never start on nodes of this size.
    ExceedsNodeSize {
        /// What it asks of each node.
        share: Box<Capacity>,
        /// What a node has.
        node: Box<Capacity>,
    },
    /// It needs machines, and a person must mend something before any can be asked for.
    GrowthBlocked {
        /// How many nodes it needs.
        needed: i64,
        /// Stable code.
        code: String,
        /// What to do.
        message: String,
    },
    /// The engine has not so many machines for it, whatever its own runs give back.
    NoFreeMachines {
        /// How many nodes it needs.
        needed: i64,
        /// How many the Cluster has.
        there: i64,
        /// What the engine says of the others; told to the first of the queue only, because it changes often, and to runs
        /// of the Cluster's own namespace.
        message: String,
    },
    /// Nodes that leave take up room until they are gone.
    NodesLeaving(Machines),
    /// Its user holds the Cluster.
    ClusterOnHold {
        /// How.
        hold: PoolHold,
    },
    /// The Cluster is being deleted.
    ClusterDeleting,
    /// For nothing any more: its deadline has passed, and it is to end.
    QueueDeadline,
}

/// What a run that waits for machines has and lacks; the parts sum up to `needed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machines {
    /// How many nodes it needs.
    pub needed: i64,
    /// Ready and kept for it.
    pub idle: i64,
    /// Booting, or for the moment not ready.
    pub coming: i64,
    /// Since when the longest of those has been on its way.
    pub coming_since: Option<Timestamp>,
    /// To be asked for.
    pub new: i64,
    /// To be asked for once nodes that leave, or are not ready for long, are gone.
    pub leaving: i64,
}

impl Wait {
    /// Leaves out what the people of namespace `reader` may not be told of a Cluster of namespace `owner`: names of others'
    /// runs are not for them, and what the engine says may name other Clusters and pods of the owner's namespace.
    pub(crate) fn tell_in(&mut self, reader: &str, owner: &str) {
        match self {
            Self::BehindReservation { holder }
                if holder.as_ref().is_some_and(|run| run.namespace != reader) =>
            {
                *holder = None;
            }
            Self::NoFreeMachines { message, .. } | Self::CapacityBackoff { message, .. }
                if reader != owner =>
            {
                message.clear();
            }
            _ => {}
        }
    }

    /// The stable code of this wait.
    pub fn reason(&self) -> WaitReason {
        match self {
            Self::NodesComing(_) => WaitReason::NodesComing,
            Self::CapacityBackoff { .. } => WaitReason::CapacityBackoff,
            Self::CapacityHold { .. } => WaitReason::CapacityHold,
            Self::NodesBusy { .. } => WaitReason::NodesBusy,
            Self::BehindReservation { .. } => WaitReason::BehindReservation,
            Self::BehindInQueue { .. } => WaitReason::BehindInQueue,
            Self::ExceedsMaxNodes { .. } => WaitReason::ExceedsMaxNodes,
            Self::ExceedsNodeSize { .. } => WaitReason::ExceedsNodeSize,
            Self::GrowthBlocked { .. } => WaitReason::GrowthBlocked,
            Self::NoFreeMachines { .. } => WaitReason::NoFreeMachines,
            Self::NodesLeaving(_) => WaitReason::NodesLeaving,
            Self::ClusterOnHold { .. } => WaitReason::ClusterOnHold,
            Self::ClusterDeleting => WaitReason::ClusterDeleting,
            Self::QueueDeadline => WaitReason::QueueDeadline,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodesComing(machines) | Self::NodesLeaving(machines) => write!(f, "{machines}"),
            Self::CapacityBackoff { machines, cause, until, message } => {
                write!(f, "{machines}; refused ({cause:?}), asked again at {until:.0}{}", because(message))
            }
            Self::CapacityHold { needed, until, count } => write!(
                f,
                "{} could not be had within gangTimeout; passed over until {until:.0} (hold {count})",
                counted(*needed, "node")
            ),
            Self::NodesBusy { needed, idle, coming, busy, free_at } => {
                write!(f, "needs {}: {idle} idle, {busy} busy", counted(*needed, "node"))?;
                if *coming > 0 {
                    write!(f, ", {coming} booting")?;
                }
                let rest = needed - idle - coming - busy;
                if rest > 0 {
                    write!(f, ", {rest} to be asked for when those are free")?;
                }
                match free_at {
                    Some(time) => write!(f, "; they are free at {time:.0} at the latest"),
                    None => Ok(()),
                }
            }
            Self::BehindReservation { holder: Some(run) } => {
                write!(f, "would delay {run}, which is before it in the queue and has nodes reserved")
            }
            Self::BehindReservation { holder: None } => {
                f.write_str("would delay a run before it in the queue that has nodes reserved")
            }
            Self::BehindInQueue { higher_priority: true } => {
                f.write_str("runs of higher priority come first, however long this one has waited")
            }
            Self::BehindInQueue { higher_priority: false } => {
                f.write_str("runs before it in the queue come first")
            }
            Self::ExceedsMaxNodes { needed, maximum } => write!(
                f,
                "needs {}, the cluster's maxNodes is {maximum}: raise scale.maxNodes or lower nodeCount",
                counted(*needed, "node")
            ),
            Self::ExceedsNodeSize { share, node } => write!(
                f,
                "asks for {share} on each node, a node has {node}: lower resourcesPerNode or use a cluster of a larger vmSize"
            ),
            Self::GrowthBlocked { needed, code, message } => {
                let needed = counted(*needed, "node");
                write!(f, "needs {needed}, and none can be asked for ({code}){}", because(message))
            }
            Self::ClusterOnHold { hold } => {
                write!(f, "the cluster is on hold ({hold:?}): it starts no run until spec.hold is None")
            }
            Self::NoFreeMachines { needed, there, message } => {
                write!(f, "needs {}, the cluster has {there}", counted(*needed, "node"))?;
                if message.is_empty() { Ok(()) } else { write!(f, "; {message}") }
            }
            Self::ClusterDeleting => f.write_str("the cluster is being deleted"),
            Self::QueueDeadline => {
                f.write_str("has waited longer than its queueDeadline, and ends as Failed")
            }
        }
    }
}

impl fmt::Display for Machines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, idle, coming, coming_since, new, leaving } = *self;
        write!(f, "waits for {}: {idle} idle", counted(needed, "node"))?;
        if coming > 0 {
            write!(f, ", {coming} booting")?;
            if let Some(since) = coming_since {
                write!(f, " since {since:.0}")?;
            }
        }
        if new > 0 {
            write!(f, ", {new} to be asked for")?;
        }
        if leaving > 0 {
            write!(f, ", {leaving} to be asked for when nodes that leave or are of no use are gone")?;
        }
        Ok(())
    }
}

/// `: words`, or nothing where nobody said why.
pub(crate) fn because(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// `1 node`, `4 nodes`.
pub(crate) fn counted(count: i64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
