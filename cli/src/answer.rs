//! An answer of `why`: one sentence, the reasons behind it, what can be done; as text for people or JSON for programs.

use std::fmt::Write as _;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::target::Kind;

/// Everything that is said about one object. Lists that are empty are left out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The time of the answer.
    pub now: Timestamp,
    /// What it is about.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it stands, in one word.
    pub state: String,
    /// Why, in the word that its status uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same, in one sentence.
    pub summary: String,
    /// The place of a run that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The chain of reasons, the nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// Attempt by attempt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub happened: Vec<String>,
    /// What each run of the queue waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queue: Vec<String>,
    /// What each node does or waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// What the reader can do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub what_you_can_do: Vec<String>,
    /// What could not be read, and what that leaves open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_known: Vec<String>,
    /// The planner's own report about it.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub report: Value,
}

/// The exact place of a run that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// From 1.
    pub position: i64,
    /// How many wait.
    pub of: i64,
    /// When it starts at the latest, if limits that users wrote tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_start: Option<Timestamp>,
}

impl Answer {
    /// An answer that has said nothing yet.
    pub fn about(kind: Kind, namespace: &str, name: &str, now: Timestamp) -> Self {
        Self {
            now,
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            state: String::new(),
            reason: None,
            summary: String::new(),
            place: None,
            why: Vec::new(),
            happened: Vec::new(),
            queue: Vec::new(),
            nodes: Vec::new(),
            what_you_can_do: Vec::new(),
            not_known: Vec::new(),
            report: Value::Null,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.summary);
        let sections = [
            ("Why", &self.why),
            ("What happened", &self.happened),
            ("The queue", &self.queue),
            ("Nodes", &self.nodes),
            ("What you can do", &self.what_you_can_do),
            ("Not known", &self.not_known),
        ];
        for (title, lines) in sections.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            let _ = write!(text, "\n{title}\n");
            lines.iter().for_each(|line| {
                let _ = writeln!(text, "  - {line}");
            });
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> anyhow::Result<String> {
        let mut text = serde_json::to_string_pretty(self).context("the answer cannot be written as JSON")?;
        text.push('\n');
        Ok(text)
    }
}
