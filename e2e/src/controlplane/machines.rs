//! Accidents of machines that exist as objects only.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::eventually;

/// By this label kwok knows the nodes it plays the kubelet of.
const PLAYED_BY_KWOK: &str = "kwok.x-k8s.io/node";

/// kwok reports within a second; the controller-manager then lifts the first taint.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Removing a Node takes two requests, or four against an engine that insists.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// An administrator connects a machine: a Node that no engine has made, with these labels and of this size. kwok plays its
/// kubelet, as from its first report on.
pub async fn add_machine(client: &kube::Client, name: &str, labels: &Value, amounts: &Value) -> Result<()> {
    let mut node = json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts},
    });
    node["metadata"]["labels"][PLAYED_BY_KWOK] = json!("fake");
    node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
    let nodes = Api::<Node>::all(client.clone());
    nodes
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await
        .with_context(|| format!("creating Node {name}"))?;
    eventually(&format!("Node {name} to be ready"), READY_WITHIN, || async {
        let node = nodes.get(name).await?;
        let status = node.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        anyhow::ensure!(ready.is_some_and(|ready| ready.status == "True"), "{ready:?}");
        let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
        let waits = taints.iter().any(|taint| taint.key == "node.kubernetes.io/not-ready");
        anyhow::ensure!(!waits, "{taints:?}");
        Ok(())
    })
    .await
}

/// What an administrator can set of a Node: labels, spec, and annotations of his own (`example.org/`). kwok, as a kubelet,
/// keeps the rest.
pub fn what_is_set(node: &Node) -> Value {
    let annotations: BTreeMap<_, _> =
        node.annotations().iter().filter(|(key, _)| key.starts_with("example.org/")).collect();
    json!({"labels": node.labels(), "annotations": annotations, "spec": node.spec})
}

/// The machine is cut off: nobody plays its kubelet any more, its pods stay as they are whatever is done to them, its
/// lease runs out, and it is `Ready=Unknown` at once, as the controller-manager would say after its grace period.
pub async fn lose_node(client: &kube::Client, name: &str) -> Result<()> {
    // In this order: kwok, which watches by label, sees nothing of the second write and cannot undo it.
    set_label(client, name, Value::Null).await?;
    let lost = json!({"status": {"conditions": [{
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.",
        "lastTransitionTime": seconds_now(),
    }]}});
    Api::<Node>::all(client.clone())
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(lost))
        .await
        .with_context(|| format!("marking Node {name} as lost"))?;
    Ok(())
}

/// The Node is deleted and gone at once, whoever holds it: an engine's finalizer would keep it until its pods are done.
pub async fn remove_node(client: &kube::Client, name: &str) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let unheld = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    nodes.delete(name, &DeleteParams::default()).await.with_context(|| format!("deleting Node {name}"))?;
    // The engine puts its finalizer back when it notices.
    eventually(&format!("Node {name} to be gone"), GONE_WITHIN, || async {
        if nodes.get_opt(name).await?.is_none() {
            return Ok(());
        }
        match nodes.patch(name, &PatchParams::default(), &unheld).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => anyhow::bail!("somebody's finalizer holds it"),
        }
    })
    .await
}

/// The lost machine is back, with the pods it had.
pub async fn bring_back_node(client: &kube::Client, name: &str) -> Result<()> {
    set_label(client, name, json!("fake")).await
}

/// Deletes the leases of all nodes. A new kwok has a new identity and leaves alone what its predecessor held, for as
/// long as those leases last (40 s).
pub(super) async fn release_nodes(client: &kube::Client) -> Result<()> {
    Api::<Lease>::namespaced(client.clone(), "kube-node-lease")
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .context("deleting the leases of nodes")?;
    Ok(())
}

async fn set_label(client: &kube::Client, name: &str, value: Value) -> Result<()> {
    let labels = json!({"metadata": {"labels": {PLAYED_BY_KWOK: value}}});
    Api::<Node>::all(client.clone())
        .patch(name, &PatchParams::default(), &Patch::Merge(labels))
        .await
        .with_context(|| format!("labelling Node {name}"))?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a fact about now, told to a real API server")]
fn seconds_now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
