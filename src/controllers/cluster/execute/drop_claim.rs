//! Takes one claim off one node, once nothing of its attempt can be on the machine any more.
//!
//! What the plan relied on is proven again here, where the cache alone is no proof: `podsGone` in a Run is (it never
//! becomes false again); that a Run is gone, or has no such allocation, is only believed from live reads.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use trainyard_api::{cluster_node::ClusterNode, names::labels, run::Run};
use trainyard_model::snapshot::node::LightNode;
use trainyard_model::snapshot::run::LightRun;
use trainyard_planner::{DropBasis, NodeName, RunId};

use super::allocate::{fresh_node, moved_on, write_claims};
use crate::controllers::cluster::Context;
use crate::controllers::cluster::observe::Scope;
use crate::kubernetes::error::{Error, ErrorKind};
use crate::kubernetes::read::{self, Selection};

/// See the module.
pub async fn drop_claim(
    context: &Context,
    scope: &Scope,
    node: &NodeName,
    run: &RunId,
    attempt: i64,
    basis: DropBasis,
) -> Result<(), Error> {
    let light = scope.nodes.get(&node.0).ok_or_else(|| moved_on(format!("ClusterNode {node}")))?;
    if !is_proven(context, scope, light, run, attempt, basis).await? {
        return Err(moved_on(format!("Run {run}")));
    }
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &light.namespace);
    match without(context, &api, light, run, attempt).await {
        Err(error) if error.kind() == ErrorKind::Conflict => {
            // Some other field changed. The proof stands: what is dropped is named by UID and attempt.
            let fresh = fresh_node(&api, light).await?;
            without(context, &api, &fresh, run, attempt).await
        }
        result => result,
    }
}

async fn without(
    context: &Context,
    api: &Api<ClusterNode>,
    light: &LightNode,
    run: &RunId,
    attempt: i64,
) -> Result<(), Error> {
    let kept: Vec<_> = light
        .claims
        .iter()
        .filter(|claim| claim.run_uid != run.uid || i64::from(claim.attempt) != attempt)
        .cloned()
        .collect();
    if kept.len() == light.claims.len() {
        return Ok(());
    }
    let idle_since = kept.is_empty().then(|| context.clock.now());
    write_claims(context, api, light, &kept, idle_since).await
}

async fn is_proven(
    context: &Context,
    scope: &Scope,
    node: &LightNode,
    run: &RunId,
    attempt: i64,
    basis: DropBasis,
) -> Result<bool, Error> {
    if basis == DropBasis::PodsGone
        && scope.runs.get(&run.uid).is_some_and(|light| has_pods_gone(light, attempt))
    {
        return Ok(true);
    }
    let api: Api<Run> = Api::namespaced(context.client.clone(), &run.namespace);
    let live =
        read::get(&api, &run.name).await?.filter(|live| live.uid().as_deref() == Some(run.uid.as_str()));
    match live {
        Some(live) => Ok(LightRun::of(&live).is_some_and(|live| may_go(&live, &node.name, attempt))),
        None => has_no_live_pod(context, run, node).await,
    }
}

/// Whether a claim of `attempt` on that node has no meaning for the run as it is now.
fn may_go(live: &LightRun, node: &str, attempt: i64) -> bool {
    match &live.allocation {
        // Allocated later, or never: the claim is from an allocation that was not written. It may be under way, but
        // then its writer holds an older version of the node and of the run, and fails on both.
        None => true,
        Some(allocation) if attempt > allocation.attempt => true,
        Some(allocation) if attempt == allocation.attempt => {
            has_pods_gone(live, attempt) || !allocation.nodes.iter().any(|allocated| allocated == node)
        }
        // An earlier attempt: a later one is only allocated when the earlier one's pods were gone.
        Some(_) => true,
    }
}

fn has_pods_gone(run: &LightRun, attempt: i64) -> bool {
    run.allocation.as_ref().is_some_and(|allocation| {
        allocation.attempt > attempt || (allocation.attempt == attempt && allocation.progress().is_none())
    })
}

/// Whether no pod of a vanished run can be running on that node.
async fn has_no_live_pod(context: &Context, run: &RunId, node: &LightNode) -> Result<bool, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &run.namespace);
    let pods = read::list(&api, &Selection::all().labels(format!("{}={}", labels::RUN_UID, run.uid))).await?;
    Ok(!pods.iter().any(|pod| is_live_on(pod, node)))
}

/// A pod that may still start or run. One on a lost node counts as gone; its machine is destroyed, not reused.
pub fn is_live_on(pod: &Pod, node: &LightNode) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return false;
    }
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node_is_lost = node.machine == trainyard_planner::Machine::Failed
        || node.machine == trainyard_planner::Machine::Gone;
    !(node_is_lost && bound.is_some() && bound == node.node.as_ref().map(|(name, _)| name.as_str()))
}
