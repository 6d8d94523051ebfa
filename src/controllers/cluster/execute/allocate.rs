//! Gives nodes to a run: a claim on each node, then the run's allocation.
//!
//! The claims are the lock. Each is added with the version of the ClusterNode that the plan saw; after a conflict the
//! node is read again, and the claim is only tried again if its spec is unchanged and it is still ready. If any claim
//! cannot be had, those already written stay, and the next plan drops them: undoing here would be a decision.

use futures::future::join_all;
use kube::Api;
use serde_json::json;
use trainyard_api::{
    cluster_node::{Claim, ClusterNode},
    names::FieldManager,
    run::Run,
    run_status::{AllocatedNode, Allocation},
};
use trainyard_model::snapshot::{
    node::{LightNode, planner_capacity, wire_capacity},
    run::{LightRun, Standing},
};
use trainyard_planner::{Capacity, NodeName, RunId};

use super::fresh::{fresh_node, fresh_run, moved_on, remember, remember_run, run_seen, seen};
use super::run_marks::write_queue;
use crate::controllers::cluster::Context;
use crate::controllers::cluster::observe::Scope;
use crate::controllers::cluster::refused::Written;
use crate::kubernetes::apply;
use crate::kubernetes::error::{Error, ErrorKind};

/// Tries of one write after conflicts with writers of other fields (kubectl, the node controller's status): each such
/// conflict is a write by somebody else, so a second one in a row is rare and a fourth means a hot loop elsewhere.
const TRIES: usize = 4;

/// See the module.
pub async fn allocate(
    context: &Context,
    scope: &Scope,
    run: &RunId,
    attempt: i64,
    nodes: &[NodeName],
    shares: &[Capacity],
) -> Result<(), Error> {
    let light = scope.runs.get(&run.uid).ok_or_else(|| moved_on(format!("Run {run}")))?;
    if context.refused.is_on_trial(run) {
        // Claims of a run whose allocation is refused could not be dropped before somebody has mended that.
        let entry = light.queue.clone().unwrap_or_default();
        write_queue(context, light, Some(&entry)).await?;
    }
    let claims = nodes.iter().zip(shares).map(|(node, share)| {
        let claim = Claim {
            run_namespace: run.namespace.clone(),
            run_name: run.name.clone(),
            run_uid: run.uid.clone(),
            attempt: attempt as i32,
            share: wire_capacity(share),
        };
        claim_node(context, scope, node, claim)
    });
    // All are awaited, also when one of them fails: what they wrote is known then.
    let allocated = join_all(claims).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let allocation = Allocation { attempt: attempt as i32, nodes: allocated, directive: None };
    let written = write_allocation(context, light, &allocation).await;
    context.refused.note(run, Written::Allocation, written.as_ref().copied(), context.clock.now());
    written
}

/// Asks whether an allocation of the run would be stored, of whatever nodes. A webhook that cannot rehearse says nothing against it.
pub async fn rehearse_allocation(context: &Context, run: &LightRun, attempt: i64) -> Result<(), Error> {
    let api: Api<Run> = Api::namespaced(context.client.clone(), &run.id.namespace);
    let fields = json!({"status": {"allocation": {"attempt": attempt, "nodes": [], "directive": null}}});
    let manager = FieldManager::RunAllocation.as_str();
    match apply::rehearse_merge_status(&api, &run_seen(run), manager, &fields).await {
        Err(error)
            if !error.server_message().is_some_and(|said| said.contains("does not support dry run")) =>
        {
            Err(error)
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn claim_node(
    context: &Context,
    scope: &Scope,
    node: &NodeName,
    claim: Claim,
) -> Result<AllocatedNode, Error> {
    let planned = scope.node(node)?;
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &planned.namespace);
    let mut light = planned.clone();
    for _ in 0..TRIES {
        let Some((node_name, node_uid)) = light.node.clone().filter(|_| light.takes_runs()) else {
            return Err(moved_on(format!("ClusterNode {node}")));
        };
        let allocated = AllocatedNode { name: light.name.clone(), node_name, node_uid };
        if light.claims.contains(&claim) {
            return Ok(allocated);
        }
        if !has_room(&light, &claim) {
            return Err(moved_on(format!("ClusterNode {node}")));
        }
        let mut claims = light.claims.clone();
        claims.push(claim.clone());
        match write_claims(context, &api, &light, &claims, None).await {
            Ok(written) => {
                if let Some(written) = written {
                    scope.note(written);
                }
                return Ok(allocated);
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let fresh = fresh_node(&api, &planned).await?;
                if fresh.claims != light.claims || fresh.retired != light.retired {
                    return Err(moved_on(format!("ClusterNode {node}")));
                }
                light = fresh;
            }
            Err(error) => return Err(error),
        }
    }
    Err(moved_on(format!("ClusterNode {node}")))
}

/// Whether the node can hold one more claim. The plan says so, and counts on claims that it drops first; one that could
/// not be dropped is still there, on the very version that the plan was made from.
fn has_room(light: &LightNode, claim: &Claim) -> bool {
    let Some(whole) = light.measured.clone() else { return false };
    let taken = light.claims.iter().map(|claim| planner_capacity(&claim.share));
    let free = taken.fold(whole, |left, share| left.minus(&share));
    free.holds(&planner_capacity(&claim.share))
}

/// Replaces the list of claims, and `idleSince` with it, on the version that `light` was read at. Returns the node as
/// written.
///
/// A merge patch, not an apply: the list and the idle clock change together and have one writer, the version guards
/// them, and a merge costs the API server a fraction of a structured apply. This is written twice per run and node.
pub async fn write_claims(
    context: &Context,
    api: &Api<ClusterNode>,
    light: &LightNode,
    claims: &[Claim],
    idle_since: Option<jiff::Timestamp>,
) -> Result<Option<LightNode>, Error> {
    let fields = json!({"spec": {
        "claims": claims,
        "idleSince": idle_since.map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time),
    }});
    let written = apply::merge(api, &seen(light), FieldManager::ClusterNodeIntent.as_str(), &fields).await?;
    Ok(remember(context, &written))
}

/// The commit. The queue entry goes in the same write: the run does not wait any more.
async fn write_allocation(
    context: &Context,
    planned: &LightRun,
    allocation: &Allocation,
) -> Result<(), Error> {
    let api: Api<Run> = Api::namespaced(context.client.clone(), &planned.id.namespace);
    let mut light = LightRun::clone(planned);
    for _ in 0..TRIES {
        let fields = json!({"status": {
            "allocation": {
                "attempt": allocation.attempt,
                "nodes": allocation.nodes,
                "directive": null,
            },
            "queue": null,
        }});
        let seen = run_seen(&light);
        match apply::merge_status(&api, &seen, FieldManager::RunAllocation.as_str(), &fields).await {
            Ok(written) => {
                remember_run(context, &written);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let fresh = fresh_run(&api, planned).await?;
                if fresh.standing() != Standing::Queued || fresh.allocation != planned.allocation {
                    return Err(moved_on(format!("Run {}", planned.id)));
                }
                light = fresh;
            }
            Err(error) => return Err(error),
        }
    }
    Err(moved_on(format!("Run {}", planned.id)))
}
