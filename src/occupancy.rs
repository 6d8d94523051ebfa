//! Whether a pod of a run is still on a machine that is to be given back: asked live, by both controllers that give
//! machines back.
//!
//! A pod is what its labels say only where people are trusted to write them: in the Cluster's own namespace. Runs of
//! namespaces that the Cluster lets in have pods elsewhere; there, anybody could put our label on a pod and hold another
//! team's machine with it, so the Run is asked whether it has that machine: its status is ours alone.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _};
use trainyard_api::Run;
use trainyard_api::names::labels;

use crate::kubernetes::error::Error;
use crate::kubernetes::read::{self, Selection};

/// The machine that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Namespace of its ClusterNode; empty where nothing tells any more, and then every label is believed.
    pub namespace: &'a str,
    /// Name of its ClusterNode.
    pub cluster_node: &'a str,
    /// Name of its Node.
    pub node: &'a str,
}

/// `<namespace>/<name>` of a pod of a run that is bound to this machine and `may_run`, the first by name.
pub async fn live_pod(
    client: &Client,
    machine: Machine<'_>,
    may_run: impl Fn(&Pod) -> bool,
) -> Result<Option<String>, Error> {
    let there = Selection::all().labels(labels::RUN_UID).fields(format!("spec.nodeName={}", machine.node));
    let mut pods = read::list(&Api::<Pod>::all(client.clone()), &there).await?;
    pods.retain(may_run);
    let mut found: Vec<String> = Vec::new();
    for pod in &pods {
        let namespace = pod.namespace().unwrap_or_default();
        let is_believed = machine.namespace.is_empty() || namespace == machine.namespace;
        if is_believed || has_the_machine(client, pod, machine).await? {
            found.push(format!("{namespace}/{}", pod.name_any()));
        }
    }
    Ok(found.into_iter().min())
}

/// Whether the Run that the pod's labels name was given this machine.
async fn has_the_machine(client: &Client, pod: &Pod, machine: Machine<'_>) -> Result<bool, Error> {
    let (Some(run), Some(uid)) = (pod.labels().get(labels::RUN), pod.labels().get(labels::RUN_UID)) else {
        return Ok(false);
    };
    let runs = Api::<Run>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let Some(run) = read::get(&runs, run).await?.filter(|run| run.uid().as_ref() == Some(uid)) else {
        return Ok(false);
    };
    let names_its_cluster = run.spec.cluster_ref.namespace.as_deref() == Some(machine.namespace);
    let Some(status) = run.status.filter(|_| names_its_cluster) else { return Ok(false) };
    let Some(allocation) = status.allocation else { return Ok(false) };
    // A live list has shown that no pod of that attempt is left; whatever this is, it is none.
    let is_over = status.attempts.iter().any(|one| one.number == allocation.attempt && one.pods_gone);
    Ok(!is_over && allocation.nodes.iter().any(|node| node.name == machine.cluster_node))
}
