//! The API server's refusals, in its own words and codes.

use std::time::Duration;

use serde_json::{Value, json};

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None }
    }

    pub fn not_found(plural: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{plural} \"{name}\" not found"))
    }

    pub fn not_found_path(path: &str) -> Self {
        Self::new(404, "NotFound", format!("the server could not find the requested resource {path}"))
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub fn already_exists(plural: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{plural} \"{name}\" already exists"))
    }

    pub fn conflict(plural: &str, name: &str, why: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {plural} \"{name}\": {why}"))
    }

    pub fn stale(plural: &str, name: &str) -> Self {
        Self::conflict(
            plural,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Fields that another manager owns.
    pub fn owned_by_others(conflicts: &[(String, String)]) -> Self {
        let list: Vec<String> =
            conflicts.iter().map(|(manager, path)| format!("conflict with \"{manager}\": {path}")).collect();
        let count = conflicts.len();
        Self::new(409, "Conflict", format!("Apply failed with {count} conflict(s): {}", list.join(", ")))
    }

    pub fn invalid(plural: &str, name: &str, why: &str) -> Self {
        Self::new(422, "Invalid", format!("{plural} \"{name}\" is invalid: {why}"))
    }

    /// A JSON patch that does not fit the object.
    pub fn patch_does_not_fit() -> Self {
        Self::new(422, "Invalid", "the server rejected our request due to an error in our request")
    }

    pub fn bad_request(why: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", why)
    }

    pub fn unsupported_media_type(found: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format: {found}"),
        )
    }

    pub fn forbidden(plural: &str, why: &str) -> Self {
        Self::new(403, "Forbidden", format!("{plural} is forbidden: {why}"))
    }

    pub fn throttled(retry_after: Duration) -> Self {
        let message = "the server has received too many requests and has asked us to try again later";
        Self { retry_after: Some(retry_after), ..Self::new(429, "TooManyRequests", message) }
    }

    /// The real server has no better answer for this than an internal error without a reason.
    pub fn version_on_create() -> Self {
        Self::new(500, "", "resourceVersion should not be set on objects to be created")
    }

    pub fn internal(why: &str) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
    }

    pub fn expired() -> Self {
        Self::new(410, "Expired", "too old resource version")
    }

    /// The `Status` object that carries this refusal.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(wait) = self.retry_after {
            status["details"] = json!({"retryAfterSeconds": wait.as_secs()});
        }
        status
    }
}
