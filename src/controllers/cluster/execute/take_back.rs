//! Takes back a claim whose attempt was never allocated, where the Run's status cannot be written.
//!
//! As a rule the number of such an attempt is used up first ([`super::drop_claim`]), so that nobody can allocate it any more. Of a
//! Run whose status the API server does not let us write, that cannot be done, and its machines would be billed until somebody
//! mends what is in the way. So it is done on the other side, in two writes to the ClusterNode:
//!
//! 1. The claim loses its attempt ([`Claim::OF_NO_ATTEMPT`]). It keeps the machine from everybody else, and launches nothing: an
//!    attempt is launched only when a live look, made after its allocation was stored, shows its own claim on every node.
//! 2. The Run is read, live. If it has no allocation that names this node, none that is stored later can be launched there, and the
//!    claim goes. If it has one (of a process that was paused, or from a reply that was lost), the claim gets its attempt back.
//!
//! The second write carries the version that the first one left. So whatever is claimed, paused or written in between, a machine
//! is given to somebody else only when no attempt can be on it.

use kube::{Api, ResourceExt as _};
use trainyard_api::{
    cluster_node::{Claim, ClusterNode},
    run::Run,
};
use trainyard_model::snapshot::{node::LightNode, run::LightRun};
use trainyard_planner::RunId;

use super::allocate::write_claims;
use super::drop_claim::{has_no_live_pod, has_pods_gone};
use super::fresh::moved_on;
use crate::controllers::cluster::observe::Scope;
use crate::controllers::cluster::{Context, Undone};
use crate::kubernetes::error::{Error, ErrorKind};
use crate::kubernetes::read;

/// Whether the Run's status cannot be written, as far as this answer tells: it was refused, or it was the last of several
/// without an answer.
pub fn is_shut(context: &Context, run: &RunId, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Forbidden | ErrorKind::Invalid | ErrorKind::Bug => true,
        ErrorKind::Throttled | ErrorKind::Unavailable => {
            context.refused.is_left_out(run, context.clock.now())
        }
        ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::AlreadyExists => false,
    }
}

/// Both steps, on the version of `node` that is given.
pub async fn take_back(
    context: &Context,
    scope: &Scope,
    node: &LightNode,
    run: &RunId,
    attempt: i64,
) -> Result<(), Undone> {
    if node.claims.iter().any(|claim| is_of_no_attempt(claim, run)) {
        return Err(Undone::NotYet("another claim of the run on that node is being taken back"));
    }
    let mut claims = node.claims.clone();
    for claim in &mut claims {
        if claim.run_uid == run.uid && i64::from(claim.attempt) == attempt {
            claim.attempt = Claim::OF_NO_ATTEMPT;
        }
    }
    if claims == node.claims {
        return Ok(());
    }
    let marked = write(context, scope, node, &claims).await?;
    finish(context, scope, &marked, run).await
}

/// The second step, for a node that was read or written with the claim of no attempt on it.
pub async fn finish(context: &Context, scope: &Scope, marked: &LightNode, run: &RunId) -> Result<(), Undone> {
    let api: Api<Run> = Api::namespaced(context.client.clone(), &run.namespace);
    let live = read::get(&api, &run.name).await?.filter(|live| live.uid().as_ref() == Some(&run.uid));
    let holder = match &live {
        None if has_no_live_pod(context, run, marked).await? => None,
        None => return Err(Undone::NotYet("a pod of the vanished run is still on the machine")),
        Some(live) => {
            let live = LightRun::of(live).ok_or_else(|| moved_on(format!("Run {run}")))?;
            holder(&live, marked)
        }
    };
    let mut claims = marked.claims.clone();
    match holder {
        Some(attempt) => {
            for claim in claims.iter_mut().filter(|claim| is_of_no_attempt(claim, run)) {
                claim.attempt = attempt;
            }
        }
        None => claims.retain(|claim| !is_of_no_attempt(claim, run)),
    }
    if claims != marked.claims {
        write(context, scope, marked, &claims).await?;
    }
    Ok(())
}

/// The attempt that may be on that node and has no claim of its own there.
fn holder(run: &LightRun, node: &LightNode) -> Option<i32> {
    let allocation = run.allocation.as_ref()?;
    let is_on_it = allocation.nodes.contains(&node.name) && !has_pods_gone(run, allocation.attempt);
    let is_its =
        |claim: &Claim| claim.run_uid == run.id.uid && i64::from(claim.attempt) == allocation.attempt;
    (is_on_it && !node.claims.iter().any(is_its)).then_some(allocation.attempt as i32)
}

fn is_of_no_attempt(claim: &Claim, run: &RunId) -> bool {
    claim.run_uid == run.uid && claim.attempt == Claim::OF_NO_ATTEMPT
}

async fn write(
    context: &Context,
    scope: &Scope,
    node: &LightNode,
    claims: &[Claim],
) -> Result<LightNode, Error> {
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &node.namespace);
    let idle_since = claims.is_empty().then(|| context.clock.now());
    let written = write_claims(context, &api, node, claims, idle_since).await?;
    let written = written.ok_or_else(|| moved_on(format!("ClusterNode {}", node.name)))?;
    scope.note(written.clone());
    Ok(written)
}
