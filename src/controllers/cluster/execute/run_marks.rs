//! Marks on a Run: a directive for its attempt, a hold, the end of its wait.

use kube::Api;
use serde_json::json;
use trainyard_api::{
    cluster_node::{Claim, ClusterNode},
    names::FieldManager,
    run::Run,
    run_status::{Directive, GivenUp, RunQueue},
};
use trainyard_model::snapshot::run::{LightRun, wire_directive_reason, wire_kind};
use trainyard_model::status::queue;
use trainyard_planner::{DirectiveKind, DirectiveReason, Hold, NodeName, Progress, RunId};

use super::fresh::{fresh_run, moved_on, remember_run, run_seen};
use crate::controllers::cluster::Context;
use crate::controllers::cluster::observe::Scope;
use crate::controllers::cluster::refused::Written;
use crate::controllers::cluster::report::queue_fields;
use crate::kubernetes::apply;
use crate::kubernetes::error::{Error, ErrorKind};
use crate::kubernetes::read;

/// Tells the run controller what to do with an attempt. A directive is final: one that is there stays.
pub async fn direct(
    context: &Context,
    scope: &Scope,
    run: &RunId,
    attempt: i64,
    (kind, reason): (DirectiveKind, DirectiveReason),
    culprit: Option<&NodeName>,
) -> Result<(), Error> {
    let light = planned(scope, run)?;
    if reason == DirectiveReason::Withdrawn && is_fully_claimed(context, light, attempt).await? {
        return Err(moved_on(format!("Run {run}")));
    }
    // A node that the plan did not see at all: perhaps it only lacked in a cache. A directive is final.
    if let Some(node) = culprit.filter(|node| !scope.nodes.contains_key(&node.0))
        && is_claimed(context, light, &node.0, attempt).await?
    {
        return Err(moved_on(format!("ClusterNode {node}")));
    }
    let directive = Directive {
        kind: wire_kind(kind),
        reason: wire_directive_reason(reason),
        message: sentence(reason, culprit, &scope.snapshot.cluster),
    };
    let fields = json!({"status": {"allocation": {"directive": directive}}});
    let api: Api<Run> = Api::namespaced(context.client.clone(), &run.namespace);
    let written = match merge(&api, light, &fields).await {
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let fresh = fresh_run(&api, light).await?;
            let same = fresh.allocation.as_ref().is_some_and(|allocation| {
                allocation.attempt == attempt
                    && allocation.directive.is_none()
                    && allocation.progress().is_some_and(|progress| progress <= limit(reason))
            });
            if !same {
                return Err(error);
            }
            merge(&api, &fresh, &fields).await?
        }
        result => result?,
    };
    remember_run(context, &written);
    Ok(())
}

/// How far an attempt may have got for this to be said about it. One that was launched had its claims.
fn limit(reason: DirectiveReason) -> Progress {
    match reason {
        DirectiveReason::Withdrawn => Progress::Allocated,
        DirectiveReason::NodeLost
        | DirectiveReason::NodePreempted
        | DirectiveReason::NodeUnusable
        | DirectiveReason::NodeRemoved
        | DirectiveReason::MaxNodesLowered
        | DirectiveReason::ClusterDeleted => Progress::Launched,
    }
}

/// Whether the claims that a cache does not show are there after all: it may lag behind the process that made them.
async fn is_fully_claimed(context: &Context, light: &LightRun, attempt: i64) -> Result<bool, Error> {
    let allocated = light.allocation.iter().flat_map(|allocation| &allocation.nodes);
    for name in allocated {
        if !is_claimed(context, light, name, attempt).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether, live, the node is there with the claim of that attempt.
async fn is_claimed(context: &Context, light: &LightRun, node: &str, attempt: i64) -> Result<bool, Error> {
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &light.cluster_namespace);
    let is_its = |claim: &Claim| claim.run_uid == light.id.uid && i64::from(claim.attempt) == attempt;
    Ok(read::get(&api, node).await?.is_some_and(|node| node.spec.claims.iter().any(is_its)))
}

async fn merge(api: &Api<Run>, light: &LightRun, fields: &serde_json::Value) -> Result<Run, Error> {
    apply::merge_status(api, &run_seen(light), FieldManager::RunAllocation.as_str(), fields).await
}

fn sentence(reason: DirectiveReason, culprit: Option<&NodeName>, cluster: &str) -> String {
    let node = culprit.map_or_else(|| "one of its nodes".to_owned(), |node| format!("node {node}"));
    match reason {
        DirectiveReason::Withdrawn => {
            "its nodes could not all be claimed, so it goes back to its place".to_owned()
        }
        DirectiveReason::NodeLost => format!("{node} was lost"),
        DirectiveReason::NodePreempted => format!("{node} was taken back by the provider"),
        DirectiveReason::NodeUnusable => format!("{node} cannot be used any more"),
        DirectiveReason::ClusterDeleted => format!("Cluster {cluster} is being deleted"),
        DirectiveReason::NodeRemoved => format!("{node} was removed on request"),
        DirectiveReason::MaxNodesLowered => {
            format!("maxNodes of Cluster {cluster} was lowered below what runs")
        }
    }
}

/// Sets a run aside until a time; what it waited for is forgotten, so that it starts afresh then.
pub async fn hold(context: &Context, scope: &Scope, run: &RunId, hold: &Hold) -> Result<(), Error> {
    let light = planned(scope, run)?;
    let entry = RunQueue {
        gang_since: None,
        hold: Some(queue::wire_hold(hold)),
        ..light.queue.clone().unwrap_or_default()
    };
    write_queue(context, light, Some(&entry)).await
}

/// Has the run controller end a run that waits. Written on the version that the plan was made from: whoever was suspended
/// or resumed meanwhile has another deadline. What it waited for stays, for the sentence about its end.
pub async fn give_up(context: &Context, scope: &Scope, run: &RunId) -> Result<(), Error> {
    let light = planned(scope, run)?;
    let entry =
        RunQueue { given_up: Some(GivenUp::QueueDeadline), ..light.queue.clone().unwrap_or_default() };
    write_queue(context, light, Some(&entry)).await
}

/// Writes the run's place in the queue, or takes it out, on the version that is given; notes whether that can be written at all.
pub async fn write_queue(context: &Context, light: &LightRun, entry: Option<&RunQueue>) -> Result<(), Error> {
    let api: Api<Run> = Api::namespaced(context.client.clone(), &light.id.namespace);
    let fields = queue_fields(entry);
    let result = apply::merge_status(&api, &run_seen(light), FieldManager::RunQueue.as_str(), &fields).await;
    context.refused.note(&light.id, Written::Queue, result.as_ref().map(drop), context.clock.now());
    remember_run(context, &result?);
    Ok(())
}

fn planned<'a>(scope: &'a Scope, run: &RunId) -> Result<&'a LightRun, Error> {
    scope.runs.get(&run.uid).map(AsRef::as_ref).ok_or_else(|| moved_on(format!("Run {run}")))
}
