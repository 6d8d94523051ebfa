//! The Events of the node controller.

use crate::kubernetes::events::Reason;

/// One per meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeEvent {
    /// A machine turned bad: it never came, is lost, preempted or unusable.
    MachineFailed,
    /// A machine carries our labels and no ClusterNode accounts for it.
    StrayMachine,
    /// Such a machine is being destroyed.
    StrayMachineDestroyed,
}

impl Reason for NodeEvent {
    fn as_str(self) -> &'static str {
        match self {
            Self::MachineFailed => "MachineFailed",
            Self::StrayMachine => "StrayMachine",
            Self::StrayMachineDestroyed => "StrayMachineDestroyed",
        }
    }
}
