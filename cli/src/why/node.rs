//! Why a node is there, what it waits for, when it goes; and what is left of one that is gone.

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;
use trainyard_api::ClusterNode;
use trainyard_api::cluster_node::{Claim, ClusterNodeStatus, NodeReason as WireReason};
use trainyard_api::conditions::{ClusterNodeCondition, ConditionStatus};
use trainyard_model::snapshot::wire_cause;
use trainyard_planner::{NodeReason, NodeReport};

use super::{Known, pool};
use crate::answer::Answer;
use crate::find::PastNode;
use crate::target::Kind;
use crate::words::{at, counted, when};
use crate::world::Pool;

/// How far a node on its way is: `nc6-3f9a1c-4 (WaitingForAccelerators: 0 of 4 nvidia.com/gpu)`.
pub fn progress(name: &str, node: Option<&ClusterNode>) -> String {
    let status = node.and_then(|node| node.status.as_ref());
    let Some(reason) = status.and_then(|status| status.reason) else {
        return format!("{name} (just asked for)");
    };
    let message = status.and_then(|status| status.message.as_deref()).unwrap_or_default();
    format!("{name} ({reason}{})", trainyard_api::text::because(message.trim_end_matches('.')))
}

/// The answer about a ClusterNode that is there. `known` is absent when not all of its Cluster may be read.
pub fn explain(node: &ClusterNode, known: Option<&Known<'_>>, now: Timestamp) -> Answer {
    let namespace = node.metadata.namespace.clone().unwrap_or_default();
    let name = node.metadata.name.clone().unwrap_or_default();
    let mut answer = Answer::about(Kind::ClusterNode, &namespace, &name, now);
    let status = node.status.clone().unwrap_or_default();
    let machine = status.node_name.as_ref().map(|node| format!(" (Node {node})")).unwrap_or_default();
    let shown = format!("ClusterNode {namespace}/{name}{machine} of Cluster {}", node.spec.cluster.name);
    answer.state = status.state.map_or_else(|| "Preparing".to_owned(), |state| state.to_string());
    answer.reason = status.reason.map(|reason| reason.to_string());
    let found = known.and_then(|known| {
        let is_it = |report: &&NodeReport| report.node.0 == name;
        known.pools.iter().find_map(|pool| Some((pool, pool.plan.report.nodes.iter().find(is_it)?)))
    });
    if let Some((pool, report)) = found {
        answer.summary = format!("{shown} {}: {}.", standing(report.reason), report.message);
        answer.report = serde_json::to_value(report).unwrap_or(Value::Null);
        says(&status, &mut answer);
        decided(node, &status, pool, report, &mut answer);
    } else {
        answer.summary = format!("{shown} is {}.", answer.state);
        says(&status, &mut answer);
    }
    claims_and_marks(node, &status, &mut answer);
    answer
}

const fn standing(reason: NodeReason) -> &'static str {
    match reason {
        NodeReason::Coming => "is on its way",
        NodeReason::Working => "is at work",
        NodeReason::IdleTimer => "is idle and leaves when its time is over",
        NodeReason::KeptForMinimum | NodeReason::KeptForQueue | NodeReason::Frozen => "is idle and stays",
        NodeReason::NotReady => "is not usable by runs now",
        NodeReason::Draining => "is to leave and still in use",
        NodeReason::Leaving => "is leaving",
        NodeReason::Quarantined => "is out of use",
        NodeReason::Gone => "is gone, and its object goes next",
    }
}

/// What the node controller sees of the machine.
fn says(status: &ClusterNodeStatus, answer: &mut Answer) {
    let message = status.message.as_deref().unwrap_or_default();
    let reason = status.reason.map_or_else(|| "just asked for".to_owned(), |reason| reason.to_string());
    answer.why.push(format!("Its machine: {reason}{}", trainyard_api::text::because(message)));
    // Conditions come true one after the other, so the first that is not is what it waits for.
    let waiting = ClusterNodeCondition::ALL.iter().find_map(|kind| {
        let condition = trainyard_api::conditions::find(&status.conditions, kind)?;
        (condition.status != ConditionStatus::True).then_some(condition)
    });
    if let Some(condition) = waiting.filter(|_| status.gone_time.is_none()) {
        answer.why.push(format!(
            "Not {} since {}: {}{}",
            condition.r#type,
            when(condition.last_transition_time.0, answer.now),
            condition.reason,
            trainyard_api::text::because(&condition.message)
        ));
    }
}

fn decided(
    node: &ClusterNode,
    status: &ClusterNodeStatus,
    pool: &Pool,
    report: &NodeReport,
    answer: &mut Answer,
) {
    let now = answer.now;
    let (namespace, cluster) = (&answer.namespace, &node.spec.cluster.name);
    let planned = pool.snapshot.nodes.iter().find(|planned| planned.name == report.node);
    if let Some(failure) = planned.and_then(|planned| planned.failure.as_ref()) {
        let again = match wire_cause(failure.cause) {
            Some(_) => "another machine is asked for when the back-off ends",
            None => "another machine is asked for at once where one is wanted",
        };
        answer.why.push(format!("It failed {} ({:?}); {again}", when(failure.at, now), failure.cause));
    }
    let timer = pool.snapshot.policy.idle_timeout;
    match report.reason {
        NodeReason::KeptForQueue => {
            let head = pool.plan.report.runs.first().map(|head| {
                format!("In the queue {}: {}", pool::place(head, pool::queued(pool, &head.run.uid)), head.message())
            });
            answer.why.extend(head);
        }
        NodeReason::KeptForMinimum => answer.what_you_can_do.push(format!(
            "let it go: kubectl patch tyc {cluster} -n {namespace} --type merge -p '{{\"spec\":{{\"scale\":{{\"minNodes\":0}}}}}}'"
        )),
        NodeReason::Frozen => answer.what_you_can_do.push(format!(
            "release the Cluster: kubectl patch tyc {cluster} -n {namespace} --type merge -p '{{\"spec\":{{\"hold\":\"None\"}}}}'"
        )),
        NodeReason::IdleTimer => answer.what_you_can_do.push(format!(
            "keep idle nodes longer or shorter than {} s: scale.idleSecondsBeforeScaleDown of Cluster {cluster}",
            timer.as_secs()
        )),
        NodeReason::NotReady => {
            answer.what_you_can_do.push(match (status.reason, &status.node_name) {
                (Some(WireReason::Cordoned), Some(machine)) => format!("use it again: kubectl uncordon {machine}"),
                (_, Some(machine)) => format!("see what is wrong: kubectl describe node {machine}"),
                (_, None) => "wait".to_owned(),
            });
            answer.what_you_can_do.push(replace(namespace, &answer.name));
        }
        NodeReason::Working => answer.what_you_can_do.push(replace(namespace, &answer.name)),
        NodeReason::Coming => {
            answer.why.extend(pool::obstacles(pool, now));
            answer.what_you_can_do.push("wait".to_owned());
        }
        NodeReason::Quarantined => {
            let machine = status.node_name.as_deref().unwrap_or_default();
            answer.what_you_can_do.push(format!(
                "mend the machine: it is given back by itself when Node {machine} is ready again and no pod of a run is on it"
            ));
            answer.what_you_can_do.push(format!("if it does not come back: kubectl delete node {machine}"));
        }
        NodeReason::Draining | NodeReason::Leaving | NodeReason::Gone => {
            answer.what_you_can_do.push("nothing needs to be done".to_owned());
        }
    }
}

fn replace(namespace: &str, name: &str) -> String {
    format!("have it replaced once its runs have ended: kubectl delete tycn {name} -n {namespace}")
}

/// What is written in its spec, and the times of its life.
fn claims_and_marks(node: &ClusterNode, status: &ClusterNodeStatus, answer: &mut Answer) {
    let now = answer.now;
    let spec = &node.spec;
    answer.why.extend(spec.claims.iter().map(|claim| {
        let run = format!("Run {}/{}", claim.run_namespace, claim.run_name);
        match claim.attempt {
            Claim::OF_NO_ATTEMPT => format!("Promised to {run}, and about to be taken back from it"),
            attempt => format!("Promised to attempt {attempt} of {run}"),
        }
    }));
    if let Some(retired) = &spec.retired {
        answer.why.push(format!(
            "Nothing more is given to it since {} ({}){}",
            when(retired.time.0, now),
            retired.reason,
            trainyard_api::text::because(&retired.message)
        ));
    }
    let end = if spec.engine.static_node.is_some() { "is to be given back" } else { "is being destroyed" };
    answer
        .why
        .extend(spec.released.as_ref().map(|time| format!("Its machine {end} since {}", when(time.0, now))));
    answer.why.extend(spec.idle_since.as_ref().map(|time| format!("Idle since {}", when(time.0, now))));
    let created = node.metadata.creation_timestamp.as_ref();
    let steps = [
        ("wanted", created),
        ("asked for", status.requested_time.as_ref()),
        ("launched", status.launched_time.as_ref()),
        ("registered", status.registered_time.as_ref()),
        ("first usable", status.first_ready_time.as_ref()),
        ("gone", status.gone_time.as_ref()),
    ];
    let steps: Vec<String> =
        steps.into_iter().filter_map(|(what, time)| Some(format!("{what} {}", at(time?.0)))).collect();
    answer.why.push(format!("Its life: {}", steps.join(", ")));
}

/// The answer about a ClusterNode that is not there any more.
pub fn past(past: &PastNode, now: Timestamp) -> Answer {
    let PastNode { name, ordinal, cluster } = past;
    let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
    let mut answer = Answer::about(Kind::ClusterNode, &namespace, name, now);
    let asked = cluster.status.as_ref().map_or(0, |status| status.last_node_ordinal);
    answer.state = "Gone".into();
    answer.summary = format!(
        "ClusterNode {namespace}/{name} is gone: it was node {ordinal} of Cluster {}, which has asked for {} so far.",
        cluster.metadata.name.as_deref().unwrap_or_default(),
        counted(asked, "node")
    );
    answer.why.push("Nothing is kept of a node whose machine is gone, but its Events for as long as the API server keeps them".to_owned());
    answer
}

/// What its Events say, when they may be read.
pub fn tell_events(answer: &mut Answer, events: Option<Vec<Event>>) {
    let Some(mut events) = events else {
        answer.not_known.push(format!(
            "You may not list events.events.k8s.io in namespace {}, so why it left is not known here.",
            answer.namespace
        ));
        return;
    };
    let time = |event: &Event| {
        let last = event.series.as_ref().map(|series| series.last_observed_time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
    };
    events.sort_by_key(time);
    answer.happened = events
        .iter()
        .map(|event| {
            let time = time(event).map(|time| format!("{} ", at(time))).unwrap_or_default();
            let (reason, note) =
                (event.reason.as_deref().unwrap_or_default(), event.note.as_deref().unwrap_or_default());
            format!("{time}{reason}: {note}")
        })
        .collect();
    if answer.happened.is_empty() {
        answer.not_known.push("It has no Events any more, so why it left is not known.".to_owned());
    }
}
