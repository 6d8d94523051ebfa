//! From the objects of files to the plan of each Cluster, through the snapshot that the operator's caches would give.
//!
//! What only an API server sets (UIDs, creation times) is filled in, the same for the same files. What the operator
//! finds out about a Run before the planner may see it is judged here as far as files tell. Every assumption is said.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use trainyard_api::cluster_node::ClusterNode;
use trainyard_api::run::Run;
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, VmSize};
use trainyard_model::catalogue::{self, Refusal, Resolved};
use trainyard_model::snapshot::{World as Observed, assemble, node::LightNode, run::LightRun, run::Standing};
use trainyard_planner::{Plan, Snapshot, plan};

use super::acceptance::{self, Aside};
use super::stand_ins::StandIns;
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

/// Decides for every Cluster of the files.
pub fn complete(manifest: Manifest, now: Timestamp) -> anyhow::Result<World> {
    let Manifest { mut clusters, mut nodes, mut runs, mut classes, sizes, namespaces, others } = manifest;
    let mut stand_ins = StandIns::new(now);
    stand_ins.of_clusters(&mut clusters, &nodes);
    for node in &mut nodes {
        stand_ins.of_object(&mut node.metadata);
    }
    for run in &mut runs {
        stand_ins.of_run(&mut run.metadata);
    }
    for class in &mut classes {
        stand_ins.of_object(&mut class.metadata);
    }
    stand_ins.of_classes(&mut classes, &clusters);
    every_node_has_a_cluster(&clusters, &nodes)?;
    runs.retain(|run| {
        !run.status.as_ref().and_then(|status| status.phase).is_some_and(RunPhase::is_terminal)
    });

    let sizes = with_shipped(sizes);
    let sizes: Vec<_> = sizes.iter().collect();
    let classes: Vec<_> = classes.iter().collect();
    let mut pools = Vec::new();
    for cluster in &clusters {
        let key = key_of(cluster.metadata.namespace.as_ref(), cluster.metadata.name.as_ref());
        let (own, past): (Vec<_>, Vec<_>) = nodes
            .iter()
            .filter(|node| key_of(node.metadata.namespace.as_ref(), Some(&node.spec.cluster.name)) == key)
            .partition(|node| Some(&node.spec.cluster.uid) == cluster.metadata.uid.as_ref());
        let names_it = |run: &Run| {
            let own = run.metadata.namespace.clone().unwrap_or_default();
            let of = &run.spec.cluster_ref;
            key_of(Some(&of.namespace_or(&own).to_owned()), Some(&of.name)) == key
        };
        let (mine, rest): (Vec<_>, Vec<_>) = runs.into_iter().partition(names_it);
        runs = rest;
        let labels = |namespace: &str| labels_of(&namespaces, namespace);
        let judged = acceptance::judge(mine, cluster, &own, &sizes, &labels, now);
        stand_ins.accepted += judged.assumed;
        let (mut light, mut aside) = (Vec::new(), judged.aside);
        for run in judged.runs {
            let of =
                LightRun::of(&run).expect("name, namespace, UID, version and creation time were filled in");
            if of.standing() == Standing::Aside {
                aside.push(acceptance::why_aside(&run));
            }
            light.push(of);
        }
        let mut by_uid: BTreeMap<&str, Vec<&ClusterNode>> = BTreeMap::new();
        for node in past {
            by_uid.entry(&node.spec.cluster.uid).or_default().push(node);
        }
        for orphans in by_uid.into_values() {
            let names: BTreeSet<&str> =
                orphans.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
            let (theirs, rest): (Vec<_>, Vec<_>) = light.into_iter().partition(|run| is_live_on(run, &names));
            light = rest;
            let known = Known { nodes: &orphans, runs: &theirs, nodes_elsewhere: 0 };
            pools.push(pool(&key, None, Err(catalogue::cluster_gone()), &known, Vec::new(), now));
        }
        let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
        let resolved = catalogue::resolve(cluster, &sizes, &classes, Some(&labels(&namespace)));
        let class = |cluster: &Cluster| {
            let resolved = catalogue::resolve(cluster, &sizes, &classes, Some(&labels(&namespace)));
            resolved.ok().map(|resolved| resolved.class.name)
        };
        let shares_the_grant = |other: &&Cluster| {
            other.metadata.namespace == cluster.metadata.namespace
                && other.metadata.name != cluster.metadata.name
                && class(other) == class(cluster)
        };
        let nodes_elsewhere =
            clusters.iter().filter(shares_the_grant).map(|other| nodes_of(other, &nodes)).sum();
        let known = Known { nodes: &own, runs: &light, nodes_elsewhere };
        pools.push(pool(&key, Some(cluster.clone()), resolved, &known, aside, now));
    }
    let homeless = runs.iter().map(acceptance::homeless).collect();
    let assumptions = stand_ins.sentences(&others);
    Ok(World { now, pools, homeless, assumed_class: stand_ins.class, assumptions })
}

/// What files tell of one Cluster's nodes and runs.
struct Known<'a> {
    nodes: &'a [&'a ClusterNode],
    runs: &'a [LightRun],
    nodes_elsewhere: i64,
}

/// How many nodes a Cluster has.
fn nodes_of(cluster: &Cluster, nodes: &[ClusterNode]) -> i64 {
    let is_gone = |node: &ClusterNode| node.status.as_ref().is_some_and(|status| status.gone_time.is_some());
    let is_its =
        |node: &&ClusterNode| Some(&node.spec.cluster.uid) == cluster.metadata.uid.as_ref() && !is_gone(node);
    nodes.iter().filter(is_its).count() as i64
}

fn pool(
    key: &str,
    cluster: Option<Cluster>,
    catalogue: Result<Resolved, Refusal>,
    Known { nodes, runs, nodes_elsewhere }: &Known<'_>,
    aside: Vec<Aside>,
    now: Timestamp,
) -> Pool {
    let nodes: Vec<LightNode> = nodes
        .iter()
        .map(|node| {
            LightNode::of(node).expect("name, namespace, UID, version and creation time were filled in")
        })
        .collect();
    let snapshot = assemble(&Observed {
        cluster: cluster.as_ref(),
        cluster_key: key,
        nodes: &nodes.iter().collect::<Vec<_>>(),
        runs: &runs.iter().collect::<Vec<_>>(),
        catalogue: catalogue.as_ref(),
        nodes_elsewhere: *nodes_elsewhere,
    });
    let plan = plan(&snapshot, now);
    Pool { key: key.to_owned(), cluster, catalogue, snapshot, plan, aside }
}

/// What files say of a namespace, and the label that Kubernetes sets on each.
fn labels_of(
    given: &BTreeMap<String, BTreeMap<String, String>>,
    namespace: &str,
) -> BTreeMap<String, String> {
    let mut labels = given.get(namespace).cloned().unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
    labels
}

/// A run belongs to a past Cluster while its live attempt is on nodes of it.
fn is_live_on(run: &LightRun, nodes: &BTreeSet<&str>) -> bool {
    matches!(run.standing(), Standing::Active(_))
        && run
            .allocation
            .as_ref()
            .is_some_and(|one| one.nodes.iter().any(|node| nodes.contains(node.as_str())))
}

/// A file that was forgotten must not read as a Cluster that was removed, or the answer would be to destroy its nodes.
fn every_node_has_a_cluster(clusters: &[Cluster], nodes: &[ClusterNode]) -> anyhow::Result<()> {
    let known: BTreeSet<String> = clusters
        .iter()
        .map(|cluster| key_of(cluster.metadata.namespace.as_ref(), cluster.metadata.name.as_ref()))
        .collect();
    for node in nodes {
        let key = key_of(node.metadata.namespace.as_ref(), Some(&node.spec.cluster.name));
        if !known.contains(&key) {
            anyhow::bail!(
                "ClusterNode {}: spec.cluster.name: no Cluster {key} is in the files; give it, too",
                key_of(node.metadata.namespace.as_ref(), node.metadata.name.as_ref())
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

/// `<namespace>/<name>`.
pub fn key_of(namespace: Option<&String>, name: Option<&String>) -> String {
    let text = |one: Option<&String>| one.cloned().unwrap_or_default();
    format!("{}/{}", text(namespace), text(name))
}
