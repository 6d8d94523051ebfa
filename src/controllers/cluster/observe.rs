//! From the caches to what the planner reads.
//!
//! Reads only. One name may stand for several Clusters: the one that exists, and earlier ones that were removed by force and
//! left ClusterNodes behind. Each is a [`Scope`] of its own; which node and run is whose is the model's to say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use trainyard_api::cluster::{Cluster, ClusterErrorCode};
use trainyard_api::cluster_node::ClusterNode;
use trainyard_api::names::Finalizer;
use trainyard_model::catalogue::{self, Refusal, Resolved};
use trainyard_model::node::found::Counted;
use trainyard_model::snapshot::{
    World, assemble,
    node::LightNode,
    parts::{Part, is_live, parts},
    run::LightRun,
    stock,
};
use trainyard_planner::{NodeName, RunId, Snapshot};

use super::afterwards::{FIRST_ORDINAL, node_spec};
use super::caches::entry;
use super::execute::rehearse_allocation;
use super::memory::Newest;
use super::refused::{Trial, Written};
use super::{CONCURRENT_WRITES, Context, earliest, tenancy};
use crate::kubernetes::apply;
use crate::kubernetes::error::{Error, Verb};
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::read;
use crate::provisioner::{Pool, Supply, Validity};

/// One Cluster with everything that was observed of it.
pub struct Scope {
    /// Namespace and name of the Cluster.
    pub key: ObjectKey,
    /// The Cluster; `None` when a live read does not find the one its nodes belong to.
    pub cluster: Option<Arc<Cluster>>,
    /// Its nodes by name, as the snapshot shows them.
    pub nodes: BTreeMap<String, Arc<LightNode>>,
    /// Its runs by UID, as the snapshot shows them.
    pub runs: HashMap<String, Arc<LightRun>>,
    /// Its size and class.
    pub catalogue: Result<Resolved, Refusal>,
    /// What its engine still has for it, where it can count that.
    pub counted: Option<Counted>,
    /// The planner's view of all that.
    pub snapshot: Snapshot,
    /// When to look again whether the engine's refusal is mended, or a run's status can be written: nothing tells.
    pub recheck_at: Option<Timestamp>,
    written: Mutex<BTreeMap<String, LightNode>>,
    allocating: OnceLock<HashSet<String>>,
}

impl Scope {
    /// The node as the plan leaves it so far: as it was planned with, and with what this plan has written since. A plan
    /// may take a claim off a node and give it to the next run, or retire it and release it.
    pub fn node(&self, name: &NodeName) -> Result<LightNode, Error> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).get(&name.0).cloned();
        written
            .or_else(|| self.nodes.get(&name.0).map(|node| LightNode::clone(node)))
            .ok_or_else(|| Error::Changed { verb: Verb::Patch, target: format!("ClusterNode {name}") })
    }

    /// Notes what this plan has written to a node that was as planned.
    pub fn note(&self, written: LightNode) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(written.name.clone(), written);
    }

    /// Takes in another count of what its engine has.
    pub fn recount(&mut self, counted: Counted) {
        let nodes: Vec<_> = self.nodes.values().map(AsRef::as_ref).collect();
        self.snapshot.policy.stock = Some(stock(&counted, &nodes));
        self.counted = Some(counted);
    }

    /// Tells which runs the plan allocates.
    pub fn set_allocating(&self, runs: HashSet<String>) {
        // Set once, before the plan is carried out.
        let _ = self.allocating.set(runs);
    }

    /// Whether the plan allocates this run.
    pub fn is_being_allocated(&self, run: &RunId) -> bool {
        self.allocating.get().is_some_and(|runs| runs.contains(&run.uid))
    }
}

/// Observes all Clusters of that name, present and past. Empty when there is nothing of any.
pub async fn observe(context: &Context, key: &ObjectKey) -> Result<Vec<Scope>, Error> {
    let now = context.clock.now();
    let entry = entry(&key.namespace, &key.name);
    let Newest { mut nodes, doubtful, doubtful_at } = context.memory.newest_nodes(
        context.caches.nodes.indexed(&entry),
        |node| node.namespace == key.namespace && node.cluster_name == key.name,
        now,
    );
    nodes.extend(look_at(context, doubtful).await?);
    let runs = context.memory.newest_runs(context.caches.runs.indexed(&entry), now);
    let has_live_runs = runs.iter().any(|run| is_live(run));
    let cluster = present_cluster(context, key, &nodes, has_live_runs).await?;
    let present_uid = cluster.as_ref().and_then(|cluster| cluster.metadata.uid.clone());

    let cluster = match cluster {
        Some(cluster) => Some(with_finalizer(context, cluster).await?),
        None => None,
    };
    let mut scopes = Vec::new();
    for Part { is_present, nodes, mut runs } in parts(present_uid.as_deref(), nodes, runs) {
        let cluster = cluster.clone().filter(|_| is_present);
        if let Some(cluster) = &cluster {
            runs.retain(|run| tenancy::lets_in(context, cluster, key, run));
        }
        scopes.push(scope(context, key, cluster, nodes, runs).await);
    }
    if scopes.is_empty() {
        context.memory.cluster_gone(key);
    }
    if let Some(scope) = scopes.first_mut() {
        scope.recheck_at = earliest([scope.recheck_at, doubtful_at]);
    }
    Ok(scopes)
}

/// Whether nodes that this process made and its cache does not show are there.
async fn look_at(context: &Context, doubtful: Vec<Arc<LightNode>>) -> Result<Vec<Arc<LightNode>>, Error> {
    let mut found = Vec::new();
    for node in doubtful {
        let api: Api<ClusterNode> = Api::namespaced(context.client.clone(), &node.namespace);
        let live = read::get(&api, &node.name).await?.and_then(|live| LightNode::of(&live));
        match live.filter(|live| live.uid == node.uid) {
            Some(live) => {
                context.memory.node_written(live.clone(), context.clock.now());
                found.push(Arc::new(live));
            }
            None => context.memory.node_gone(&node.namespace, &node.name),
        }
    }
    Ok(found)
}

/// The Cluster of that name. Nodes and live runs without a Cluster are only believed to be orphans after a live read.
async fn present_cluster(
    context: &Context,
    key: &ObjectKey,
    nodes: &[Arc<LightNode>],
    has_live_runs: bool,
) -> Result<Option<Arc<Cluster>>, Error> {
    if let Some(cached) = context.caches.clusters.get(key) {
        let cluster = context.memory.newest_cluster(cached, context.clock.now());
        let known =
            |node: &&Arc<LightNode>| cluster.metadata.uid.as_deref() == Some(node.cluster_uid.as_str());
        if nodes.iter().all(|node| known(&node)) {
            return Ok(Some(cluster));
        }
    } else if nodes.is_empty() && !has_live_runs {
        return Ok(None);
    }
    let api: Api<Cluster> = Api::namespaced(context.client.clone(), &key.namespace);
    Ok(read::get(&api, &key.name).await?.map(Arc::new))
}

/// Before a Cluster gets its first node it must be unable to vanish without us.
async fn with_finalizer(context: &Context, cluster: Arc<Cluster>) -> Result<Arc<Cluster>, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(cluster);
    }
    let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Cluster> = Api::namespaced(context.client.clone(), &namespace);
    match apply::add_finalizer(&api, &*cluster, Finalizer::Cluster.as_str()).await? {
        Some(written) => {
            context.memory.cluster_written(written.clone(), context.clock.now());
            Ok(Arc::new(written))
        }
        None => Ok(cluster),
    }
}

async fn scope(
    context: &Context,
    key: &ObjectKey,
    cluster: Option<Arc<Cluster>>,
    nodes: Vec<Arc<LightNode>>,
    runs: Vec<Arc<LightRun>>,
) -> Scope {
    let Offer { catalogue, counted, recheck_at } = match &cluster {
        Some(cluster) => offer(context, key, cluster).await,
        None => Offer { catalogue: Err(catalogue::cluster_gone()), counted: None, recheck_at: None },
    };
    let cluster_key = key.to_string();
    let nodes_elsewhere = catalogue
        .as_ref()
        .map_or(0, |resolved| tenancy::nodes_elsewhere(context, key, resolved, context.clock.now()));
    let mut snapshot = {
        let light_nodes: Vec<&LightNode> = nodes.iter().map(AsRef::as_ref).collect();
        let light_runs: Vec<&LightRun> = runs.iter().map(AsRef::as_ref).collect();
        assemble(&World {
            cluster: cluster.as_deref(),
            cluster_key: &cluster_key,
            nodes: &light_nodes,
            runs: &light_runs,
            catalogue: catalogue.as_ref(),
            nodes_elsewhere,
            counted: counted.as_ref(),
        })
    };
    let now = context.clock.now();
    rehearse(context, &snapshot, &runs).await;
    let mut heard_at = None;
    snapshot.queued.retain(|run| {
        let left_out = match context.refused.trial(&run.id, now) {
            Trial::LeftOut(until) => Some(until),
            Trial::Rehearse => now.checked_add(REHEARSE_AGAIN).ok(),
            Trial::None | Trial::Queued => None,
        };
        heard_at = earliest([heard_at, left_out]);
        left_out.is_none()
    });
    let nodes: BTreeMap<String, Arc<LightNode>> =
        nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
    for planned in &mut snapshot.nodes {
        planned.occupied = nodes.get(&planned.name.0).and_then(|node| context.memory.occupied(node));
    }
    Scope {
        key: key.clone(),
        cluster,
        nodes,
        runs: runs.into_iter().map(|run| (run.id.uid.clone(), run)).collect(),
        catalogue,
        counted,
        snapshot,
        recheck_at: earliest([recheck_at, heard_at]),
        written: Mutex::default(),
        allocating: OnceLock::new(),
    }
}

/// When a rehearsal is made again that came to nothing, because the Run changed or the API server did not answer.
const REHEARSE_AGAIN: SignedDuration = SignedDuration::from_secs(2);

/// Asks for runs whose allocation was refused, and which have been left out for long enough, whether it would be taken now.
async fn rehearse(context: &Context, snapshot: &Snapshot, runs: &[Arc<LightRun>]) {
    let now = context.clock.now();
    let due = snapshot.queued.iter().filter(|run| context.refused.trial(&run.id, now) == Trial::Rehearse);
    let rehearsals: Vec<_> = due
        .filter_map(|queued| {
            let run = runs.iter().find(|run| run.id.uid == queued.id.uid)?;
            Some(async move { (run, rehearse_allocation(context, run, queued.next_attempt).await) })
        })
        .collect();
    // Together: a policy that refuses many must keep nobody else waiting.
    let mut answers = stream::iter(rehearsals).buffer_unordered(CONCURRENT_WRITES);
    while let Some((run, answer)) = answers.next().await {
        match answer {
            Ok(()) => context.refused.note_rehearsal(&run.id),
            Err(error) => {
                context.refused.note(&run.id, Written::Allocation, Err(&error), context.clock.now());
            }
        }
    }
}

/// How often a refusal of the engine is looked at again. A person who mends a class watches; a read costs little.
const RECHECK_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// What a Cluster can have: its size and class, whether the engine could make machines with them, and how many there are
/// where they are only found.
struct Offer {
    catalogue: Result<Resolved, Refusal>,
    counted: Option<Counted>,
    recheck_at: Option<Timestamp>,
}

async fn offer(context: &Context, key: &ObjectKey, cluster: &Cluster) -> Offer {
    let resolved = {
        let (sizes, classes) = (context.caches.sizes.all(), context.caches.classes.all());
        let sizes: Vec<_> = sizes.iter().map(AsRef::as_ref).collect();
        let classes: Vec<_> = classes.iter().map(AsRef::as_ref).collect();
        let labels = context.caches.namespaces.get(&ObjectKey::cluster_scoped(&key.namespace));
        catalogue::resolve(cluster, &sizes, &classes, labels.as_deref())
    };
    let nothing_else = |catalogue| Offer { catalogue, counted: None, recheck_at: None };
    let resolved = match resolved {
        Ok(resolved) => resolved,
        Err(refusal) => return nothing_else(Err(refusal)),
    };
    let Some(engine) = context.engines.of(&resolved.engine) else { return nothing_else(Ok(resolved)) };
    let recheck_at = context.clock.now().checked_add(RECHECK_EVERY).ok();
    let pool = pool(key, cluster);
    match engine.validate(&pool, &resolved.engine).await {
        Ok(Validity::Usable) => {}
        Ok(Validity::Refused(refused)) => {
            let refusal =
                Refusal { code: ClusterErrorCode::ProvisioningClassInvalid, message: refused.message };
            return Offer { catalogue: Err(refusal), counted: None, recheck_at };
        }
        // Whether it could is not known. Asking for a node is harmless then: the node controller meets the same fault.
        Err(error) => {
            tracing::warn!(cluster = %key, %error, "the engine was not asked whether its class is usable");
        }
    }
    let Some(spec) = node_spec(cluster, &resolved, FIRST_ORDINAL, None) else {
        return nothing_else(Ok(resolved));
    };
    match engine.count(&pool, &spec).await {
        Ok(None) => nothing_else(Ok(resolved)),
        Ok(Some(Supply { counted, again_at })) => {
            Offer { catalogue: Ok(resolved), counted: Some(counted), recheck_at: again_at }
        }
        // To ask for machines that may not be there would only make ClusterNodes that fail.
        Err(error) => {
            tracing::warn!(cluster = %key, %error, "the engine's machines were not counted");
            let counted = Counted { message: error.to_string(), ..Counted::default() };
            Offer { catalogue: Ok(resolved), counted: Some(counted), recheck_at }
        }
    }
}

/// The machines of this Cluster, to its engine.
pub fn pool(key: &ObjectKey, cluster: &Cluster) -> Pool {
    Pool {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: cluster.metadata.uid.clone().unwrap_or_default(),
    }
}
