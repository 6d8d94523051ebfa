//! What can go wrong between an engine and the API server.

use crate::kubernetes::{self, ErrorKind};

/// A failed call of an engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    /// The engine's objects cannot be followed: its API is not served, or the first list has not come yet.
    #[error("the objects of engine {engine} cannot be read yet: {message}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// Why, as far as known.
        message: String,
    },
}

impl Error {
    /// What this means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Kubernetes(error) => error.kind(),
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }
}
