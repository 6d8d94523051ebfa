//! From objects, read from files or from an API server, to the plan of each Cluster, through the snapshot that the operator's
//! caches would give.
//!
//! Of files, what only an API server sets (UIDs, creation times) is filled in, the same for the same files, and what the
//! operator finds out about a Run before the planner may see it is judged as far as files tell. Of an API server everything is
//! believed as it is. Every assumption is said.

mod acceptance;
mod stand_ins;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trainyard_api::cluster_node::ClusterNode;
use trainyard_api::run::Run;
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, ProvisioningClass, VmSize};
use trainyard_model::catalogue::{self, Refusal, Resolved};
use trainyard_model::node::found::Counted;
use trainyard_model::snapshot::{
    World as Observed, assemble,
    node::LightNode,
    parts::{Part, parts},
    run::LightRun,
    run::Standing,
};
use trainyard_planner::{Plan, Snapshot, plan};

pub use acceptance::Aside;
use stand_ins::StandIns;

use crate::manifest::Manifest;

/// All that is answered.
pub struct World {
    /// The time decided at.
    pub now: Timestamp,
    /// Each Cluster.
    pub pools: Vec<Pool>,
    /// Runs that name no Cluster of the files.
    pub homeless: Vec<Aside>,
    /// The class that was made up, because none was given.
    pub assumed_class: Option<String>,
    /// What was taken for granted, in sentences.
    pub assumptions: Vec<String>,
}

/// One Cluster.
pub struct Pool {
    /// `<namespace>/<name>`.
    pub key: String,
    /// The Cluster; `None` for one whose nodes are there while the Cluster of that name is another one.
    pub cluster: Option<Cluster>,
    /// Its size and class.
    pub catalogue: Result<Resolved, Refusal>,
    /// What was decided on.
    pub snapshot: Snapshot,
    /// What was decided.
    pub plan: Plan,
    /// Its runs that neither wait nor hold anything.
    pub aside: Vec<Aside>,
}

/// Where objects come from, which decides what is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody wrote or exported them, and wants to know what would become of them.
    Files,
    /// They are those of a cluster with an operator: what it has not looked at yet is not guessed, and what only it can see
    /// is taken from what it wrote.
    Cluster {
        /// All ProvisioningClasses are among them; otherwise none is, because they may not be read.
        classes: bool,
        /// The same for VmSizes.
        sizes: bool,
    },
}

impl Origin {
    /// That of objects that somebody exported from a cluster with an operator. A kind of which there is none was not exported;
    /// whom classes are for is known only with the labels of namespaces.
    pub fn of_export(manifest: &Manifest) -> Self {
        let Manifest { clusters, classes, sizes, namespaces, .. } = manifest;
        let asks_for_labels = classes.iter().any(|class| class.spec.allowed_namespaces.is_some());
        let has_labels = |cluster: &Cluster| {
            cluster.metadata.namespace.as_ref().is_some_and(|name| namespaces.contains_key(name))
        };
        let are_judged = !asks_for_labels || clusters.iter().all(has_labels);
        Self::Cluster { classes: !classes.is_empty() && are_judged, sizes: !sizes.is_empty() }
    }
}

/// Decides for every Cluster, or for those of the one key.
pub fn complete(
    manifest: Manifest,
    now: Timestamp,
    origin: Origin,
    only: Option<&str>,
) -> anyhow::Result<World> {
    let Manifest { mut clusters, mut nodes, mut runs, mut classes, sizes, namespaces, others } = manifest;
    let mut stand_ins = StandIns::new(now);
    stand_ins.of_clusters(&mut clusters, &nodes);
    nodes.iter_mut().for_each(|node| stand_ins.of_object(&mut node.metadata));
    runs.iter_mut().for_each(|run| stand_ins.of_run(&mut run.metadata));
    classes.iter_mut().for_each(|class| stand_ins.of_object(&mut class.metadata));
    if origin == Origin::Files {
        stand_ins.of_classes(&mut classes, &clusters);
        every_node_has_a_cluster(&clusters, &nodes)?;
    }
    runs.retain(|run| {
        !run.status.as_ref().and_then(|status| status.phase).is_some_and(RunPhase::is_terminal)
    });
    let sizes = if let Origin::Cluster { sizes: true, .. } = origin { sizes } else { with_shipped(sizes) };
    if let Origin::Cluster { sizes: false, .. } = origin {
        // By which other names a size goes is not known, so whether a class is for it is the operator's word alone.
        classes.iter_mut().for_each(|class| class.spec.allowed_sizes = None);
    }
    let known = Known { origin, clusters: &clusters, nodes: &nodes, sizes, classes, namespaces };

    let (mut pools, mut homeless) = (Vec::new(), Vec::new());
    for (key, cluster) in known.keys(&runs) {
        let (mine, rest): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| wanted_cluster(run) == key);
        runs = rest;
        if only.is_none_or(|only| only == key) {
            known.decide(&key, cluster, mine, now, &mut stand_ins, (&mut pools, &mut homeless));
        }
    }
    homeless.extend(runs.iter().map(acceptance::homeless));
    let assumptions = stand_ins.sentences(&others);
    Ok(World { now, pools, homeless, assumed_class: stand_ins.class, assumptions })
}

/// What is known besides the runs.
struct Known<'a> {
    origin: Origin,
    clusters: &'a [Cluster],
    nodes: &'a [ClusterNode],
    sizes: Vec<VmSize>,
    classes: Vec<ProvisioningClass>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl<'a> Known<'a> {
    /// The Clusters, in order; of a cluster with an operator, then the names of those of which only nodes or runs are left.
    fn keys(&self, runs: &[Run]) -> Vec<(String, Option<&'a Cluster>)> {
        let mut keys: Vec<_> =
            self.clusters.iter().map(|cluster| (key_of_object(&cluster.metadata), Some(cluster))).collect();
        if self.origin != Origin::Files {
            let there: BTreeSet<String> = keys.iter().map(|(key, _)| key.clone()).collect();
            let named: BTreeSet<String> =
                self.nodes.iter().map(owning_cluster).chain(runs.iter().map(wanted_cluster)).collect();
            keys.extend(named.difference(&there).map(|key| (key.clone(), None)));
        }
        keys
    }

    /// Decides for the Clusters of one name, present and past.
    fn decide(
        &self,
        key: &str,
        cluster: Option<&Cluster>,
        mut runs: Vec<Run>,
        now: Timestamp,
        stand_ins: &mut StandIns,
        (pools, homeless): (&mut Vec<Pool>, &mut Vec<Aside>),
    ) {
        let nodes: Vec<&ClusterNode> = self.nodes.iter().filter(|node| owning_cluster(node) == key).collect();
        let mut aside = Vec::new();
        if let (Some(cluster), Origin::Files) = (cluster, self.origin) {
            let uid = cluster.metadata.uid.as_ref();
            let own: Vec<&ClusterNode> =
                nodes.iter().copied().filter(|node| Some(&node.spec.cluster.uid) == uid).collect();
            let sizes: Vec<&VmSize> = self.sizes.iter().collect();
            let judged = acceptance::judge(runs, cluster, &own, &sizes, &|name| self.labels_of(name), now);
            stand_ins.accepted += judged.assumed;
            (aside, runs) = (judged.aside, judged.runs);
        }
        let mut light = Vec::new();
        for run in &runs {
            let of =
                LightRun::of(run).expect("name, namespace, UID, version and creation time were filled in");
            match of.standing() {
                Standing::Aside => aside.push(acceptance::why_aside(run)),
                Standing::Queued if cluster.is_none() => homeless.push(acceptance::homeless(run)),
                Standing::Queued | Standing::Active(_) => {}
            }
            light.push(of);
        }
        let nodes = nodes.into_iter().map(|node| {
            LightNode::of(node).expect("name, namespace, UID, version and creation time were filled in")
        });
        let uid = cluster.and_then(|cluster| cluster.metadata.uid.as_deref());
        for part in parts(uid, nodes.collect(), light) {
            let cluster = cluster.filter(|_| part.is_present);
            let aside = if part.is_present { std::mem::take(&mut aside) } else { Vec::new() };
            pools.push(self.pool(key, cluster, &part, aside, now));
        }
        homeless.append(&mut aside);
    }

    fn pool(
        &self,
        key: &str,
        cluster: Option<&Cluster>,
        part: &Part<LightNode, LightRun>,
        aside: Vec<Aside>,
        now: Timestamp,
    ) -> Pool {
        let catalogue =
            cluster.map_or_else(|| Err(catalogue::cluster_gone()), |cluster| self.resolve(cluster));
        let counted = cluster.and_then(|cluster| self.counted(cluster, catalogue.as_ref().ok()?));
        let snapshot = assemble(&Observed {
            cluster,
            cluster_key: key,
            nodes: &part.nodes.iter().collect::<Vec<_>>(),
            runs: &part.runs.iter().collect::<Vec<_>>(),
            catalogue: catalogue.as_ref(),
            nodes_elsewhere: cluster.map_or(0, |cluster| self.nodes_elsewhere(cluster)),
            counted: counted.as_ref(),
        });
        let plan = plan(&snapshot, now);
        Pool { key: key.to_owned(), cluster: cluster.cloned(), catalogue, snapshot, plan, aside }
    }

    /// Size and class of a Cluster. The engine is asked by the operator alone; neither that nor what may not be read is known
    /// here, so its word is taken.
    fn resolve(&self, cluster: &Cluster) -> Result<Resolved, Refusal> {
        let labels = self.labels_of(cluster.metadata.namespace.as_deref().unwrap_or_default());
        let (classes_are_known, sizes_are_known, said) = match self.origin {
            Origin::Files => (true, true, None),
            Origin::Cluster { classes, sizes } => {
                (classes, sizes, catalogue::recorded(cluster, classes && sizes))
            }
        };
        let size = (!sizes_are_known).then(|| stand_ins::size_of(cluster, self.nodes, &self.sizes));
        let class = (!classes_are_known).then(|| stand_ins::class_of(cluster));
        let sizes: Vec<&VmSize> =
            size.as_ref().map_or_else(|| self.sizes.iter().collect(), |size| vec![size]);
        let classes: Vec<&ProvisioningClass> =
            class.as_ref().map_or_else(|| self.classes.iter().collect(), |class| vec![class]);
        let found = catalogue::resolve(cluster, &sizes, &classes, Some(&labels));
        found.and_then(|resolved| said.map_or(Ok(resolved), Err))
    }

    /// Of machines that are found. Only the operator counts Nodes: where it has written of none that is lacking, and for files,
    /// all that a class selects are taken for free.
    fn counted(&self, cluster: &Cluster, resolved: &Resolved) -> Option<Counted> {
        (self.origin != Origin::Files).then(|| catalogue::recorded_shortage(cluster, &resolved.engine))?
    }

    /// Nodes that other Clusters of the namespace have of the class.
    fn nodes_elsewhere(&self, cluster: &Cluster) -> i64 {
        let class = |cluster: &Cluster| self.resolve(cluster).ok().map(|resolved| resolved.class.name);
        let shares_the_grant = |other: &&Cluster| {
            other.metadata.namespace == cluster.metadata.namespace
                && other.metadata.name != cluster.metadata.name
                && class(other) == class(cluster)
        };
        self.clusters.iter().filter(shares_the_grant).map(|other| nodes_of(other, self.nodes)).sum()
    }

    /// What is known of a namespace, and the label that Kubernetes sets on each.
    fn labels_of(&self, namespace: &str) -> BTreeMap<String, String> {
        let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        labels
    }
}

/// How many nodes a Cluster has.
fn nodes_of(cluster: &Cluster, nodes: &[ClusterNode]) -> i64 {
    let is_gone = |node: &ClusterNode| node.status.as_ref().is_some_and(|status| status.gone_time.is_some());
    let is_its =
        |node: &&ClusterNode| Some(&node.spec.cluster.uid) == cluster.metadata.uid.as_ref() && !is_gone(node);
    nodes.iter().filter(is_its).count() as i64
}

/// A file that was forgotten must not read as a Cluster that was removed, or the answer would be to destroy its nodes.
fn every_node_has_a_cluster(clusters: &[Cluster], nodes: &[ClusterNode]) -> anyhow::Result<()> {
    let known: BTreeSet<String> = clusters.iter().map(|cluster| key_of_object(&cluster.metadata)).collect();
    for node in nodes {
        let key = owning_cluster(node);
        if !known.contains(&key) {
            anyhow::bail!(
                "ClusterNode {}: spec.cluster.name: no Cluster {key} is in the files; give it, too",
                key_of_object(&node.metadata)
            );
        }
    }
    Ok(())
}

/// The sizes that come with trainyard; a given one takes the place of the one of its name.
fn with_shipped(given: Vec<VmSize>) -> Vec<VmSize> {
    let named: BTreeSet<Option<String>> = given.iter().map(|size| size.metadata.name.clone()).collect();
    let shipped = trainyard_api::shipped_vm_sizes();
    shipped.into_iter().filter(|size| !named.contains(&size.metadata.name)).chain(given).collect()
}

/// The key of the Cluster that a node is of.
pub fn owning_cluster(node: &ClusterNode) -> String {
    key_of(node.metadata.namespace.as_ref(), Some(&node.spec.cluster.name))
}

/// The key of the Cluster that a run wants.
pub fn wanted_cluster(run: &Run) -> String {
    let own = run.metadata.namespace.as_deref().unwrap_or_default();
    let of = &run.spec.cluster_ref;
    format!("{}/{}", of.namespace_or(own), of.name)
}

/// `<namespace>/<name>`.
pub fn key_of_object(metadata: &ObjectMeta) -> String {
    key_of(metadata.namespace.as_ref(), metadata.name.as_ref())
}

/// `<namespace>/<name>`.
fn key_of(namespace: Option<&String>, name: Option<&String>) -> String {
    let text = |one: Option<&String>| one.cloned().unwrap_or_default();
    format!("{}/{}", text(namespace), text(name))
}
