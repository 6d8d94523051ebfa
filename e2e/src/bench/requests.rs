//! What the API server was asked between two marks of its audit log, by whom.

use std::collections::BTreeMap;

use crate::controlplane::AuditEvent;
use crate::installation::{NAMESPACE, RELEASE};

/// Requests of one kind by one client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Who asked.
    pub user: String,
    /// `create`, `patch`, ...; dry runs are `create (rehearsal)`.
    pub verb: String,
    /// With the subresource.
    pub resource: String,
    /// Conflicts and other refusals apart.
    pub outcome: String,
}

/// Counts by kind.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Requests of the operator.
    pub of_operator: BTreeMap<Kind, usize>,
    /// Writes of everybody, the operator included.
    pub writes: BTreeMap<Kind, usize>,
    /// Writes that happen whether there are runs or not, and are in none of the other counts: leases, and the
    /// heartbeats of the machines.
    pub heartbeats: usize,
}

impl Requests {
    /// Counts.
    pub fn count(events: &[AuditEvent]) -> Self {
        let operator = format!("system:serviceaccount:{NAMESPACE}:{RELEASE}");
        let mut counted = Self::default();
        for event in events {
            if is_heartbeat(event) {
                counted.heartbeats += usize::from(event.is_write());
                continue;
            }
            let kind = kind(event);
            if event.is_write() {
                *counted.writes.entry(kind.clone()).or_default() += 1;
            }
            if event.user == operator {
                *counted.of_operator.entry(kind).or_default() += 1;
            }
        }
        counted
    }

    /// Writes of the operator.
    pub fn operator_writes(&self) -> usize {
        let operator = self.of_operator.keys().next().map(|kind| kind.user.clone()).unwrap_or_default();
        self.writes.iter().filter(|(kind, _)| kind.user == operator).map(|(_, count)| count).sum()
    }

    /// Writes of everybody.
    pub fn all_writes(&self) -> usize {
        self.writes.values().sum()
    }

    /// Requests of the operator that were refused because something had changed.
    pub fn operator_conflicts(&self) -> usize {
        self.of_operator.iter().filter(|(kind, _)| kind.outcome == "409").map(|(_, count)| count).sum()
    }

    /// Requests of the operator by verb.
    pub fn by_verb(&self) -> BTreeMap<&str, usize> {
        let mut verbs = BTreeMap::new();
        for (kind, count) in &self.of_operator {
            *verbs.entry(kind.verb.as_str()).or_default() += count;
        }
        verbs
    }
}

/// Leases are renewed, and kwok tells again and again that its machines are well, with no run anywhere.
fn is_heartbeat(event: &AuditEvent) -> bool {
    event.resource == "leases" || (event.user == "kwok" && event.resource == "nodes/status")
}

fn kind(event: &AuditEvent) -> Kind {
    let rehearsal = if event.dry_run { " (rehearsal)" } else { "" };
    Kind {
        user: event.user.clone(),
        verb: format!("{}{rehearsal}", event.verb),
        resource: event.resource.clone(),
        outcome: if event.code >= 400 { event.code.to_string() } else { String::new() },
    }
}
