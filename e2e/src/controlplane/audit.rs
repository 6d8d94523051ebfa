//! The API server's audit log as evidence: who asked for what, how often.
//!
//! In: the log file of a control plane (one JSON event per line, level Metadata). Out: events and counts since a mark.
//! Used by tests that bound the number of writes and by benchmarks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// `system:serviceaccount:<namespace>:<name>`, `admin`, ...; where somebody acts as somebody else, that other one.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Plural, with the subresource: `runs/status`. Empty for requests to no resource.
    pub resource: String,
    /// Empty for the core group.
    pub group: String,
    /// Empty when the object has none.
    pub namespace: String,
    /// Empty for lists and for creations with a generated name.
    pub name: String,
    /// HTTP status.
    pub code: u16,
    /// It was refused for want of a right. Quotas, Pod Security and the end of a namespace answer 403 as well and are no
    /// matter of rights.
    pub forbidden: bool,
    /// By which role and binding it was allowed, in the words of the API server; empty when it was not.
    pub allowed_by: String,
    /// Nothing was stored: the request asked for a dry run.
    pub dry_run: bool,
    /// What the client calls itself.
    pub user_agent: String,
}

impl AuditEvent {
    /// Whether the request may have changed something stored.
    pub fn is_write(&self) -> bool {
        let writes =
            matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        // Token and access reviews are questions put as creations.
        let question = self.group == "authentication.k8s.io" || self.group == "authorization.k8s.io";
        writes && !question && !self.dry_run && self.code < 400
    }
}

/// Writes counted by (user, verb, resource).
pub type WriteCounts = BTreeMap<(String, String, String), usize>;

/// Reads one audit log.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log as it is now. Requests answered just before may still be written after it;
    /// `ControlPlane::audit_mark` waits for those.
    pub fn mark(&self) -> Result<Mark> {
        let mut file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        let length = file.seek(SeekFrom::End(0))?;
        // The last line may be half written: the mark is behind the last whole one.
        let start = length.saturating_sub(LONGEST_LINE);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(length - start).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        Ok(Mark(start + whole))
    }

    /// The start of the log.
    pub fn start(&self) -> Mark {
        Mark(0)
    }

    /// Requests answered since the mark, each once (a watch when it begins).
    pub fn since(&self, mark: Mark) -> Result<Vec<AuditEvent>> {
        let text = self.text_since(mark)?;
        // The last line may be half written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .filter_map(|line| match serde_json::from_str::<Line>(line) {
                Ok(event) => event.answered().map(Ok),
                Err(error) => Some(Err(error).with_context(|| format!("in the audit log: {line}"))),
            })
            .collect()
    }

    /// Requests since the mark that were refused for want of a right. Cheaper than [`Self::since`]: few lines are read.
    pub fn forbidden_since(&self, mark: Mark) -> Result<Vec<AuditEvent>> {
        let text = self.text_since(mark)?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let refused = complete.lines().filter(|line| line.contains(FORBID));
        let events = refused.map(|line| serde_json::from_str::<Line>(line).map(Line::answered));
        Ok(events
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .filter(|event| event.forbidden)
            .collect())
    }

    /// Writes since the mark that `matching` accepts.
    pub fn writes_since(&self, mark: Mark, matching: impl Fn(&AuditEvent) -> bool) -> Result<WriteCounts> {
        let mut counts = WriteCounts::new();
        for event in self.since(mark)?.into_iter().filter(|event| event.is_write() && matching(event)) {
            *counts.entry((event.user, event.verb, event.resource)).or_default() += 1;
        }
        Ok(counts)
    }

    pub(super) fn text_since(&self, mark: Mark) -> Result<String> {
        let mut file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What the API server's authorizer decided, and why, stands in annotations of a line.
const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";
const FORBID: &str = "forbid";

/// No line of the log is longer: it has no request bodies.
const LONGEST_LINE: u64 = 1 << 20;

/// A line of the log, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    #[serde(default)]
    impersonated_user: Option<User>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

impl Line {
    /// Long requests are logged when they begin and again when they end.
    fn answered(self) -> Option<AuditEvent> {
        let counted = if self.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        if self.stage != counted && self.stage != "Panic" {
            return None;
        }
        let object = self.object_ref;
        let decision = self.annotations.get(DECISION).map(String::as_str).unwrap_or_default();
        let reason = self.annotations.get(REASON).cloned().unwrap_or_default();
        let resource = if object.subresource.is_empty() {
            object.resource
        } else {
            format!("{}/{}", object.resource, object.subresource)
        };
        Some(AuditEvent {
            user: self.impersonated_user.unwrap_or(self.user).username,
            forbidden: decision == FORBID,
            allowed_by: if decision == "allow" { reason } else { String::new() },
            verb: self.verb,
            resource,
            group: object.api_group,
            namespace: object.namespace,
            name: object.name,
            code: self.response_status.code,
            dry_run: self.request_uri.contains("dryRun="),
            user_agent: self.user_agent,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(stage: &str, verb: &str, rest: &str) -> String {
        format!(
            r#"{{"kind":"Event","stage":"{stage}","verb":"{verb}","user":{{"username":"admin"}},"userAgent":"test",{rest}}}"#
        )
    }

    fn log(lines: &[String]) -> (AuditLog, PathBuf) {
        let folder = std::env::temp_dir().join(format!("audit-{}-{}", std::process::id(), lines.len()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("audit.log"), lines.join("\n") + "\n").unwrap();
        (AuditLog::new(folder.join("audit.log")), folder)
    }

    #[test]
    fn only_stored_changes_count_as_writes_and_each_once() {
        let pods = r#""requestURI":"/api/v1/namespaces/a/pods","objectRef":{"resource":"pods","namespace":"a"},"responseStatus":{"code":201}"#;
        let dry = pods.replace("/pods\",", "/pods?dryRun=All\",");
        let refused = pods.replace("201", "403");
        let review = r#""requestURI":"/x","objectRef":{"resource":"subjectaccessreviews","apiGroup":"authorization.k8s.io"},"responseStatus":{"code":201}"#;
        let lines = [
            event("ResponseStarted", "watch", pods),
            event("ResponseComplete", "watch", pods),
            event("ResponseComplete", "create", pods),
            event("ResponseComplete", "create", &dry),
            event("ResponseComplete", "create", &refused),
            event("ResponseComplete", "create", review),
            event("ResponseComplete", "get", pods),
        ];
        let (log, folder) = log(&lines);
        let events = log.since(log.start()).unwrap();
        let writes = log.writes_since(log.start(), |_| true).unwrap();
        std::fs::remove_dir_all(folder).unwrap();

        assert_eq!(events.iter().filter(|e| e.verb == "watch").count(), 1);
        let create_pod = ("admin".to_owned(), "create".to_owned(), "pods".to_owned());
        assert_eq!(writes, WriteCounts::from([(create_pod, 1)]));
    }

    #[test]
    fn who_is_refused_for_want_of_a_right_is_found_and_who_is_impersonated_is_meant() {
        let pods = r#""requestURI":"/api/v1/namespaces/a/pods","objectRef":{"resource":"pods","namespace":"a"},"responseStatus":{"code":403}"#;
        let decided = |decision: &str, reason: &str| {
            format!(
                r#"{pods},"annotations":{{"authorization.k8s.io/decision":"{decision}","authorization.k8s.io/reason":"{reason}"}}"#
            )
        };
        let acting = format!(r#"{},"impersonatedUser":{{"username":"eve"}}"#, decided("forbid", ""));
        let lines = [
            event("ResponseComplete", "create", &acting),
            // A quota's answer.
            event("ResponseComplete", "create", &decided("allow", "RBAC: allowed by RoleBinding")),
            event("ResponseComplete", "get", pods),
            event("ResponseComplete", "get", pods),
        ];
        let (log, folder) = log(&lines);
        let refused = log.forbidden_since(log.start()).unwrap();
        let all = log.since(log.start()).unwrap();
        std::fs::remove_dir_all(folder).unwrap();

        assert_eq!((refused.len(), refused[0].user.as_str()), (1, "eve"));
        assert_eq!((all[1].forbidden, all[1].allowed_by.as_str()), (false, "RBAC: allowed by RoleBinding"));
    }
}
