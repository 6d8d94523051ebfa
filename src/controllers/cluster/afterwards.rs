//! Carries out the second half of a plan, once its report is stored: new nodes, whose ordinals are then reserved, and
//! farewells, whose failures are then remembered.

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, api::ObjectMeta};
use trainyard_api::{
    cluster::Cluster,
    cluster_node::{ClusterIdentity, ClusterNode, ClusterNodeSpec},
    names::{FieldManager, Finalizer, labels},
};
use trainyard_model::catalogue::Resolved;
use trainyard_model::snapshot::node::LightNode;
use trainyard_model::snapshot::removals;
use trainyard_planner::{Action, NodeName, Plan, Zone};

use super::execute::name;
use super::observe::Scope;
use super::{CONCURRENT_WRITES, Context, Outcome, Undone};
use crate::kubernetes::apply::{self, Creation, DeleteIf, Seen};
use crate::kubernetes::error::{Error, Verb};
use crate::kubernetes::read::{self, Selection};

/// Carries out `plan.afterwards`.
pub async fn afterwards(context: &Context, scope: &Scope, plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let actions: Vec<_> = plan.afterwards.iter().map(|action| named(context, scope, action)).collect();
    let results: Vec<_> = stream::iter(actions).buffer_unordered(CONCURRENT_WRITES).collect().await;
    for (action, result) in results {
        outcome.add(action, &scope.snapshot.cluster, result.map_err(Undone::Failed));
    }
    outcome
}

async fn named(context: &Context, scope: &Scope, action: &Action) -> (&'static str, Result<(), Error>) {
    (name(action), carry_out(context, scope, action).await)
}

/// Carries out one action of the second half.
pub async fn carry_out(context: &Context, scope: &Scope, action: &Action) -> Result<(), Error> {
    match action {
        Action::RequestNode { ordinal, zone } => request_node(context, scope, *ordinal, zone.as_ref()).await,
        Action::Forget { node } => forget(context, scope, node).await,
        Action::ReleaseFinalizer => release_finalizer(context, scope).await,
        other => {
            tracing::error!(
                ?other,
                "an action of the first half of a plan stands in its second half; it is left out"
            );
            Ok(())
        }
    }
}

async fn request_node(
    context: &Context,
    scope: &Scope,
    ordinal: i64,
    zone: Option<&Zone>,
) -> Result<(), Error> {
    let (Some(cluster), Ok(resolved)) = (&scope.cluster, &scope.catalogue) else {
        tracing::error!(cluster = %scope.key, "a node is asked for, but the Cluster's size or class is not known");
        return Ok(());
    };
    let Some(node) = cluster_node(cluster, resolved, ordinal, zone) else {
        return Err(Error::NotFromServer {
            verb: Verb::Create,
            target: scope.key.to_string(),
            missing: "uid",
        });
    };
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &scope.key.namespace);
    match apply::create(&api, &node, FieldManager::ClusterNodeIntent.as_str()).await? {
        // Of this name there is only ever one, so one that exists is this one from a reply that was lost.
        Creation::Created(written) | Creation::AlreadyExists(written) => {
            if let Some(light) = LightNode::of(&written) {
                context.memory.node_created(light, context.clock.now());
            }
        }
    }
    Ok(())
}

/// The number of a Cluster's first node.
pub const FIRST_ORDINAL: i64 = 1;

/// The spec of a new node. None for a Cluster without the metadata that every stored object has.
pub fn node_spec(
    cluster: &Cluster,
    resolved: &Resolved,
    ordinal: i64,
    zone: Option<&Zone>,
) -> Option<ClusterNodeSpec> {
    let (name, uid) = (cluster.metadata.name.clone()?, cluster.metadata.uid.clone()?);
    let mut engine = resolved.engine.clone();
    if let (Some(karpenter), Some(zone)) = (&mut engine.karpenter, zone) {
        karpenter.zones = vec![zone.0.clone()];
    }
    Some(ClusterNodeSpec {
        cluster: ClusterIdentity { name, uid },
        ordinal,
        vm_size: resolved.size.clone(),
        engine,
        taint: resolved.taint.clone(),
        tolerations: resolved.tolerations.clone(),
        claims: Vec::new(),
        idle_since: None,
        retired: None,
        released: None,
    })
}

fn cluster_node(
    cluster: &Cluster,
    resolved: &Resolved,
    ordinal: i64,
    zone: Option<&Zone>,
) -> Option<ClusterNode> {
    let spec = node_spec(cluster, resolved, ordinal, zone)?;
    let ClusterIdentity { name, uid } = spec.cluster.clone();
    let labels =
        [(labels::CLUSTER.to_owned(), name.clone()), (labels::CLUSTER_UID.to_owned(), uid.clone())].into();
    Some(ClusterNode {
        metadata: ObjectMeta {
            name: Some(removals::cluster_node_name(&name, &uid, ordinal)),
            namespace: cluster.metadata.namespace.clone(),
            labels: Some(labels),
            finalizers: Some(vec![Finalizer::ClusterNode.as_str().to_owned()]),
            // For people and tools that draw trees. Nothing is found by it, and it never deletes a machine: the
            // finalizer holds the object until the machine is gone.
            owner_references: Some(vec![OwnerReference {
                api_version: trainyard_api::names::API_VERSION.to_owned(),
                kind: "Cluster".to_owned(),
                name: name.clone(),
                uid: uid.clone(),
                controller: Some(true),
                block_owner_deletion: Some(false),
            }]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    })
}

/// The machine is gone: the object goes, too. Deleted first and freed second, so that a crash in between leaves an
/// object that is being deleted, which the next plan frees.
async fn forget(context: &Context, scope: &Scope, node: &NodeName) -> Result<(), Error> {
    let Some(light) = scope.nodes.get(&node.0) else { return Ok(()) };
    let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &light.namespace);
    let Some(fresh) = read::get(&api, &light.name).await? else {
        context.memory.node_gone(&light.namespace, &light.name);
        return Ok(());
    };
    let gone = fresh.status.as_ref().is_some_and(|status| status.gone_time.is_some());
    if fresh.metadata.uid.as_deref() != Some(light.uid.as_str()) || !fresh.spec.claims.is_empty() || !gone {
        return Err(Error::Changed { verb: Verb::Delete, target: format!("ClusterNode {node}") });
    }
    if fresh.metadata.deletion_timestamp.is_none() {
        apply::delete(&api, &Seen::of(&fresh)?, DeleteIf::Unchanged, None).await?;
    }
    apply::remove_finalizer(&api, &fresh, Finalizer::ClusterNode.as_str()).await?;
    context.memory.node_gone(&light.namespace, &light.name);
    Ok(())
}

async fn release_finalizer(context: &Context, scope: &Scope) -> Result<(), Error> {
    let Some(cluster) = &scope.cluster else { return Ok(()) };
    // That no node is left is only believed from a live list: the cache may lag behind what another process made.
    let nodes: Api<ClusterNode> = Api::namespaced(context.client.clone(), &scope.key.namespace);
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let of_cluster = Selection::all().labels(format!("{}={uid}", labels::CLUSTER_UID));
    if !read::list(&nodes, &of_cluster).await?.is_empty() {
        return Err(Error::Changed { verb: Verb::Patch, target: format!("Cluster {}", scope.key) });
    }
    let api: Api<Cluster> = Api::namespaced(context.client.clone(), &scope.key.namespace);
    apply::remove_finalizer(&api, &**cluster, Finalizer::Cluster.as_str()).await?;
    Ok(())
}
