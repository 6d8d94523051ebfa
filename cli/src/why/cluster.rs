//! Why a Cluster is as it is: ready or not, what each run of its queue waits for, what each node does.

use jiff::Timestamp;
use serde_json::Value;
use trainyard_api::Cluster;
use trainyard_api::conditions::{self, ClusterCondition, ConditionStatus};
use trainyard_model::status::pool::health;
use trainyard_model::status::queue::wire_reason;
use trainyard_planner::{NodeReason, PoolHealth};

use super::{Known, pool};
use crate::answer::Answer;
use crate::sentences::sentence;
use crate::target::Kind;
use crate::words::{counted, when};
use crate::world::Pool;

/// Runs and nodes that are told one by one.
const MOST: usize = 20;

/// The answer about a Cluster. `known` is absent when not all of it may be read.
pub fn explain(cluster: &Cluster, known: Option<&Known<'_>>, now: Timestamp) -> Answer {
    let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
    let name = cluster.metadata.name.clone().unwrap_or_default();
    let mut answer = Answer::about(Kind::Cluster, &namespace, &name, now);
    match known.and_then(|known| known.present().map(|pool| (known, pool))) {
        Some((known, pool)) => {
            decided(cluster, known, pool, &mut answer);
            let see = format!("see the whole queue: kubectl trainyard queue {name} -n {namespace}");
            answer.what_you_can_do.push(see);
        }
        None => as_written(cluster, &mut answer),
    }
    answer
}

fn decided(cluster: &Cluster, known: &Known<'_>, pool: &Pool, answer: &mut Answer) {
    let report = &pool.plan.report.pool;
    let now = known.now;
    let (health, message) = health(report, pool.catalogue.as_ref().err());
    answer.state = format!("{health:?}");
    let what = match health {
        PoolHealth::Steady => "is ready, with all that is asked of it",
        PoolHealth::Resizing => "is getting or giving back nodes",
        PoolHealth::BackingOff if report.shortage.is_some() => "waits until more machines are free",
        PoolHealth::BackingOff => "waits until machines that were refused can be asked for again",
        PoolHealth::Blocked => "is stalled until somebody mends something",
        PoolHealth::Deleting => "is being deleted",
    };
    answer.summary = format!(
        "Cluster {} {what}: {message}.",
        pool::shown(cluster),
        message = message.trim_end_matches('.')
    );
    answer.report = serde_json::to_value(report).unwrap_or(Value::Null);
    let status = cluster.status.as_ref();
    let error = status.and_then(|status| status.errors.first());
    answer.reason = error.map(|error| error.code.to_string());

    let scale = &cluster.spec.scale;
    let is_said = |said: &str| {
        let refusal = pool.catalogue.as_ref().err();
        refusal.is_some_and(|refusal| message.contains(&refusal.message) && said.contains(&refusal.message))
    };
    answer.why.extend(pool::obstacles(pool, now).into_iter().filter(|said| !is_said(said)));
    answer.why.push(format!(
        "It has {}, shall have {}, and may have {} to {}; {} in the queue, {} at work",
        counted(report.current_nodes, "node"),
        report.target_nodes,
        scale.min_nodes,
        pool.snapshot.policy.max_nodes,
        counted(report.queued, "run"),
        report.active
    ));
    answer.why.extend(report.zone.as_ref().map(|zone| format!("All its nodes are in zone {zone}")));
    let leaves = report.next_scale_down;
    answer.why.extend(
        leaves.map(|time| format!("The next idle node leaves {}, if nothing changes", when(time, now))),
    );
    answer.why.extend(pool::tenants(&pool.snapshot.active));
    let actions: Vec<String> =
        pool.plan.all_actions().map(|action| sentence(action, &pool.snapshot)).collect();
    if !actions.is_empty() {
        answer.why.push(format!("At this moment trainyard is to {}", crate::words::listed(&actions, 5)));
    }
    answer.why.extend(pool::next_look(pool, now));
    for past in known.pools.iter().filter(|pool| pool.cluster.is_none()) {
        answer.why.push(format!(
            "{} of an earlier Cluster of this name are being given back",
            counted(past.snapshot.nodes.len() as i64, "node")
        ));
    }
    queue(pool, answer);
    nodes(known, pool, answer);
    if health == PoolHealth::Blocked {
        answer
            .what_you_can_do
            .push("do, or have an administrator do, what the sentence above says".to_owned());
    }
    let is_full = report.current_nodes >= pool.snapshot.policy.max_nodes;
    if is_full && report.queued > 0 && report.shortage.is_none() {
        answer.what_you_can_do.push(format!(
            "raise the maximum for the runs that wait: kubectl patch tyc {} -n {} --type merge -p \
             '{{\"spec\":{{\"scale\":{{\"maxNodes\":N}}}}}}'",
            answer.name, answer.namespace
        ));
    }
}

fn queue(pool: &Pool, answer: &mut Answer) {
    let reports = &pool.plan.report.runs;
    answer.queue = reports
        .iter()
        .take(MOST)
        .map(|report| {
            let place = pool::place(report, pool::queued(pool, &report.run.uid));
            format!("{place} {}: {}", wire_reason(report.reason()), report.message())
        })
        .collect();
    if reports.len() > MOST {
        answer.queue.push(format!("and {} more", reports.len() - MOST));
    }
    answer.queue.extend(
        pool.aside
            .iter()
            .take(MOST)
            .map(|aside| format!("not in the queue: {} {:?}: {}", aside.run, aside.reason, aside.message)),
    );
    if pool.aside.len() > MOST {
        answer.queue.push(format!("and {} more that are not in the queue", pool.aside.len() - MOST));
    }
}

fn nodes(known: &Known<'_>, pool: &Pool, answer: &mut Answer) {
    let reports = &pool.plan.report.nodes;
    answer.nodes = reports
        .iter()
        .take(MOST)
        .map(|report| match report.reason {
            NodeReason::Coming => super::node::progress(&report.node.0, known.node(&report.node.0)),
            reason => format!("{} {reason:?}: {}", report.node, report.message),
        })
        .collect();
    if reports.len() > MOST {
        answer.nodes.push(format!("and {} more", reports.len() - MOST));
    }
}

/// What the operator last wrote, when more may not be read.
fn as_written(cluster: &Cluster, answer: &mut Answer) {
    let status = cluster.status.clone().unwrap_or_default();
    let ready = conditions::find(&status.conditions, ClusterCondition::Ready);
    let what = match ready.map(|ready| ready.status) {
        Some(ConditionStatus::True) => "is ready",
        Some(ConditionStatus::False) => "is stalled until somebody mends something",
        Some(ConditionStatus::Unknown) => "is at work on what is asked of it",
        None => "has not been looked at by trainyard yet",
    };
    let message = ready.map(|ready| ready.message.trim_end_matches('.').to_owned()).unwrap_or_default();
    answer.state = ready.map_or("NotLookedAt".to_owned(), |ready| format!("Ready={}", ready.status));
    answer.reason = ready.map(|ready| ready.reason.clone());
    answer.summary =
        format!("Cluster {} {what}{}.", pool::shown(cluster), trainyard_api::text::because(&message));
    answer.why.extend(status.errors.iter().map(|error| format!("{}: {}", error.code, error.message)));
    let backoff = status.backoff.iter().filter(|entry| entry.until.0 > answer.now);
    answer.why.extend(backoff.map(|entry| {
        format!("{}: machines are asked for again {}", entry.cause, when(entry.until.0, answer.now))
    }));
    answer.why.push(format!(
        "It has {} of {} nodes; {} in the queue, {} at work",
        status.current_node_count,
        cluster.spec.scale.max_nodes,
        counted(i64::from(status.queue.queued), "run"),
        status.queue.active
    ));
    let leaves = status.next_scale_down_time.as_ref();
    answer.why.extend(leaves.map(|time| format!("The next idle node leaves {}", when(time.0, answer.now))));
}
