//! What can go wrong in a reconcile of the node controller.

use std::time::Duration;

use crate::{
    kubernetes::{self, ErrorKind, workqueue::Failure},
    provisioner,
};

/// A failed reconcile. What it could do it has done; the rest is repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    /// An engine failed.
    #[error(transparent)]
    Engine(#[from] provisioner::Error),
}

impl Failure for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Kubernetes(error) => error.kind(),
            Self::Engine(error) => error.kind(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Kubernetes(error) | Self::Engine(provisioner::Error::Kubernetes(error)) => {
                error.retry_after()
            }
            Self::Engine(provisioner::Error::Unavailable { .. }) => None,
        }
    }
}
