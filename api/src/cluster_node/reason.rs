//! Why a node is in its state.

use crate::closed_set::closed_set;

closed_set! {
    /// Why a node is in its state.
    NodeReason {
        /// Its machine has not been asked for yet.
        Pending,
        /// Its machine has been asked for.
        Requested,
        /// The machine exists; its Node does not yet.
        Launched,
        /// Its Node is there and not Ready yet.
        NodeNotReady,
        /// The accelerators the size promises are not allocatable yet.
        WaitingForAccelerators,
        /// Pods that are no run's leave less than half of the Node's cpu or memory.
        TakenByOthers,
        /// A taint keeps the device plugin, or run pods, off the Node; the message names the toleration to add.
        TaintNotTolerated,
        /// Somebody cordoned the Node.
        Cordoned,
        /// Usable, and used by no run.
        Ready,
        /// Promised to an attempt.
        Claimed,
        /// Given up; its machine is being destroyed.
        Released,
        /// Its machine is gone.
        Gone,
        /// The engine has no such machine now.
        StockOut,
        /// The cloud's quota is used up.
        QuotaExceeded,
        /// The engine refused for another reason.
        LaunchFailed,
        /// The engine took the order and delivered nothing in time.
        LaunchTimeout,
        /// The machine never became a Node.
        RegistrationTimeout,
        /// The Node never became usable.
        NotUsableInTime,
        /// A machine of that name exists and is not ours; it is never adopted.
        NameTaken,
        /// The class's engine is not installed, or refuses the class.
        EngineUnavailable,
        /// Its Node is gone, or not Ready for too long.
        Lost,
        /// The cloud took it back.
        Preempted,
        /// Somebody else is deleting its machine.
        MachineDeleted,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}
