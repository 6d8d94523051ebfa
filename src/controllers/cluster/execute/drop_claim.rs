//! Takes one claim off one node, once nothing of its attempt can be on the machine any more.
//!
//! What the plan relied on is proven again here, where the cache alone is no proof: `podsGone` in a Run is (it never
//! becomes false again); that a Run is gone, or is allocated otherwise, is only believed from live reads. A proof is only
//! taken from what can never become untrue, because the process may be paused between the proof and the write. That a Run
//! has no allocation *yet* is no such thing: see [`withdraw`], and [`take_back`] where that cannot be written.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use trainyard_api::{
    cluster_node::{Claim, ClusterNode},
    names::{FieldManager, labels},
    run::Run,
    run_status::{Directive, DirectiveKind, DirectiveReason, RunPhase},
};
use trainyard_model::node::pods::Life;
use trainyard_model::snapshot::node::LightNode;
use trainyard_model::snapshot::run::LightRun;
use trainyard_planner::{DropBasis, NodeName, RunId};

use super::allocate::write_claims;
use super::fresh::{fresh_node, moved_on, remember_run, run_seen};
use super::take_back;
use crate::controllers::cluster::observe::Scope;
use crate::controllers::cluster::{Context, Undone};
use crate::kubernetes::apply;
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
) -> Result<(), Undone> {
    let light = scope.node(node)?;
    if attempt == i64::from(Claim::OF_NO_ATTEMPT) {
        return take_back::finish(context, scope, &light, run).await;
    }
    let mut tries = 0;
    loop {
        match prove(context, scope, &light, run, attempt, basis).await? {
            Proof::Meaningless => break,
            Proof::Needed => return Err(moved_on(format!("Run {run}")).into()),
            Proof::Occupied => {
                return Err(Undone::NotYet("a pod of the vanished run is still on the machine"));
            }
            // The allocation of this very plan decides about that attempt; the claim goes when it is written.
            Proof::NotAllocated(_) if scope.is_being_allocated(run) => return Ok(()),
            Proof::NotAllocated(live) => match withdraw(context, &live, attempt).await {
                Ok(()) => break,
                // Perhaps for another node of the same attempt, by this very plan.
                Err(error) if error.kind() == ErrorKind::Conflict && tries < 2 => tries += 1,
                Err(error) if take_back::is_shut(context, run, &error) => {
                    return take_back::take_back(context, scope, &light, run, attempt).await;
                }
                Err(error) => return Err(error.into()),
            },
        }
    }
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &light.namespace);
    match without(context, &api, &light, run, attempt).await {
        Ok(Some(written)) => {
            scope.note(written);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            // Somebody else wrote. The proof stands, since nothing that it rests on can become untrue, and what is
            // dropped is named by UID and attempt; but the rest of the plan must not build on what else is new there.
            let fresh = fresh_node(&api, &light).await?;
            let as_planned = fresh.claims == light.claims && fresh.retired == light.retired;
            if let Some(written) = without(context, &api, &fresh, run, attempt).await?.filter(|_| as_planned)
            {
                scope.note(written);
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn without(
    context: &Context,
    api: &Api<ClusterNode>,
    light: &LightNode,
    run: &RunId,
    attempt: i64,
) -> Result<Option<LightNode>, Error> {
    let kept: Vec<_> = light
        .claims
        .iter()
        .filter(|claim| claim.run_uid != run.uid || i64::from(claim.attempt) != attempt)
        .cloned()
        .collect();
    if kept.len() == light.claims.len() {
        return Ok(None);
    }
    let idle_since = kept.is_empty().then(|| context.clock.now());
    write_claims(context, api, light, &kept, idle_since).await
}

/// What a look at the Run says about one claim.
enum Proof {
    /// It has no meaning, and never will have one again.
    Meaningless,
    /// It belongs to an attempt that lives.
    Needed,
    /// Its run is gone, and a pod of it may still be on the machine.
    Occupied,
    /// It is of an attempt that was not allocated, and may still be: whoever claimed the node may be about to write the
    /// allocation, on the version of the Run that was just read.
    NotAllocated(Box<LightRun>),
}

async fn prove(
    context: &Context,
    scope: &Scope,
    node: &LightNode,
    run: &RunId,
    attempt: i64,
    basis: DropBasis,
) -> Result<Proof, Error> {
    if basis == DropBasis::PodsGone
        && scope.runs.get(&run.uid).is_some_and(|light| has_pods_gone(light, attempt))
    {
        return Ok(Proof::Meaningless);
    }
    let api: Api<Run> = Api::namespaced(context.client.clone(), &run.namespace);
    let live =
        read::get(&api, &run.name).await?.filter(|live| live.uid().as_deref() == Some(run.uid.as_str()));
    let Some(live) = live else {
        let free = has_no_live_pod(context, run, node).await?;
        return Ok(if free { Proof::Meaningless } else { Proof::Occupied });
    };
    let Some(light) = LightRun::of(&live) else { return Ok(Proof::Needed) };
    Ok(match &light.allocation {
        // An earlier attempt: a later one is only allocated when the earlier one's pods were gone.
        Some(allocation) if attempt < allocation.attempt => Proof::Meaningless,
        Some(allocation) if attempt == allocation.attempt => {
            let is_elsewhere = !allocation.nodes.contains(&node.name);
            if is_elsewhere || has_pods_gone(&light, attempt) { Proof::Meaningless } else { Proof::Needed }
        }
        Some(_) | None if will_never_start(&live) => Proof::Meaningless,
        Some(_) | None => Proof::NotAllocated(Box::new(light)),
    })
}

/// Whether no further attempt can be allocated, whatever happens: each of these is a one-way door.
fn will_never_start(run: &Run) -> bool {
    let status = run.status.as_ref();
    run.metadata.deletion_timestamp.is_some()
        || status.is_some_and(|status| {
            status.cancel_requested_time.is_some() || status.phase.is_some_and(RunPhase::is_terminal)
        })
}

/// Uses up the number of an attempt whose nodes were claimed and which was not allocated.
///
/// Reading that there is no allocation and then dropping the claim would not do: between the two, a process that was
/// paused after its claims could write the allocation, and the attempt would be launched on a node that is then given
/// away. Both this write and that one carry the version of the Run, so only one of them can be made. If it is this one,
/// the run controller answers an attempt that is over before it started, at no cost to any budget.
async fn withdraw(context: &Context, light: &LightRun, attempt: i64) -> Result<(), Error> {
    let directive = Directive {
        kind: DirectiveKind::Stop,
        reason: DirectiveReason::Withdrawn,
        message: "its nodes could not all be claimed, so it goes back to its place".to_owned(),
    };
    let api: Api<Run> = Api::namespaced(context.client.clone(), &light.id.namespace);
    let fields = json!({"status": {"allocation": {"attempt": attempt, "nodes": [], "directive": directive}}});
    let written =
        apply::merge_status(&api, &run_seen(light), FieldManager::RunAllocation.as_str(), &fields).await?;
    remember_run(context, &written);
    Ok(())
}

/// Whether that attempt is over and none of its pods is left.
pub fn has_pods_gone(run: &LightRun, attempt: i64) -> bool {
    run.allocation.as_ref().is_some_and(|allocation| {
        allocation.attempt > attempt || (allocation.attempt == attempt && allocation.progress().is_none())
    })
}

/// Whether no pod of a vanished run can be running on that node.
pub async fn has_no_live_pod(context: &Context, run: &RunId, node: &LightNode) -> Result<bool, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &run.namespace);
    let pods = read::list(&api, &Selection::all().labels(format!("{}={}", labels::RUN_UID, run.uid))).await?;
    Ok(!pods.iter().any(|pod| is_live_on(pod, node) && may_come_to(pod, node, run)))
}

/// Whether a pod of a vanished run that may run is on that node, or may yet be: one that is bound nowhere only if the Run owned it,
/// and then the garbage collector deletes it. A label alone holds no machine, or anybody's pod that waits for ever would.
fn may_come_to(pod: &Pod, node: &LightNode, run: &RunId) -> bool {
    if let Some(bound) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
        return node.node.as_ref().is_some_and(|(name, _)| name == bound);
    }
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.uid == run.uid)
}

/// Whether a pod may still start or run, as far as this machine goes: one that is on it counts as gone when it is lost.
pub fn is_live_on(pod: &Pod, node: &LightNode) -> bool {
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let is_there = bound.is_some() && bound == node.node.as_ref().map(|(name, _)| name.as_str());
    Life::of(pod).may_run() && !(node.lost && is_there)
}
