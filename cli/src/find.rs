//! From what somebody typed to the object that is meant.
//!
//! In: a [`Target`] and where to look. Out: exactly one [`Subject`], or an error that says what was looked for, where, and
//! which names are near.

use anyhow::bail;
use trainyard_api::{Cluster, ClusterNode, Run};

use crate::live::Reader;
use crate::manifest::Manifest;
use crate::target::{Kind, Target, near};

/// What a question is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A Run.
    Run(Box<Run>),
    /// A Cluster.
    Cluster(Box<Cluster>),
    /// A ClusterNode.
    Node(Box<ClusterNode>),
    /// A ClusterNode that once was: what its name tells, and the Cluster of that name.
    PastNode(PastNode),
}

/// A name that a Cluster's node had.
#[derive(Clone, Debug, PartialEq)]
pub struct PastNode {
    /// The name.
    pub name: String,
    /// Its number.
    pub ordinal: i64,
    /// The Cluster.
    pub cluster: Box<Cluster>,
}

impl PastNode {
    /// The node of this name, if it is one that the Cluster has had.
    fn of(name: &str, cluster: &Cluster) -> Option<Self> {
        let ordinal = split(name)?.1;
        let last = cluster.status.as_ref().map_or(0, |status| status.last_node_ordinal);
        (ordinal <= last).then(|| Self { name: name.to_owned(), ordinal, cluster: Box::new(cluster.clone()) })
    }
}

/// `nc6-3f9a1c-4`: node 4 of a Cluster nc6.
fn split(name: &str) -> Option<(&str, i64)> {
    let (rest, ordinal) = name.rsplit_once('-')?;
    let (cluster, hash) = rest.rsplit_once('-')?;
    let is_hash = hash.len() == 6 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some((cluster, ordinal.parse().ok()?)).filter(|_| is_hash)
}

impl Subject {
    fn word(&self) -> String {
        let (kind, name) = match self {
            Self::Run(run) => (Kind::Run, run.metadata.name.as_deref()),
            Self::Cluster(cluster) => (Kind::Cluster, cluster.metadata.name.as_deref()),
            Self::Node(node) => (Kind::ClusterNode, node.metadata.name.as_deref()),
            Self::PastNode(past) => (Kind::ClusterNode, Some(past.name.as_str())),
        };
        format!("{}/{}", kind.word(), name.unwrap_or_default())
    }
}

fn asked(target: &Target) -> Vec<Kind> {
    target.kind.map_or_else(|| Kind::ALL.to_vec(), |kind| vec![kind])
}

/// Looks in objects that were read from files.
pub fn in_files(manifest: &Manifest, namespace: &str, target: &Target) -> anyhow::Result<Subject> {
    let here = |of: &kube::core::ObjectMeta| of.namespace.as_deref() == Some(namespace);
    let is = |of: &kube::core::ObjectMeta| here(of) && of.name.as_ref() == Some(&target.name);
    let kinds = asked(target);
    let mut found = Vec::new();
    for kind in &kinds {
        match kind {
            Kind::Run => found.extend(
                manifest
                    .runs
                    .iter()
                    .filter(|one| is(&one.metadata))
                    .cloned()
                    .map(|one| Subject::Run(Box::new(one))),
            ),
            Kind::Cluster => found.extend(
                manifest
                    .clusters
                    .iter()
                    .filter(|one| is(&one.metadata))
                    .cloned()
                    .map(|one| Subject::Cluster(Box::new(one))),
            ),
            Kind::ClusterNode => {
                let names_it =
                    |one: &&ClusterNode| is(&one.metadata) || here(&one.metadata) && is_on(one, target);
                found.extend(
                    manifest.nodes.iter().filter(names_it).cloned().map(|one| Subject::Node(Box::new(one))),
                );
            }
        }
    }
    if found.is_empty() && kinds.contains(&Kind::ClusterNode) {
        let clusters = manifest.clusters.iter().filter(|one| here(&one.metadata));
        found.extend(clusters.filter_map(|one| past_of(one, target)).take(1));
    }
    let names = |kind: Kind| -> Vec<String> {
        let of = |all: Vec<&kube::core::ObjectMeta>| {
            all.into_iter().filter(|one| here(one)).filter_map(|one| one.name.clone()).collect()
        };
        match kind {
            Kind::Run => of(manifest.runs.iter().map(|one| &one.metadata).collect()),
            Kind::Cluster => of(manifest.clusters.iter().map(|one| &one.metadata).collect()),
            Kind::ClusterNode => of(manifest.nodes.iter().map(|one| &one.metadata).collect()),
        }
    };
    let known: Vec<(Kind, Vec<String>)> =
        if found.is_empty() { kinds.iter().map(|kind| (*kind, names(*kind))).collect() } else { Vec::new() };
    only(found, namespace, target, "of the files", &known, &[])
}

/// Looks in a cluster.
pub async fn in_cluster(reader: &Reader, namespace: &str, target: &Target) -> anyhow::Result<Subject> {
    let kinds = asked(target);
    let (runs, clusters) = (reader.namespaced::<Run>(namespace), reader.namespaced::<Cluster>(namespace));
    let nodes = reader.namespaced::<ClusterNode>(namespace);
    let (mut found, mut hidden) = (Vec::new(), Vec::new());
    for kind in &kinds {
        let subject = match kind {
            Kind::Run => {
                reader.get(&runs, &target.name).await?.map(|one| one.map(|one| Subject::Run(Box::new(one))))
            }
            Kind::Cluster => reader
                .get(&clusters, &target.name)
                .await?
                .map(|one| one.map(|one| Subject::Cluster(Box::new(one)))),
            Kind::ClusterNode => {
                reader.get(&nodes, &target.name).await?.map(|one| one.map(|one| Subject::Node(Box::new(one))))
            }
        };
        match subject {
            Some(subject) => found.extend(subject),
            None => hidden.push(*kind),
        }
    }
    let mut all_nodes = None;
    if found.is_empty() && kinds.contains(&Kind::ClusterNode) {
        all_nodes = reader.list(&nodes, "").await?;
        let named = all_nodes.iter().flatten().filter(|one| is_on(one, target)).cloned();
        found.extend(named.map(|one| Subject::Node(Box::new(one))));
        if let Some((cluster, _)) = split(&target.name).filter(|_| found.is_empty())
            && let Some(Some(cluster)) = reader.get(&clusters, cluster).await?
        {
            found.extend(past_of(&cluster, target));
        }
    }
    let mut known = Vec::new();
    if found.is_empty() {
        for kind in &kinds {
            let name = |metadata: kube::core::ObjectMeta| metadata.name.unwrap_or_default();
            let names = match kind {
                Kind::Run => reader
                    .list(&runs, "")
                    .await?
                    .map(|all| all.into_iter().map(|one| name(one.metadata)).collect()),
                Kind::Cluster => reader
                    .list(&clusters, "")
                    .await?
                    .map(|all| all.into_iter().map(|one| name(one.metadata)).collect()),
                Kind::ClusterNode => {
                    all_nodes.take().map(|all| all.into_iter().map(|one| name(one.metadata)).collect())
                }
            };
            known.extend(names.map(|names| (*kind, names)));
        }
    }
    only(found, namespace, target, "", &known, &hidden)
}

fn is_on(node: &ClusterNode, target: &Target) -> bool {
    node.status.as_ref().and_then(|status| status.node_name.as_ref()) == Some(&target.name)
}

fn past_of(cluster: &Cluster, target: &Target) -> Option<Subject> {
    let (name, _) = split(&target.name)?;
    let is_its = cluster.metadata.name.as_deref() == Some(name);
    PastNode::of(&target.name, cluster).filter(|_| is_its).map(Subject::PastNode)
}

fn only(
    mut found: Vec<Subject>,
    namespace: &str,
    target: &Target,
    where_else: &str,
    known: &[(Kind, Vec<String>)],
    hidden: &[Kind],
) -> anyhow::Result<Subject> {
    let name = &target.name;
    if found.len() > 1 {
        let words: Vec<String> = found.iter().map(Subject::word).collect();
        bail!("{name} is the name of several objects in namespace {namespace}: write {}", words.join(" or "));
    }
    if let Some(found) = found.pop() {
        return Ok(found);
    }
    if !hidden.is_empty() {
        let kinds: Vec<String> = hidden.iter().map(ToString::to_string).collect();
        bail!(
            "you may not read the {} {name} in namespace {namespace}: somebody who may grant rights there can give you the role \
             view",
            kinds.join(" or ")
        );
    }
    let looked: Vec<&str> = asked(target)
        .into_iter()
        .map(|kind| match kind {
            Kind::Run => "a Run",
            Kind::Cluster => "a Cluster",
            Kind::ClusterNode => "a ClusterNode, or one whose Node has that name",
        })
        .collect();
    let mut similar = Vec::new();
    for (kind, names) in known {
        let near = near(name, names.iter().map(String::as_str));
        similar.extend(near.into_iter().map(|near| format!("{}/{near}", kind.word())));
    }
    let similar = if similar.is_empty() {
        format!("no name there is similar; kubectl get trainyard -n {namespace} lists all")
    } else {
        format!("similar: {}", similar.join(", "))
    };
    let where_else = if where_else.is_empty() { String::new() } else { format!(" {where_else}") };
    bail!(
        "nothing is named {name} in namespace {namespace}{where_else}: looked for {}; {similar}; -n asks in another namespace",
        looked.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_name_tells_its_cluster_and_number() {
        assert_eq!(split("nc6-3f9a1c-4"), Some(("nc6", 4)));
        assert_eq!(split("my-pool-3f9a1c-12"), Some(("my-pool", 12)));
        assert_eq!(split("mnist-2"), None);
        assert_eq!(split("resnet-50-3"), None);
    }
}
