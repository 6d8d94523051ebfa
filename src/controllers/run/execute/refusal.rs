//! What it means for an attempt that the API server does not take an object of it.

use k8s_openapi::api::core::v1::Pod;

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

/// Why a pod that the API server would take has no place on its machine: its RuntimeClass puts something on top of what
/// its containers ask for, and these ask for all that is the Run's.
pub(super) fn overhead(taken: &Pod) -> Option<String> {
    let spec = taken.spec.as_ref()?;
    let overhead = spec.overhead.as_ref().filter(|overhead| !overhead.is_empty())?;
    let amounts: Vec<String> = overhead.iter().map(|(name, amount)| format!("{} {name}", amount.0)).collect();
    let class = spec.runtime_class_name.as_deref().unwrap_or_default();
    Some(format!(
        "RuntimeClass {class} takes {} for itself beside each pod, and the pods of a Run already ask for all that it has of its \
         nodes; use one without overhead",
        amounts.join(" and ")
    ))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_runtime_class_with_overhead_is_named_with_what_it_takes() {
        let pod = |overhead: Value| -> Pod {
            serde_json::from_value(
                json!({"spec": {"containers": [], "runtimeClassName": "kata", "overhead": overhead}}),
            )
            .expect("a pod")
        };
        assert_eq!(overhead(&pod(Value::Null)), None);
        assert_eq!(overhead(&pod(json!({}))), None);
        let message = overhead(&pod(json!({"cpu": "250m", "memory": "160Mi"}))).expect("it has overhead");
        assert!(
            message.starts_with("RuntimeClass kata takes 250m cpu and 160Mi memory for itself"),
            "{message}"
        );
    }
}
