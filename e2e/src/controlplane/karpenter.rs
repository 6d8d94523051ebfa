//! What Karpenter needs beside its process: CRDs, a node class, the sizes it may launch; and refusals on request.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::{Condition as _, conditions::is_crd_established};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::binaries::{asset, source};
use super::wait::eventually;

/// Files in the folder of a control plane.
pub(super) const INSTANCE_TYPES: &str = "instance-types.json";
pub(super) const REFUSALS: &str = "refusals.json";

/// The zones every size is offered in, in both capacity types, `on-demand` and `spot`.
pub const ZONES: [&str; 2] = ["zone-a", "zone-b"];

/// The one `KWOKNodeClass`, made at start.
pub const NODE_CLASS: &str = "default";

/// What the cloud under Karpenter refuses from now on; an empty value refuses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusals {
    /// Rules, the first that matches an offering decides.
    pub refuse: Vec<Refusal>,
    /// Waited in every launch.
    #[serde(serialize_with = "go_duration")]
    pub launch_delay: Duration,
}

/// Refuses offerings that match every field that is set. A claim is refused when none is left that it accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Counts its uses; keep it for one rule, see `ControlPlane::refused`.
    pub id: String,
    /// Start of the claim's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_prefix: Option<String>,
    /// Size, as `Standard_NC6s_v3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// One of [`ZONES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// `on-demand` or `spot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<String>,
    /// What the claim gets.
    pub error: LaunchError,
    /// The text of the error.
    pub message: String,
    /// How many claims are refused; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
}

/// How a launch fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LaunchError {
    /// Stock-out or quota: Karpenter deletes the claim and leaves a Warning event.
    #[default]
    InsufficientCapacity,
    /// Karpenter deletes the claim, without an event.
    NodeClassNotReady,
    /// Karpenter tries again for five minutes; the word is the reason of the claim's `Launched` condition.
    Other(String),
}

impl Serialize for LaunchError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::InsufficientCapacity => "InsufficientCapacity",
            Self::NodeClassNotReady => "NodeClassNotReady",
            Self::Other(reason) => reason,
        })
    }
}

fn go_duration<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}ms", value.as_millis()))
}

/// Replaces the rules; Karpenter reads them at the next launch.
pub(super) fn write_refusals(folder: &Path, refusals: &Refusals) -> Result<()> {
    let (new, path) = (folder.join("refusals.new"), folder.join(REFUSALS));
    fs::write(&new, serde_json::to_string_pretty(refusals)?)?;
    fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))
}

/// How many claims the rule refused.
pub(super) fn refused(folder: &Path, id: &str) -> Result<u32> {
    let path = folder.join(format!("{REFUSALS}.used"));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let used: BTreeMap<String, u32> = serde_json::from_str(&text)?;
    Ok(used.get(id).copied().unwrap_or(0))
}

/// A line of `e2e/controlplane/karpenter/sizes.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    name: String,
    cpu: u32,
    memory: String,
    #[serde(default)]
    accelerators: BTreeMap<String, u32>,
}

/// Writes the sizes in the form kwok's provider reads.
pub(super) fn write_instance_types(folder: &Path) -> Result<()> {
    let path = source("karpenter/sizes.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let sizes: Vec<Size> = serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    let types: Vec<Value> = sizes.iter().map(instance_type).collect();
    fs::write(folder.join(INSTANCE_TYPES), serde_json::to_string(&types)?)?;
    Ok(())
}

fn instance_type(size: &Size) -> Value {
    let mut resources = json!({
        "cpu": size.cpu.to_string(),
        "memory": size.memory,
        "pods": "110",
        "ephemeral-storage": "200Gi",
    });
    for (name, count) in &size.accelerators {
        resources[name] = json!(count.to_string());
    }
    // Only the order matters: bigger costs more, an accelerator as much as 50 processors, spot a third.
    let price = f64::from(size.cpu) * 0.05 + f64::from(size.accelerators.values().sum::<u32>()) * 2.5;
    let offering = |capacity_type: &str, zone: &str, price: f64| {
        let requirement = |key: &str, value: &str| json!({"key": key, "operator": "In", "values": [value]});
        json!({
            "Price": price,
            "Available": true,
            "Requirements": [
                requirement("karpenter.sh/capacity-type", capacity_type),
                requirement("topology.kubernetes.io/zone", zone),
            ],
        })
    };
    let offerings: Vec<Value> = ZONES
        .iter()
        .flat_map(|zone| [offering("on-demand", zone, price), offering("spot", zone, price / 3.0)])
        .collect();
    json!({
        "name": size.name,
        "architecture": "amd64",
        "operatingSystems": ["linux"],
        "resources": resources,
        "offerings": offerings,
    })
}

/// Creates Karpenter's CRDs and the node class, and waits until the API server serves them.
pub(super) async fn install(client: &kube::Client) -> Result<()> {
    let text = fs::read_to_string(asset("karpenter-crds.yaml")?)?;
    let crds: Vec<CustomResourceDefinition> =
        serde_saphyr::from_multiple(&text).context("reading Karpenter's CRDs")?;
    if crds.is_empty() {
        bail!("no CRD in assets/karpenter-crds.yaml; run `controlplane build` again");
    }
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let params = PostParams::default();
    futures::future::try_join_all(crds.iter().map(|crd| api.create(&params, crd)))
        .await
        .context("creating Karpenter's CRDs")?;
    eventually("Karpenter's CRDs to be served", Duration::from_secs(30), || async {
        for crd in api.list(&kube::api::ListParams::default()).await?.items {
            if !is_crd_established().matches_object(Some(&crd)) {
                bail!("{} is not established", crd.metadata.name.unwrap_or_default());
            }
        }
        Ok(())
    })
    .await?;
    let gvk = GroupVersionKind::gvk("karpenter.kwok.sh", "v1alpha1", "KWOKNodeClass");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "kwoknodeclasses");
    let class = DynamicObject::new(NODE_CLASS, &resource).data(json!({"spec": {}}));
    Api::<DynamicObject>::all_with(client.clone(), &resource)
        .create(&params, &class)
        .await
        .context("creating the node class")?;
    Ok(())
}
