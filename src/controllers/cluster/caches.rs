//! What the cluster controller watches, and which Clusters each change wakes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use trainyard_api::names::annotations;
use trainyard_api::{
    cluster::Cluster, cluster_node::ClusterNode, provisioning_class::ProvisioningClass, run::Run,
    run_status::RunPhase, vm_size::VmSize,
};
use trainyard_model::snapshot::{node::LightNode, run::LightRun};

use crate::kubernetes::cache::Cache;
use crate::kubernetes::key::ObjectKey;
use crate::kubernetes::read::Selection;
use crate::kubernetes::watch::Watch;
use crate::tasks::Tasks;
use crate::telemetry::{metrics::Metrics, readiness::Readiness};

/// The caches of the cluster controller.
#[derive(Clone)]
pub struct Caches {
    /// All Clusters.
    pub clusters: Cache<Cluster>,
    /// All ClusterNodes, indexed by [`entry`] of their Cluster.
    pub nodes: Cache<LightNode>,
    /// Runs that have not ended, indexed by [`entry`] of their Cluster.
    pub runs: Cache<LightRun>,
    /// All sizes.
    pub sizes: Cache<VmSize>,
    /// All classes.
    pub classes: Cache<ProvisioningClass>,
    /// Labels of all namespaces.
    pub namespaces: Cache<BTreeMap<String, String>>,
}

/// How often the first lists are looked for. Only at start, for the fraction of a second that they take.
const LISTED_POLL: std::time::Duration = std::time::Duration::from_millis(20);

impl Caches {
    /// Waits until every cache has its first list. A plan from half a world would be safe and wrong: it would ask for
    /// nodes that are there.
    pub async fn wait_until_listed(&self, token: &CancellationToken) {
        let Self { clusters, nodes, runs, sizes, classes, namespaces } = self;
        let listed = || {
            clusters.is_initialised()
                && nodes.is_initialised()
                && runs.is_initialised()
                && sizes.is_initialised()
                && classes.is_initialised()
                && namespaces.is_initialised()
        };
        while !listed() && !token.is_cancelled() {
            tokio::time::sleep(LISTED_POLL).await;
        }
    }
}

/// The index entry of the Clusters of one name.
pub fn entry(namespace: &str, cluster: &str) -> String {
    format!("{namespace}/{cluster}")
}

/// Starts the watches; `wake` is called with every Cluster that a change concerns.
pub fn watch(
    client: &Client,
    tasks: &mut Tasks,
    readiness: &Readiness,
    metrics: &Metrics,
    wake: impl Fn(ObjectKey) + Clone + Send + Sync + 'static,
) -> Caches {
    let (of_cluster, of_node, of_run) = (wake.clone(), wake.clone(), wake.clone());
    let clusters = Watch::<Cluster>::guarded("clusters", Api::all(client.clone()))
        .annotations(&[annotations::REMOVE_NOW, annotations::REHEARSE_PREEMPTION])
        .whole()
        .notify(move |change| of_cluster(change.key.clone()))
        .start(tasks, readiness, metrics);
    let all = clusters.clone();
    let nodes = Watch::<ClusterNode>::guarded("clusternodes", Api::all(client.clone()))
        .reduce(|node| LightNode::of(&node))
        .index(|node| Some(entry(&node.namespace, &node.cluster_name)))
        .notify(move |change| {
            for node in change.sides() {
                of_node(ObjectKey::namespaced(&node.namespace, &node.cluster_name));
            }
            // A grant that the Clusters of a namespace share has room again.
            if let (Some(gone), None) = (&change.before, &change.after) {
                let neighbours = all.filter(|one| one.metadata.namespace.as_ref() == Some(&gone.namespace));
                neighbours.iter().for_each(|one| of_node(ObjectKey::of(&**one)));
            }
        })
        .start(tasks, readiness, metrics);
    let runs = Watch::<Run>::guarded("runs", Api::all(client.clone()))
        .select(Selection::all().fields(not_ended()))
        .reduce(|run| LightRun::of(&run))
        .index(|run| Some(entry(&run.cluster_namespace, &run.cluster)))
        .notify(move |change| {
            for run in change.sides() {
                of_run(ObjectKey::namespaced(&run.cluster_namespace, &run.cluster));
            }
        })
        .start(tasks, readiness, metrics);
    // A change of the catalogue may mend any Cluster; there are few, and it changes seldom.
    let (all, of_size) = (clusters.clone(), wake.clone());
    let sizes = Watch::<VmSize>::guarded("vmsizes", Api::all(client.clone()))
        .whole()
        .notify(move |_| wake_all(&all, &of_size))
        .start(tasks, readiness, metrics);
    let (all, of_class) = (clusters.clone(), wake.clone());
    let classes = Watch::<ProvisioningClass>::guarded("provisioningclasses", Api::all(client.clone()))
        .annotations(&[annotations::IS_DEFAULT_CLASS])
        .whole()
        .notify(move |_| wake_all(&all, &of_class))
        .start(tasks, readiness, metrics);
    // Labels decide who may use a Cluster or a class; namespaces whose labels stay wake nobody.
    let (all, of_namespace) = (clusters.clone(), wake);
    let namespaces = Watch::<Namespace>::new("namespaces", Api::all(client.clone()))
        .reduce(|namespace| Some(namespace.metadata.labels.unwrap_or_default()))
        .notify(move |_| wake_all(&all, &of_namespace))
        .start(tasks, readiness, metrics);
    Caches { clusters, nodes, runs, sizes, classes, namespaces }
}

fn wake_all(clusters: &Cache<Cluster>, wake: &impl Fn(ObjectKey)) {
    for cluster in clusters.all() {
        wake(ObjectKey::of(&*cluster));
    }
}

fn not_ended() -> String {
    let ended: Vec<String> = RunPhase::ALL
        .iter()
        .filter(|phase| phase.is_terminal())
        .map(|phase| format!("status.phase!={phase}"))
        .collect();
    ended.join(",")
}
