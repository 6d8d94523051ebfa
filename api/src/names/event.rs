//! Why an Event is told: every `reason` that trainyard writes into `events.k8s.io/v1`, one for each meaning.
//!
//! `docs/events.md` has a row for each, held by a test. People and alerts select by these words, so none is renamed.

use crate::closed_set::closed_set;

closed_set! {
    /// The reason of an Event.
    EventReason {
        /// A Run waits in the queue, for another reason than before; the note has the reason and the numbers.
        Waiting,
        /// A Run is passed over for a while, because its machines were not complete within `gangTimeout`.
        Held,
        /// A Run got its nodes; an attempt begins.
        NodesAllocated,
        /// A Run is not accepted.
        NotAccepted,
        /// An attempt of a Run failed.
        AttemptFailed,
        /// The evaluator of an attempt failed, and nothing follows from it.
        EvaluatorFailed,
        /// A Run has succeeded.
        Completed,
        /// A Run has failed for good.
        Failed,
        /// A Run was cancelled.
        Canceled,
        /// Finished Runs of an Experiment were deleted.
        RunsDeleted,
        /// A Cluster asks for machines.
        NodesRequested,
        /// Machines were refused, or did not come to be of use.
        MachinesRefused,
        /// A Cluster can ask for no machine, or for no more, before somebody mends something.
        GrowthBlocked,
        /// Machines that shall leave have a pod on them that carries a run's label.
        NodesOccupied,
        /// An annotation asks for a node to be removed that the Cluster never had.
        NodeToRemoveNotFound,
        /// What kept a Cluster from getting machines is over.
        Recovered,
        /// A node shall leave; nothing more is given to it.
        NodeRetired,
        /// A node that was to leave stays.
        NodeKept,
        /// A machine turned bad: it never came, is lost, preempted or unusable.
        MachineFailed,
        /// A machine carries our labels and no ClusterNode accounts for it.
        StrayMachine,
        /// Such a machine is being destroyed.
        StrayMachineDestroyed,
    }
}

closed_set! {
    /// What an Event is about.
    EventSubject {
        /// A Run.
        Run,
        /// An Experiment.
        Experiment,
        /// A Cluster.
        Cluster,
        /// A ClusterNode.
        ClusterNode,
        /// A Node, or the object of an engine that stands for a machine.
        Machine,
    }
}

closed_set! {
    /// Whether somebody should worry: an Event's `type`.
    EventType {
        /// Things go as they should.
        Normal,
        /// Something needs attention.
        Warning,
    }
}

impl EventReason {
    /// What Events of this reason are about.
    pub const fn subject(self) -> EventSubject {
        match self {
            Self::Waiting
            | Self::Held
            | Self::NodesAllocated
            | Self::NotAccepted
            | Self::AttemptFailed
            | Self::EvaluatorFailed
            | Self::Completed
            | Self::Failed
            | Self::Canceled => EventSubject::Run,
            Self::RunsDeleted => EventSubject::Experiment,
            Self::NodesRequested
            | Self::MachinesRefused
            | Self::GrowthBlocked
            | Self::NodesOccupied
            | Self::NodeToRemoveNotFound
            | Self::Recovered => EventSubject::Cluster,
            Self::NodeRetired | Self::NodeKept | Self::MachineFailed => EventSubject::ClusterNode,
            Self::StrayMachine | Self::StrayMachineDestroyed => EventSubject::Machine,
        }
    }

    /// Whether somebody should worry.
    pub const fn event_type(self) -> EventType {
        match self {
            Self::Held
            | Self::NotAccepted
            | Self::AttemptFailed
            | Self::EvaluatorFailed
            | Self::Failed
            | Self::MachinesRefused
            | Self::GrowthBlocked
            | Self::NodesOccupied
            | Self::NodeToRemoveNotFound
            | Self::MachineFailed
            | Self::StrayMachine
            | Self::StrayMachineDestroyed => EventType::Warning,
            Self::Waiting
            | Self::NodesAllocated
            | Self::Completed
            | Self::Canceled
            | Self::RunsDeleted
            | Self::NodesRequested
            | Self::Recovered
            | Self::NodeRetired
            | Self::NodeKept => EventType::Normal,
        }
    }
}
