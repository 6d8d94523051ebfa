//! What can go wrong in a request, and what to do then.
//!
//! Every request of the operator ends in a value or in an [`Error`] that says which request it was. Callers branch on
//! [`Error::kind`] and never on text or numbers. No kind means "not ready yet": that is a plan, not an error.

use std::{borrow::Cow, time::Duration};

use kube::core::Status;

/// The verbs of the requests in this module's callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read many objects.
    List,
    /// Create an object that does not exist.
    Create,
    /// Write a whole field set by server-side apply.
    Apply,
    /// Change single fields.
    Patch,
    /// Write a whole object.
    Replace,
    /// Ask for an object's deletion.
    Delete,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Apply => "apply",
            Self::Patch => "patch",
            Self::Replace => "replace",
            Self::Delete => "delete",
        })
    }
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or could not be reached or understood.
    #[error("cannot {verb} {target}")]
    Request {
        /// What was asked.
        verb: Verb,
        /// Kind, namespace and name of the object, or kind and selector of a list.
        target: String,
        /// What the client reports.
        #[source]
        source: Box<kube::Error>,
    },
    /// A JSON patch found the object other than it was when the patch was decided.
    #[error("cannot {verb} {target}: it changed since it was read")]
    Changed {
        /// What was asked.
        verb: Verb,
        /// Kind, namespace and name of the object.
        target: String,
    },
    /// The object has no name, UID or resourceVersion, so it was not read from an API server.
    #[error("cannot {verb} {target}: it has no {missing}, so it does not come from an API server")]
    NotFromServer {
        /// What was asked.
        verb: Verb,
        /// Kind, namespace and name as far as known.
        target: String,
        /// The metadata field that is missing.
        missing: &'static str,
    },
    /// A body could not be written as JSON, or is not an object.
    #[error("cannot {verb} {target}: {message}")]
    Body {
        /// What was asked.
        verb: Verb,
        /// Kind, namespace and name of the object.
        target: String,
        /// Why.
        message: Cow<'static, str>,
    },
}

/// What a failed request means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The object changed since it was read: read again, decide again.
    Conflict,
    /// The object (or its namespace, or its type) does not exist.
    NotFound,
    /// An object of that name exists.
    AlreadyExists,
    /// Not allowed: a role, a quota or an admission policy says no.
    Forbidden,
    /// The object breaks a rule of its schema; the same request will fail again.
    Invalid,
    /// The server asks to come back later.
    Throttled,
    /// No answer, or none that counts. **A write may have happened.**
    Unavailable,
    /// The request makes no sense: a fault of this program or of the types it was built with.
    Bug,
}

impl Error {
    /// Wraps what the client reported about one request.
    pub fn request(verb: Verb, target: impl Into<String>, source: kube::Error) -> Self {
        Self::Request { verb, target: target.into(), source: Box::new(source) }
    }

    /// What this means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Request { source, .. } => kind_of(source),
            Self::Changed { .. } => ErrorKind::Conflict,
            Self::NotFromServer { .. } | Self::Body { .. } => ErrorKind::Bug,
        }
    }

    /// How long the server asked to wait, when it did.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Whether a create was refused because its namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status()
            .and_then(|status| status.details.as_ref())
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    /// The API server's own words, when it answered; for people, never for decisions.
    pub fn server_message(&self) -> Option<&str> {
        self.status().map(|status| status.message.as_str())
    }

    /// The whole chain of causes in one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    fn status(&self) -> Option<&Status> {
        match self {
            Self::Request { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Classifies what the client reported.
pub fn kind_of(error: &kube::Error) -> ErrorKind {
    match error {
        kube::Error::Api(status) => kind_of_status(status),
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => {
            ErrorKind::Bug
        }
        // Connection refused or cut, time limit passed, TLS or token trouble: all of them may be over in a moment,
        // and after all of them a write may or may not have happened.
        _ => ErrorKind::Unavailable,
    }
}

fn kind_of_status(status: &Status) -> ErrorKind {
    match status.reason.as_str() {
        "AlreadyExists" => ErrorKind::AlreadyExists,
        "Conflict" => ErrorKind::Conflict,
        "NotFound" => ErrorKind::NotFound,
        "Forbidden" => ErrorKind::Forbidden,
        "Invalid" => ErrorKind::Invalid,
        // Proxies and paths that no server knows answer without a reason. (The `is_*` methods of kube's `Status` look
        // at the reason only, whatever their documentation says.)
        _ => match status.code {
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Conflict,
            403 => ErrorKind::Forbidden,
            422 => ErrorKind::Invalid,
            429 => ErrorKind::Throttled,
            // 401: a rotated token is read again by the client within a minute. 410: the read was too old.
            401 | 408 | 410 | 500.. => ErrorKind::Unavailable,
            _ => ErrorKind::Bug,
        },
    }
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};
    use rstest::rstest;

    use super::*;

    fn answered(code: u16, reason: &str) -> Error {
        let status = Status::failure("no", reason).with_code(code).boxed();
        Error::request(Verb::Create, "Pod a/b", kube::Error::Api(status))
    }

    #[rstest]
    #[case(409, "AlreadyExists", ErrorKind::AlreadyExists)]
    #[case(409, "Conflict", ErrorKind::Conflict)]
    #[case(404, "NotFound", ErrorKind::NotFound)]
    #[case(404, "", ErrorKind::NotFound)]
    #[case(403, "Forbidden", ErrorKind::Forbidden)]
    #[case(422, "Invalid", ErrorKind::Invalid)]
    #[case(429, "TooManyRequests", ErrorKind::Throttled)]
    #[case(401, "Unauthorized", ErrorKind::Unavailable)]
    #[case(410, "Expired", ErrorKind::Unavailable)]
    #[case(500, "InternalError", ErrorKind::Unavailable)]
    #[case(503, "ServiceUnavailable", ErrorKind::Unavailable)]
    #[case(400, "BadRequest", ErrorKind::Bug)]
    #[case(415, "UnsupportedMediaType", ErrorKind::Bug)]
    fn an_answer_is_classified(#[case] code: u16, #[case] reason: &str, #[case] kind: ErrorKind) {
        assert_eq!(answered(code, reason).kind(), kind);
    }

    #[test]
    fn a_cut_connection_is_unavailable_and_a_wrong_type_is_a_bug() {
        let cut = Error::request(Verb::Get, "Pod a/b", kube::Error::Service("connection reset".into()));
        assert_eq!(cut.kind(), ErrorKind::Unavailable);
        assert_eq!(cut.chain(), "cannot get Pod a/b: ServiceError: connection reset: connection reset");
        let wrong = serde_json::from_str::<u8>("{}").expect_err("an object is no number");
        assert_eq!(
            Error::request(Verb::Get, "Pod a/b", kube::Error::SerdeError(wrong)).kind(),
            ErrorKind::Bug
        );
    }

    #[test]
    fn a_terminating_namespace_and_a_wait_are_read_from_the_details() {
        let cause = StatusCause {
            reason: "NamespaceTerminating".into(),
            message: String::new(),
            field: String::new(),
        };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: vec![cause],
            retry_after_seconds: 7,
        };
        let status = Status::failure("no", "Forbidden").with_code(403).with_details(details).boxed();
        let error = Error::request(Verb::Create, "Pod a/b", kube::Error::Api(status));
        assert!(error.is_namespace_terminating());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(!answered(403, "Forbidden").is_namespace_terminating());
        assert_eq!(answered(429, "TooManyRequests").retry_after(), None);
    }
}
