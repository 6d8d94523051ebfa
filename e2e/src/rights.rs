//! What the chart grants, and what the API server says was used of it.
//!
//! In: the chart's objects, and events of an audit log. Out: sets of [`Right`]s to compare. A request counts for the role by
//! which the API server says that it allowed it, so that a right is never proved by what somebody may do anyway.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::controlplane::AuditEvent;
use crate::installation::render;

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Empty for the core group.
    pub group: String,
    /// Plural, with the subresource: `runs/status`.
    pub resource: String,
    /// `get`, `list`, ...
    pub verb: String,
}

/// Rights, in order.
pub type Rights = BTreeSet<Right>;

impl Right {
    /// Of three words.
    pub fn new(group: &str, resource: &str, verb: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned(), verb: verb.to_owned() }
    }

    /// Several verbs, separated by blanks, on one resource.
    pub fn several(group: &str, resource: &str, verbs: &str) -> Rights {
        verbs.split(' ').map(|verb| Self::new(group, resource, verb)).collect()
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { group, resource, verb } = self;
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{verb} {resource}{dot}{group}")
    }
}

/// A rule of a role. One that names objects or paths is another kind of right, and an error here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// All objects that the chart makes as it is installed.
pub fn chart_objects() -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&render("trainyard", &[])?)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// What one `ClusterRole` or `Role` among the objects grants.
pub fn granted(objects: &[Value], kind: &str, name: &str) -> Result<Rights> {
    let role = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let rules = &role.with_context(|| format!("there is no {kind} {name}"))?["rules"];
    let rules: Vec<Rule> =
        serde_json::from_value(rules.clone()).with_context(|| format!("the rules of {kind} {name}"))?;
    let mut rights = Rights::new();
    for Rule { api_groups, resources, verbs } in rules {
        let words = verbs.join(" ");
        ensure!(
            !format!("{api_groups:?}{resources:?}{words}").contains('*'),
            "{kind} {name} grants everything"
        );
        for group in &api_groups {
            rights.extend(resources.iter().flat_map(|resource| Right::several(group, resource, &words)));
        }
    }
    Ok(rights)
}

/// What these requests were for; used, where they were allowed.
pub fn used<'a>(events: impl IntoIterator<Item = &'a AuditEvent>) -> Rights {
    events.into_iter().map(|event| Right::new(&event.group, &event.resource, &event.verb)).collect()
}
