//! Many machines are lost at once under running gangs: how long until the pods of every next attempt are made, and
//! whether anything was bought that nobody uses.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;
use trainyard_api::names::{labels, node_labels};
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, ClusterNode, Run};

use super::pool::NAMESPACE;
use crate::controlplane::{eventually, lose_node, remove_node};

const CLUSTER: &str = "gangs";
/// Machines of one gang.
const GANG: usize = 2;
/// Longer than any of it takes.
const LIMIT: Duration = Duration::from_secs(280);

/// How the machines are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accident {
    /// The Nodes are deleted, as a cloud does.
    Deleted,
    /// The kubelets fall silent; the Nodes are `Ready=Unknown` from the first moment.
    Silent,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// From the accident until the last pod of the next attempt was made, for each gang, ascending.
    pub pods_made: Vec<Duration>,
    /// From the accident until every gang was Running again.
    pub running: Duration,
    /// Machines that were asked for after the accident.
    pub bought: usize,
    /// Machines that exist when all run again and that no gang uses.
    pub unused: usize,
}

/// Loses `machines` machines under half as many gangs, once.
pub async fn measure(client: &Client, machines: usize, accident: Accident) -> Result<Recovery> {
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), NAMESPACE);
    let runs: Api<Run> = Api::namespaced(client.clone(), NAMESPACE);
    clusters
        .create(
            &PostParams::default(),
            &serde_json::from_value(json!({
                "apiVersion": "trainyard.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": CLUSTER},
                "spec": {"vmSize": "Standard_D4s_v5", "scale": {"maxNodes": 2 * machines}},
            }))?,
        )
        .await?;
    let gangs: Vec<String> = (0..machines / GANG).map(|number| format!("gang-{number}")).collect();
    for name in &gangs {
        let run = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run", "metadata": {"name": name},
            "spec": {"clusterRef": {"name": CLUSTER}, "nodeCount": GANG,
                     "container": {"image": "registry.example/train:1"}, "distribution": {"pytorch": {}}},
        });
        runs.create(&PostParams::default(), &serde_json::from_value(run)?).await?;
    }
    let lost = wait_for_attempt(&runs, &gangs, 1).await?;
    if lost.len() != machines {
        bail!("{} machines are used, expected {machines}", lost.len());
    }
    let ordinal_before = last_ordinal(&clusters).await?;

    let second = ListParams::default().labels(&format!("{}=2", labels::ATTEMPT));
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let version = pods.list_metadata(&second).await?.metadata.resource_version.unwrap_or_default();
    let selection =
        WatchParams::default().labels(second.label_selector.as_deref().unwrap_or_default()).timeout(290);
    let mut made = pods.watch_metadata(&selection, &version).await?.boxed();
    let start = Instant::now();
    let accidents = async {
        let each = lost.iter().map(|node| async move {
            match accident {
                Accident::Deleted => remove_node(client, node).await,
                Accident::Silent => lose_node(client, node).await,
            }
        });
        futures::future::try_join_all(each).await.map(drop)
    };
    let watching = async {
        let mut members: BTreeMap<String, usize> = BTreeMap::new();
        let mut whole = Vec::new();
        while whole.len() < gangs.len() {
            let event = made.try_next().await?.context("the watch has ended")?;
            let WatchEvent::Added(pod) = event else { continue };
            let run = pod.labels().get(labels::RUN).cloned().unwrap_or_default();
            let count = members.entry(run).or_default();
            *count += 1;
            if *count == GANG {
                whole.push(start.elapsed());
            }
        }
        anyhow::Ok(whole)
    };
    let both = async { tokio::try_join!(accidents, watching) };
    let ((), pods_made) =
        tokio::time::timeout(LIMIT, both).await.context("waiting for the next attempts' pods")??;
    let used = wait_for_attempt(&runs, &gangs, 2).await?;
    let running = start.elapsed();
    // What was lost goes on its own; what is there and no gang's is what would be billed for nothing.
    let unused = eventually("what was lost to be gone", LIMIT, || async {
        let nodes: Api<ClusterNode> = Api::namespaced(client.clone(), NAMESPACE);
        let left = nodes.list(&ListParams::default()).await?.items;
        let leaving = left.iter().filter(|node| node.spec.retired.is_some()).count();
        if leaving > 0 {
            bail!("{leaving} are leaving")
        }
        let ours = ListParams::default().labels(&format!("{}={NAMESPACE}", node_labels::CLUSTER_NAMESPACE));
        let there = Api::<Node>::all(client.clone()).list_metadata(&ours).await?.items;
        Ok(there.iter().filter(|node| !used.contains(&node.name_any())).count())
    })
    .await?;
    Ok(Recovery {
        pods_made,
        running,
        bought: (last_ordinal(&clusters).await? - ordinal_before) as usize,
        unused,
    })
}

async fn last_ordinal(clusters: &Api<Cluster>) -> Result<i64> {
    Ok(clusters.get(CLUSTER).await?.status.unwrap_or_default().last_node_ordinal)
}

/// Waits until that attempt of every gang runs; the names of all their Nodes.
async fn wait_for_attempt(runs: &Api<Run>, gangs: &[String], attempt: i32) -> Result<Vec<String>> {
    eventually(&format!("attempt {attempt} of every gang to run"), LIMIT, || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let all = runs.list(&ListParams::default()).await?.items;
        let mut nodes = Vec::new();
        let mut running = 0;
        for run in all {
            let status = run.status.unwrap_or_default();
            let allocation = status.allocation.filter(|allocation| allocation.attempt == attempt);
            if let Some(allocation) = allocation.filter(|_| status.phase == Some(RunPhase::Running)) {
                running += 1;
                nodes.extend(allocation.nodes.into_iter().map(|node| node.node_name));
            }
        }
        if running < gangs.len() {
            bail!("{running} of {} run", gangs.len())
        }
        Ok(nodes)
    })
    .await
}
