//! What it means for an attempt that the API server does not take an object of it.

use super::Done;
use crate::controllers::run::observe::{Refusal, Refused};
use crate::kubernetes::error::{Error, ErrorKind};

/// What a refused create means for the attempt; errors that mean nothing for it are passed on.
pub(super) fn refused(name: &str, error: Error) -> Result<Done, Error> {
    match refusal(&error) {
        Some(why) => {
            let message = error.server_message().unwrap_or_default().to_owned();
            Ok(Done::Refused(Refusal { name: name.to_owned(), why, message }))
        }
        None => Err(error),
    }
}

pub(super) fn refusal(error: &Error) -> Option<Refused> {
    if error.is_namespace_terminating() {
        return Some(Refused::NamespaceTerminating);
    }
    let said = error.server_message().unwrap_or_default();
    match error.kind() {
        // The quota plugin has no reason of its own; this sentence is its only mark (`exceeded quota: NAME, ...`, and
        // `failed quota: NAME: must specify ...`, which no retry mends but a change of the quota does).
        ErrorKind::Forbidden if said.contains("exceeded quota") || said.contains("failed quota") => {
            Some(Refused::Quota)
        }
        ErrorKind::Forbidden | ErrorKind::Invalid => Some(Refused::Policy),
        // A namespace that is gone takes the Run with it.
        ErrorKind::NotFound => Some(Refused::NamespaceTerminating),
        // A policy webhook may answer 400.
        ErrorKind::Bug if said.contains("admission webhook") => Some(Refused::Policy),
        ErrorKind::Conflict
        | ErrorKind::AlreadyExists
        | ErrorKind::Throttled
        | ErrorKind::Unavailable
        | ErrorKind::Bug => None,
    }
}
