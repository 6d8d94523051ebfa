//! A Cluster whose machines are all there and idle, before and after each measurement.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use trainyard_api::cluster_node::NodeState;
use trainyard_api::names::labels;
use trainyard_api::{Cluster, ClusterNode, ProvisioningClass, Run};

use crate::controlplane::{add_machine, eventually};

/// Where everything is created.
pub const NAMESPACE: &str = "default";
/// The Cluster.
const CLUSTER: &str = "warm";
/// A size without accelerators, with processors for four processes.
pub const VM_SIZE: &str = "Standard_D16s_v5";
/// Thousandths of a cpu of one of them.
const MACHINE_MILLIS: usize = 16_000;
/// The class of machines that are lent, also the start of their names.
const HALL: &str = "hall";
/// By which it knows them.
const HALL_LABEL: &str = "example.org/hall";
/// Pods of a Run: one parameter server and three workers, all on its one machine.
pub const PODS_PER_RUN: usize = 4;

/// Creates under way at a time, as from several people and programs at once.
const SUBMITTED_AT_ONCE: usize = 16;

/// A machine takes some 50 ms of two processors to make, and as much to clean up after.
fn patience(machines: usize) -> Duration {
    Duration::from_secs(120) + Duration::from_millis(500) * u32::try_from(machines).unwrap_or(u32::MAX)
}

/// Where the machines come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Machines {
    /// Made by Karpenter.
    Made,
    /// Nodes that are there, lent by a class of the engine `static`.
    Lent,
}

/// The pool.
pub struct Pool {
    client: Client,
    machines: Machines,
    size: usize,
    runs_per_machine: usize,
}

impl Pool {
    /// Asks for `size` machines, each for so many runs at a time, and waits until all are idle.
    pub async fn fill(
        client: Client,
        machines: Machines,
        size: usize,
        runs_per_machine: usize,
    ) -> Result<Self> {
        let mut cluster = json!({
            "apiVersion": "trainyard.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": {"name": CLUSTER},
            "spec": {"vmSize": VM_SIZE, "scale": {"minNodes": size, "maxNodes": size}},
        });
        if machines == Machines::Lent {
            connect(&client, size).await?;
            cluster["spec"]["provisioningClass"] = json!(HALL);
        }
        let clusters: Api<Cluster> = Api::namespaced(client.clone(), NAMESPACE);
        let cluster = serde_json::from_value(cluster)?;
        clusters.create(&PostParams::default(), &cluster).await.context("creating the Cluster")?;
        let pool = Self { client, machines, size, runs_per_machine };
        pool.wait_until_idle().await?;
        Ok(pool)
    }

    /// Where its machines come from.
    pub fn machines(&self) -> Machines {
        self.machines
    }

    /// How many machines it has.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many runs it can have at a time.
    pub fn room(&self) -> usize {
        self.size * self.runs_per_machine
    }

    /// The client it was filled with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its Runs.
    pub fn runs(&self) -> Api<Run> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Submits Runs of these names.
    pub async fn submit(&self, names: &[String]) -> Result<()> {
        let runs = self.runs();
        stream::iter(names)
            .map(|name| {
                let runs = runs.clone();
                async move {
                    runs.create(&PostParams::default(), &self.run(name)?)
                        .await
                        .with_context(|| format!("creating Run {name}"))
                }
            })
            .buffer_unordered(SUBMITTED_AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    /// What the Runs that do not run say about it; of many, the first.
    pub async fn complaints(&self) -> Result<String> {
        let others = ListParams::default().fields("status.phase!=Running");
        let others = self.runs().list(&others).await?.items;
        let mut text = format!("{} run(s) do not run", others.len());
        for run in others.iter().take(10) {
            let status = run.status.clone().unwrap_or_default();
            let waits = status.queue.and_then(|queue| queue.message).or(status.message).unwrap_or_default();
            let _ = write!(text, "\n  {}: {:?}: {waits}", run.name_any(), status.phase.unwrap_or_default());
        }
        Ok(text)
    }

    /// How many pods of Runs are running.
    pub async fn running_pods(&self) -> Result<usize> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let of_runs = ListParams::default().labels(labels::RUN_UID).fields("status.phase=Running");
        Ok(pods.list_metadata(&of_runs).await?.items.len())
    }

    /// Deletes all Runs and waits until nothing of them is left and all machines are idle: what the garbage collector
    /// still had to delete would be counted with the next measurement.
    pub async fn empty(&self) -> Result<()> {
        // One by one: a request that deletes hundreds is cut off by the API server after a minute.
        let runs = self.runs();
        let all = runs.list_metadata(&ListParams::default()).await?.items;
        stream::iter(all)
            .map(|run| {
                let runs = runs.clone();
                async move {
                    let name = run.name_any();
                    runs.delete(&name, &DeleteParams::default()).await.map(drop).context(name)
                }
            })
            .buffer_unordered(SUBMITTED_AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        eventually("all Runs to be gone", patience(self.size), || async {
            let left = self.runs().list_metadata(&ListParams::default()).await?.items.len();
            if left > 0 {
                bail!("{left} are left")
            }
            Ok(())
        })
        .await?;
        self.wait_until_none::<Pod>().await?;
        self.wait_until_none::<Service>().await?;
        self.wait_until_none::<EndpointSlice>().await?;
        self.wait_until_none::<Endpoints>().await?;
        self.wait_until_idle().await
    }

    fn run(&self, name: &str) -> Result<Run> {
        let mut run = json!({
            "apiVersion": "trainyard.dev/v1alpha1",
            "kind": "Run",
            "metadata": {"name": name},
            "spec": {
                "clusterRef": {"name": CLUSTER},
                "container": {"image": "registry.example/train:1"},
                "command": ["python", "train.py"],
                "distribution": {"tensorflow": {"parameterServer": {"count": 1}, "worker": {"count": 3}}},
            },
        });
        if self.runs_per_machine > 1 {
            // A machine gives some of its cpu to the system: the rest is divided with room to spare.
            let millis = MACHINE_MILLIS * 9 / 10 / self.runs_per_machine;
            run["spec"]["resourcesPerNode"] = json!({"cpu": format!("{millis}m")});
        }
        Ok(serde_json::from_value(run)?)
    }

    async fn wait_until_none<K>(&self) -> Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let objects: Api<K> = Api::namespaced(self.client.clone(), NAMESPACE);
        let of_runs = ListParams::default().labels(labels::RUN_UID);
        eventually(&format!("every {} of a run to be gone", K::kind(&())), patience(self.size), || async {
            let left = objects.list_metadata(&of_runs).await?.items.len();
            if left > 0 {
                bail!("{left} are left")
            }
            Ok(())
        })
        .await
    }

    /// Waits until every machine is ready and without a claim.
    pub async fn wait_until_idle(&self) -> Result<()> {
        let nodes: Api<ClusterNode> = Api::namespaced(self.client.clone(), NAMESPACE);
        eventually("all machines to be idle", patience(self.size), || async {
            // Looked at seldom: a list of many objects is work that the waiting is about.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let all = nodes.list(&ListParams::default()).await?.items;
            let idle = all.iter().filter(|node| is_idle(node)).count();
            if idle == self.size && all.len() == self.size {
                Ok(())
            } else {
                bail!("{idle} of {} are idle, wanted are {}", all.len(), self.size)
            }
        })
        .await
    }
}

/// Connects so many machines, and makes the class that lends them out.
async fn connect(client: &Client, size: usize) -> Result<()> {
    let class = serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "ProvisioningClass",
        "metadata": {"name": HALL},
        "spec": {"static": {"nodeSelector": {HALL_LABEL: HALL}}},
    }))?;
    let classes: Api<ProvisioningClass> = Api::all(client.clone());
    classes.create(&PostParams::default(), &class).await.context("creating the class")?;
    let (labels, amounts) =
        (json!({HALL_LABEL: HALL}), json!({"cpu": "16", "memory": "62Gi", "pods": "110"}));
    for number in 1..=size {
        add_machine(client, &format!("{HALL}-{number}"), &labels, &amounts).await?;
    }
    Ok(())
}

fn is_idle(node: &ClusterNode) -> bool {
    let state = node.status.as_ref().and_then(|status| status.state);
    node.spec.claims.is_empty() && state == Some(NodeState::Idle)
}
