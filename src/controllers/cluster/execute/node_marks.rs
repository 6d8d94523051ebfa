//! Marks on a ClusterNode: that it shall leave, that it may stay after all, that its machine may be destroyed.

use kube::Api;
use serde_json::{Value, json};
use trainyard_api::{cluster_node::ClusterNode, names::FieldManager};
use trainyard_model::snapshot::node::{LightNode, wire_reason};
use trainyard_planner::{NodeName, RetireReason};

use super::drop_claim::is_live_on;
use super::fresh::{fresh_node, moved_on, remember, seen};
use crate::controllers::cluster::Context;
use crate::controllers::cluster::observe::Scope;
use crate::kubernetes::apply;
use crate::kubernetes::error::Error;
use crate::occupancy::{self, Machine};

/// Marks a node as leaving.
pub async fn retire(
    context: &Context,
    scope: &Scope,
    node: &NodeName,
    reason: RetireReason,
) -> Result<(), Error> {
    let light = scope.node(node)?;
    let message = scope
        .snapshot
        .nodes
        .iter()
        .find(|planned| planned.name == *node)
        .and_then(|planned| planned.failure.as_ref())
        .map(|failure| trainyard_api::text::clip(&failure.message, trainyard_api::text::MESSAGE_MAX))
        .unwrap_or_default();
    let mut retired = json!({
        "time": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(context.clock.now()),
        "reason": wire_reason(reason),
    });
    if !message.is_empty() {
        retired["message"] = message.into();
    }
    write(context, scope, &light, &json!({"spec": {"retired": retired}})).await
}

/// Takes the mark back.
pub async fn unretire(context: &Context, scope: &Scope, node: &NodeName) -> Result<(), Error> {
    let light = scope.node(node)?;
    write(context, scope, &light, &json!({"spec": {"retired": null}})).await
}

/// Lets the machine be destroyed. A fresh read must show no claim and a live list no pod of ours that may run there;
/// the write carries the version of that read, so no claim can slip in between. A pod that is there is remembered, and
/// the next plan waits.
pub async fn release(context: &Context, scope: &Scope, node: &NodeName) -> Result<(), Error> {
    let light = scope.node(node)?;
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &light.namespace);
    let fresh = fresh_node(&api, &light).await?;
    if fresh.released {
        return Ok(());
    }
    if !fresh.claims.is_empty() || fresh.retired.is_none() {
        return Err(moved_on(format!("ClusterNode {node}")));
    }
    if let Some(pod) = live_pod(context, &fresh).await? {
        context.memory.node_occupied(&fresh, pod, context.clock.now());
        return Err(moved_on(format!("ClusterNode {node}")));
    }
    context.memory.node_free(&fresh);
    let released = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(context.clock.now());
    write(context, scope, &fresh, &json!({"spec": {"released": released}})).await
}

/// A pod of a run that may still start or run there.
async fn live_pod(context: &Context, node: &LightNode) -> Result<Option<String>, Error> {
    if node.lost {
        return Ok(None);
    }
    let Some((node_name, _)) = &node.node else { return Ok(None) };
    let machine = Machine { namespace: &node.namespace, cluster_node: &node.name, node: node_name };
    occupancy::live_pod(&context.client, machine, |pod| is_live_on(pod, node)).await
}

async fn write(context: &Context, scope: &Scope, light: &LightNode, fields: &Value) -> Result<(), Error> {
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &light.namespace);
    let written = apply::merge(&api, &seen(light), FieldManager::ClusterNodeIntent.as_str(), fields).await?;
    if let Some(written) = remember(context, &written) {
        scope.note(written);
    }
    Ok(())
}
