//! An administrator's hall of machines: Nodes that no engine has made, and the class that lends them out.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use trainyard_api::cluster_node::ClusterNode;
use trainyard_api::names::{API_VERSION, node_labels};
use trainyard_api::provisioning_class::ProvisioningClass;

use super::world::Story;
use crate::controlplane::{add_machine, what_is_set};

/// The label by which the class of a hall knows its machines.
const HALL: &str = "example.org/hall";

/// What a machine of the size that stories use when they do not care shows of itself.
fn whole_machine() -> Value {
    json!({"cpu": "4", "memory": "15500Mi", "pods": "110"})
}

/// The machines of a story. Their names begin with its namespace, which is also the name of the class.
pub struct Hall<'a> {
    story: &'a Story,
    /// How the machines looked when they were put there.
    found: BTreeMap<String, Value>,
}

impl Story {
    /// The administrator connects so many machines, and makes the class that lends them out.
    pub async fn hall_of(&self, machines: usize) -> Result<Hall<'_>> {
        let class: ProvisioningClass = serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "ProvisioningClass",
            "metadata": {"name": self.namespace},
            "spec": {"static": {"nodeSelector": {HALL: self.namespace}}},
        }))?;
        Api::<ProvisioningClass>::all(self.client.clone()).create(&PostParams::default(), &class).await?;
        let mut hall = Hall { story: self, found: BTreeMap::new() };
        for number in 1..=machines {
            hall.connect(&number.to_string(), &whole_machine()).await?;
        }
        Ok(hall)
    }
}

impl Hall<'_> {
    /// The class that lends its machines.
    pub fn class(&self) -> &str {
        &self.story.namespace
    }

    /// The whole name of a machine.
    pub fn machine(&self, name: &str) -> String {
        format!("{}-{name}", self.story.namespace)
    }

    /// The administrator connects another machine, with that capacity.
    pub async fn connect(&mut self, name: &str, amounts: &Value) -> Result<()> {
        let name = self.machine(name);
        let labels = json!({HALL: self.story.namespace, "example.org/rack": "4"});
        add_machine(&self.story.client, &name, &labels, amounts).await?;
        let looks = what_is_set(&self.nodes().get(&name).await?);
        self.found.insert(name, looks);
        Ok(())
    }

    /// The administrator changes the Node of a machine, and wants to find it so again.
    pub async fn mark(&mut self, name: &str, change: Value) -> Result<()> {
        let name = self.machine(name);
        let node = self.nodes().patch(&name, &PatchParams::default(), &Patch::Merge(change)).await?;
        self.found.insert(name, what_is_set(&node));
        Ok(())
    }

    /// Waits until all machines look as they did when they were put there, or marked.
    pub async fn is_as_it_was(&self) -> Result<()> {
        self.story
            .expect("all machines to look as they did", || async {
                for (name, found) in &self.found {
                    let now = what_is_set(&self.nodes().get(name).await?);
                    ensure!(now == *found, "{name} is\n{now:#}\nand was\n{found:#}");
                }
                Ok(())
            })
            .await
    }

    /// The machines that are taken, each with the `ClusterNode` it names.
    pub async fn taken(&self) -> Result<BTreeMap<String, String>> {
        let these = ListParams::default().labels(&format!("{HALL}={}", self.story.namespace));
        let nodes = self.nodes().list(&these).await?.items;
        let owner = |node: &Node| {
            node.labels().get(node_labels::CLUSTER_NODE).map(|owner| (node.name_any(), owner.clone()))
        };
        Ok(nodes.iter().filter_map(owner).collect())
    }

    /// Fails when two ClusterNodes that are not given back say that they have the same machine.
    pub async fn nothing_is_given_twice(&self) -> Result<()> {
        let nodes =
            Api::<ClusterNode>::all(self.story.client.clone()).list(&ListParams::default()).await?.items;
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for node in nodes.iter().filter(|node| node.spec.released.is_none()) {
            let status = node.status.clone().unwrap_or_default();
            if let Some(machine) = status.node_name.filter(|_| status.gone_time.is_none()) {
                let first = owners.insert(machine.clone(), node.name_any());
                ensure!(first.is_none(), "{machine} is {} and {first:?}", node.name_any());
            }
        }
        Ok(())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.story.client.clone())
    }
}
