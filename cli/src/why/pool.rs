//! What is to be said of a Cluster whoever asks: why it may not grow, who has its nodes, what it is about to do.

use jiff::Timestamp;
use trainyard_api::Cluster;
use trainyard_model::catalogue::Refusal;
use trainyard_model::snapshot::wire_cause;
use trainyard_planner::{Action, ActiveRun, NodeCounts, QueuedRun, RunReport};

use crate::words::{at, counted, listed, when};
use crate::world::Pool;

/// Why no machine can be asked for, or not now, or not as many as asked.
pub fn obstacles(pool: &Pool, now: Timestamp) -> Vec<String> {
    let mut said = Vec::new();
    if let Err(Refusal { code, message }) = &pool.catalogue
        && pool.cluster.is_some()
    {
        said.push(format!("The Cluster can ask for no machine ({code}): {message}"));
    }
    if let Some(limit) = &pool.snapshot.policy.max_limited {
        let most = counted(pool.snapshot.policy.max_nodes, "node");
        said.push(format!("The Cluster may have {most} and no more ({}): {}", limit.code, limit.message));
    }
    said.extend(refusals(pool, now));
    said.extend(pool.plan.report.pool.held_up.iter().map(|held_up| held_up.message.clone()));
    said
}

/// Refusals of machines that are being waited out.
fn refusals(pool: &Pool, now: Timestamp) -> Vec<String> {
    let entries = pool.plan.report.pool.backoff.iter().filter(|entry| entry.until > now);
    entries
        .filter_map(|entry| {
            let (cause, code) = wire_cause(entry.cause)?;
            let zone = entry.zone.as_ref().map(|zone| format!(" in zone {zone}")).unwrap_or_default();
            let errors = pool.cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
            let error = errors.and_then(|status| status.errors.iter().find(|error| error.code == code));
            let words =
                if entry.message.is_empty() { error.map(|error| error.message.as_str()) } else { None };
            let words = words.unwrap_or(&entry.message);
            let since = error.map(|error| format!(" since {}", at(error.since.0))).unwrap_or_default();
            let times =
                if entry.count > 1 { format!(", {} times in a row", entry.count) } else { String::new() };
            Some(format!(
                "Machines{zone} are refused{since}{times} ({cause}){}; they are asked for again {}",
                trainyard_api::text::because(words.trim_end_matches('.')),
                when(entry.until, now)
            ))
        })
        .collect()
}

/// How many nodes there are, and whether the maximum leaves room for more.
pub fn room(pool: &Pool) -> String {
    let report = &pool.plan.report.pool;
    let most = pool.snapshot.policy.max_nodes;
    let full = if report.current_nodes >= most { ", so no further machine can be asked for" } else { "" };
    let NodeCounts { preparing, idle, running, leaving, unusable, preempted } = report.counts;
    let counts = [
        (running, "running"),
        (idle, "idle"),
        (preparing, "preparing"),
        (leaving, "leaving"),
        (unusable, "unusable"),
        (preempted, "preempted"),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    format!(
        "The Cluster has {} of at most {} (scale.maxNodes){full}{}",
        report.current_nodes,
        counted(most, "node"),
        trainyard_api::text::because(&counts.join(", "))
    )
}

/// Which runs have nodes, and until when.
pub fn tenants(active: &[ActiveRun]) -> Option<String> {
    let ends = |run: &ActiveRun| run.started.filter(|_| run.limit_by_user)?.checked_add(run.limit).ok();
    let told: Vec<String> = active
        .iter()
        .map(|run| {
            let nodes = counted(run.nodes.len() as i64, "node");
            let until = match ends(run) {
                Some(time) => format!("ends at {} at the latest", at(time)),
                None if run.started.is_none() => "is starting".to_owned(),
                None => "has no limit of time that its user wrote".to_owned(),
            };
            format!("{} ({nodes}, {until})", run.id)
        })
        .collect();
    (!told.is_empty()).then(|| format!("Nodes are in use by {}", listed(&told, 5)))
}

/// `1. ml/a (High, 4 nodes)`.
pub fn place(report: &RunReport, queued: Option<&QueuedRun>) -> String {
    let of = queued.map(|run| format!(" ({:?}, {})", run.priority, counted(run.node_count, "node")));
    format!("{}. {}{}", report.position, report.run, of.unwrap_or_default())
}

/// The run as it is in the queue that was decided on.
pub fn queued<'a>(pool: &'a Pool, uid: &str) -> Option<&'a QueuedRun> {
    pool.snapshot.queued.iter().find(|run| run.id.uid == uid)
}

/// How many machines are asked for at this moment.
pub fn asking(pool: &Pool) -> Option<String> {
    let requests = pool.plan.afterwards.iter().filter(|action| matches!(action, Action::RequestNode { .. }));
    let count = requests.count() as i64;
    (count > 0).then(|| format!("trainyard is asking for {} at this moment", counted(count, "machine")))
}

/// When the operator looks again by itself.
pub fn next_look(pool: &Pool, now: Timestamp) -> Option<String> {
    let wake_at = pool.plan.wake_at?;
    Some(format!("trainyard decides again {}, or when something changes", when(wake_at, now)))
}

/// The Cluster as people write it.
pub fn shown(cluster: &Cluster) -> String {
    crate::world::key_of_object(&cluster.metadata)
}
