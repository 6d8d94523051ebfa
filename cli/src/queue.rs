//! `kubectl trainyard queue CLUSTER`: who works, and who waits, in exact order.
//!
//! In: a Cluster, and an API server or files. Out: a table, or JSON. Order, reasons and estimates are the planner's on a live
//! read: exact, also where status is rounded.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use trainyard_api::run_status::QueueReason;
use trainyard_model::status::queue::wire_reason;
use trainyard_planner::{ActiveRun, Progress};

use crate::connection::{self, Connection};
use crate::find::{self, Subject};
use crate::live::{Objects, Reader};
use crate::manifest;
use crate::plan::{Output, wall_clock};
use crate::target::{Kind, Target};
use crate::words::{age, at};
use crate::world::{self, Origin, Pool, key_of_object};

/// List the runs of a cluster: those at work, then those that wait, in the order in which they are served.
///
/// The order is computed from what the API server has at this moment, so places are exact, however long the queue is.
///
///   kubectl trainyard queue nc6
///
///   kubectl trainyard queue nc6 -n ml -o json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Queue {
    /// Name of the Cluster, as nc6 or cluster/nc6.
    #[arg(value_name = "CLUSTER", required = true, num_args = 1..=2)]
    target: Vec<String>,

    #[command(flatten)]
    connection: Connection,

    /// A file, a folder of files, or - for standard input, that kubectl get -o yaml exported, instead of a cluster.
    #[arg(short, long, value_name = "FILES", conflicts_with_all = ["context", "kubeconfig"])]
    filename: Vec<PathBuf>,

    /// The time to answer at, such as 2030-01-01T12:00:00Z; only with files.
    #[arg(long, value_name = "TIMESTAMP", requires = "filename")]
    now: Option<Timestamp>,

    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Queue {
    /// The answer, to be printed.
    pub fn run(self) -> anyhow::Result<String> {
        let Self { target, connection, filename, now, output } = self;
        let target = Target::parse(&target)?;
        if target.kind.is_some_and(|kind| kind != Kind::Cluster) {
            bail!("{}: only a Cluster has a queue, as in cluster/nc6", target.name);
        }
        let target = Target { kind: Some(Kind::Cluster), ..target };
        let now = now.unwrap_or_else(wall_clock);
        let (key, objects, not_known) = if filename.is_empty() {
            connection::wait(async {
                let (client, namespace) = connection.connect().await?;
                read(Reader::new(client), &namespace, &target).await
            })?
        } else {
            let namespace = connection.namespace.as_deref().unwrap_or("default");
            let manifest = manifest::read(&filename, namespace)?;
            let key = key_of(&find::in_files(&manifest, namespace, &target)?);
            let origin = Origin::of_export(&manifest);
            (key, Objects { manifest, origin, is_whole: true }, Vec::new())
        };
        let answer = answer(&key, objects, not_known, now)?;
        match output {
            Output::Text => Ok(answer.text()),
            Output::Json => {
                let text = serde_json::to_string_pretty(&answer);
                Ok(text.context("the queue cannot be written as JSON")? + "\n")
            }
        }
    }
}

fn key_of(subject: &Subject) -> String {
    match subject {
        Subject::Cluster(cluster) => key_of_object(&cluster.metadata),
        // Only Clusters were looked for.
        Subject::Run(_) | Subject::Node(_) | Subject::PastNode(_) => String::new(),
    }
}

async fn read(
    mut reader: Reader,
    namespace: &str,
    target: &Target,
) -> anyhow::Result<(String, Objects, Vec<String>)> {
    let key = key_of(&find::in_cluster(&reader, namespace, target).await?);
    let objects = reader.of_cluster(namespace, &target.name).await?;
    Ok((key, objects, reader.not_known))
}

fn answer(key: &str, objects: Objects, not_known: Vec<String>, now: Timestamp) -> anyhow::Result<Answer> {
    let Objects { manifest, origin, is_whole } = objects;
    if !is_whole {
        bail!("the queue of Cluster {key} cannot be computed: {}", not_known.join(" "));
    }
    let world = world::complete(manifest, now, origin, Some(key))?;
    let active: Vec<Active> =
        world.pools.iter().flat_map(|pool| &pool.snapshot.active).map(Active::of).collect();
    let pool = world.pools.iter().find(|pool| pool.cluster.is_some());
    let waiting = pool.map(waiting).unwrap_or_default();
    let aside = world.pools.iter().flat_map(|pool| &pool.aside).map(|aside| Aside {
        run: aside.run.clone(),
        reason: format!("{:?}", aside.reason),
        message: aside.message.clone(),
    });
    let aside = aside.collect();
    Ok(Answer { now, cluster: key.to_owned(), active, waiting, not_queued: aside, not_known })
}

/// The queue, in order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    now: Timestamp,
    cluster: String,
    active: Vec<Active>,
    waiting: Vec<Waiting>,
    not_queued: Vec<Aside>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_known: Vec<String>,
}

/// A run with nodes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Active {
    namespace: String,
    run: String,
    priority: String,
    nodes: i64,
    attempt: i64,
    progress: Progress,
    #[serde(skip_serializing_if = "Option::is_none")]
    launched: Option<Timestamp>,
    /// Only from a limit that its user wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at_the_latest: Option<Timestamp>,
}

impl Active {
    fn of(run: &ActiveRun) -> Self {
        let ends =
            run.started.filter(|_| run.limit_by_user).and_then(|time| time.checked_add(run.limit).ok());
        Self {
            namespace: run.id.namespace.clone(),
            run: run.id.name.clone(),
            priority: format!("{:?}", run.priority),
            nodes: run.nodes.len() as i64,
            attempt: run.attempt,
            progress: run.progress,
            launched: run.started,
            ends_at_the_latest: ends,
        }
    }
}

/// A run in the queue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    position: i64,
    namespace: String,
    run: String,
    priority: String,
    nodes: i64,
    #[serde(rename = "waitingSince")]
    since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_start: Option<Timestamp>,
    reason: QueueReason,
    message: String,
}

fn waiting(pool: &Pool) -> Vec<Waiting> {
    let by_uid: std::collections::HashMap<&str, _> =
        pool.snapshot.queued.iter().map(|run| (run.id.uid.as_str(), run)).collect();
    let reports = pool.plan.report.runs.iter();
    reports
        .filter_map(|report| {
            let queued = by_uid.get(report.run.uid.as_str())?;
            Some(Waiting {
                position: report.position,
                namespace: report.run.namespace.clone(),
                run: report.run.name.clone(),
                priority: format!("{:?}", queued.priority),
                nodes: queued.node_count,
                since: queued.created,
                estimated_start: report.estimated_start,
                reason: wire_reason(report.reason()),
                message: report.message(),
            })
        })
        .collect()
}

/// A run that names the Cluster and is not in its queue.
#[derive(Serialize)]
struct Aside {
    run: String,
    reason: String,
    message: String,
}

impl Answer {
    fn text(&self) -> String {
        let since = |time: Timestamp| age(self.now.duration_since(time));
        let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), at);
        let mut parts = Vec::new();
        if !self.active.is_empty() {
            let heading =
                ["AT WORK", "NAMESPACE", "PRIORITY", "NODES", "ATTEMPT", "STATE", "LAUNCHED", "ENDS BY"];
            let rows = self.active.iter().map(|run| {
                [
                    run.run.clone(),
                    run.namespace.clone(),
                    run.priority.clone(),
                    run.nodes.to_string(),
                    run.attempt.to_string(),
                    format!("{:?}", run.progress),
                    run.launched.map_or_else(|| "-".to_owned(), since),
                    time(run.ends_at_the_latest),
                ]
            });
            parts.push(table(heading, rows));
        }
        if self.waiting.is_empty() {
            parts.push(format!("No run waits for Cluster {}.\n", self.cluster));
        } else {
            let heading = [
                "POSITION",
                "RUN",
                "NAMESPACE",
                "PRIORITY",
                "NODES",
                "WAITING",
                "STARTS BY",
                "REASON",
                "MESSAGE",
            ];
            let rows = self.waiting.iter().map(|run| {
                [
                    run.position.to_string(),
                    run.run.clone(),
                    run.namespace.clone(),
                    run.priority.clone(),
                    run.nodes.to_string(),
                    since(run.since),
                    time(run.estimated_start),
                    run.reason.to_string(),
                    run.message.clone(),
                ]
            });
            parts.push(table(heading, rows));
        }
        if !self.not_queued.is_empty() {
            let rows =
                self.not_queued.iter().map(|run| [run.run.clone(), run.reason.clone(), run.message.clone()]);
            parts.push(table(["NOT IN THE QUEUE", "REASON", "MESSAGE"], rows));
        }
        parts.extend(self.not_known.iter().map(|said| format!("{said}\n")));
        parts.join("\n")
    }
}

/// Columns as wide as they must be, three blanks apart, as kubectl prints them.
fn table<const N: usize>(heading: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(heading.map(ToOwned::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cells() {
        let rows = [["a".to_owned(), "b c".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["X", "Y"], rows.into_iter()), "X        Y\na        b c\nlonger\n");
    }
}
