//! Looks at the pods on a Node that are no run's: what they take is not there for runs.
//!
//! One live list of a Node's pods when runs could first use it, and one more each time that a run has left it: a pod of the run
//! may have found no place because of somebody who came later, and is tried again with what is really there. A watch of all pods
//! of all Nodes would cost more than everything else here.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _};
use trainyard_api::{ClusterNode, cluster_node::Claim};
use trainyard_model::node::{
    assess::is_bad,
    seen::{Machine, NodeFacts, Progress},
    strangers::Strangers,
};

use super::Error;
use super::memory::LookedAt;
use crate::kubernetes::read::{self, Selection};

/// How often somebody's pod is looked at that has what runs need, or that only looks like a run's. Few Nodes have one, and
/// each of them is of little use while it does.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// What others take of the machine's Node; `None` while no run could use it whatever they take.
pub(super) async fn of_node(
    client: &Client,
    node: &ClusterNode,
    machine: &Machine,
    known: Option<&LookedAt>,
    now: Timestamp,
) -> Result<Option<LookedAt>, Error> {
    let Some(vm) = machine.node.as_ref().filter(|vm| is_used(node, machine, vm)) else { return Ok(None) };
    let claims = &node.spec.claims;
    let holders = claims.iter().map(|claim| (claim.run_uid.clone(), claim.attempt)).collect();
    let known = known.filter(|known| known.node_uid == vm.uid);
    if let Some(known) = known
        && known.holders.is_subset(&holders)
        && known.again_at.is_none_or(|again| now < again)
    {
        return Ok(Some(LookedAt { holders, ..known.clone() }));
    }
    // Its kubelet makes its own pods known when it is up.
    if known.is_none() && !vm.ready {
        return Ok(None);
    }
    let there = Selection::all().fields(format!("spec.nodeName={}", vm.name));
    let pods = read::list(&Api::<Pod>::all(client.clone()), &there).await?;
    let mut strangers = Strangers::among(&pods, claims);
    if strangers.in_disguise {
        // Of a run that was given the node after this cache was filled, perhaps: its claim was there before its pods.
        let claims: Vec<Claim> = claims.iter().cloned().chain(claims_now(client, node).await?).collect();
        strangers = Strangers::among(&pods, &claims);
    }
    let crowded = strangers.crowd(&vm.allocatable);
    let in_the_way = strangers.with_devices.as_ref().or(crowded.as_ref().map(|crowded| &crowded.by));
    if let Some(pod) = in_the_way {
        // People of the Cluster's namespace are not told names of other namespaces.
        tracing::info!(node = vm.name, %pod, "a pod that is of no run with a claim on this node takes what runs need");
    }
    let again_at = (in_the_way.is_some() || strangers.in_disguise).then(|| now + LOOK_AGAIN);
    Ok(Some(LookedAt { node_uid: vm.uid.clone(), strangers, holders, again_at }))
}

async fn claims_now(client: &Client, node: &ClusterNode) -> Result<Vec<Claim>, Error> {
    let api = Api::<ClusterNode>::namespaced(client.clone(), &node.namespace().unwrap_or_default());
    let live = read::get(&api, &node.name_any()).await?.filter(|live| live.uid() == node.uid());
    Ok(live.map(|live| live.spec.claims).unwrap_or_default())
}

fn is_used(node: &ClusterNode, machine: &Machine, vm: &NodeFacts) -> bool {
    let status = node.status.as_ref();
    let of_node = status.and_then(|status| status.node_uid.as_ref());
    let is_its = of_node.map_or(machine.progress == Progress::Registered, |uid| *uid == vm.uid);
    let is_over = status.is_some_and(|status| status.gone_time.is_some() || status.state.is_some_and(is_bad));
    is_its && !is_over && node.spec.released.is_none()
}
