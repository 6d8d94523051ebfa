//! Why a Run is or is not accepted: the reasons of its condition `Accepted`, written by the run controller.

use super::RunReason;
use crate::closed_set::closed_set;

closed_set! {
    /// The reason of the condition `Accepted`.
    AcceptedReason {
        /// The API server would take its pods, or took those of a Run that is alike.
        DryRun,
        /// A webhook cannot rehearse, so it is not known; counts as accepted.
        NotChecked,
        /// The API server would not take its pods: Pod Security, a policy, a schema.
        Refused,
        /// A ResourceQuota of the namespace has no room for its pods.
        QuotaExceeded,
        /// A webhook that the API server must ask about its pods does not answer.
        WebhookFailed,
        /// An object of a name it needs exists and is somebody else's.
        NameTaken,
        /// Its spec makes no sense.
        Invalid,
        /// Its spec is not the one it was accepted with.
        SpecChanged,
        /// Its processes cannot share a node of its Cluster as they ask.
        DoesNotFit,
        /// It names a Cluster of another namespace that does not let it in.
        ClusterNotAllowed,
        /// Its set-up has just failed, and would fail again at once.
        SetupFailed,
    }
}

impl AcceptedReason {
    /// Whether only asking the API server again can change it.
    pub const fn is_of_the_api_server(self) -> bool {
        match self {
            Self::Refused | Self::QuotaExceeded | Self::WebhookFailed | Self::NameTaken => true,
            Self::DryRun
            | Self::NotChecked
            | Self::Invalid
            | Self::SpecChanged
            | Self::DoesNotFit
            | Self::ClusterNotAllowed
            | Self::SetupFailed => false,
        }
    }

    /// The reason of the phase of a Run that is not accepted for it.
    pub const fn run_reason(self) -> RunReason {
        match self {
            Self::SpecChanged => RunReason::SpecChanged,
            Self::DoesNotFit => RunReason::DoesNotFit,
            Self::ClusterNotAllowed => RunReason::ClusterNotAllowed,
            Self::SetupFailed => RunReason::RetryUser,
            Self::DryRun
            | Self::NotChecked
            | Self::Refused
            | Self::QuotaExceeded
            | Self::WebhookFailed
            | Self::NameTaken
            | Self::Invalid => RunReason::NotAccepted,
        }
    }
}
