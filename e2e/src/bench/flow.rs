//! Many short runs through one Cluster: from nothing to as many machines as they need, and back to nothing.

use std::time::Duration;

use anyhow::{Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, ClusterNode, Run};

use super::meter::{Meter, Usage};
use super::pool::NAMESPACE;
use super::requests::Requests;
use crate::controlplane::{ControlPlane, annotations, eventually};
use crate::installation::Operator;

const CLUSTER: &str = "flow";
const SUBMITTED_AT_ONCE: usize = 16;
/// Looks that take a list of everything are seldom: they are work for what is measured.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// An hour: far more than five thousand runs take on two processors.
const LIMIT: Duration = Duration::from_secs(3600);

/// What it took.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Until the last create was answered.
    pub submitted: Duration,
    /// Until every run had completed.
    pub completed: Duration,
    /// Until the last machine was gone.
    pub empty: Duration,
    /// Machines that were made.
    pub machines: i64,
    /// The most that were there at any look.
    pub most_at_once: usize,
    /// Processor time of all of it.
    pub usage: Usage,
    /// The operator's most resident memory, in bytes.
    pub peak_memory: u64,
    /// The operator's resident memory at the end, when it knows only finished runs, in bytes.
    pub memory_at_end: u64,
    /// What the API server was asked.
    pub requests: Requests,
}

/// Sends `runs` runs of one second through a Cluster of at most `machines`.
pub async fn measure(
    plane: &ControlPlane,
    operator: &Operator,
    runs: usize,
    machines: usize,
) -> Result<Flow> {
    let client = plane.client().await?;
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), NAMESPACE);
    let cluster = json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": CLUSTER},
        "spec": {"vmSize": "Standard_D4s_v5", "scale": {"maxNodes": machines, "idleSecondsBeforeScaleDown": 30}},
    });
    clusters.create(&PostParams::default(), &serde_json::from_value(cluster)?).await?;

    let mark = plane.audit_mark().await?;
    let meter = Meter::read(plane, operator.process())?;
    let start = Instant::now();
    submit(&client, CLUSTER, "run", runs, "1s").await?;
    let submitted = start.elapsed();
    let mut most_at_once = 0;
    let completed = loop {
        tokio::time::sleep(LOOK_EVERY).await;
        most_at_once = most_at_once.max(nodes(&client).await?);
        let done = in_phase(&client, RunPhase::Completed).await?;
        if done == runs {
            break start.elapsed();
        }
        if start.elapsed() > LIMIT {
            bail!("{done} of {runs} runs have completed after {LIMIT:?}");
        }
        eprintln!("  {:>5.0} s: {done} of {runs} runs completed", start.elapsed().as_secs_f64());
    };
    eventually("the last machine to be gone", LIMIT, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let left = nodes(&client).await?;
        if left > 0 {
            bail!("{left} are left")
        }
        Ok(())
    })
    .await?;
    let empty = start.elapsed();
    let usage = meter.usage(plane, operator.process())?;
    plane.audit_mark().await?;
    Ok(Flow {
        submitted,
        completed,
        empty,
        machines: clusters.get(CLUSTER).await?.status.unwrap_or_default().last_node_ordinal,
        most_at_once,
        usage,
        peak_memory: operator.process().peak_rss()?,
        memory_at_end: operator.process().rss()?,
        requests: Requests::count(&plane.audit_log()?.since(mark)?),
    })
}

/// Submits runs of one process that ends by itself after `lasting`.
pub(super) async fn submit(
    client: &Client,
    cluster: &str,
    name: &str,
    runs: usize,
    lasting: &str,
) -> Result<()> {
    let api: Api<Run> = Api::namespaced(client.clone(), NAMESPACE);
    stream::iter(0..runs)
        .map(|number| {
            let api = api.clone();
            async move {
                let run = json!({
                    "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run",
                    "metadata": {"name": format!("{name}-{number}")},
                    "spec": {"clusterRef": {"name": cluster}, "container": {"image": "registry.example/train:1"},
                             "podTemplate": {"annotations": {annotations::RUN_FOR: lasting}}},
                });
                api.create(&PostParams::default(), &serde_json::from_value(run)?).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(SUBMITTED_AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// How many runs are in that phase.
pub(super) async fn in_phase(client: &Client, phase: RunPhase) -> Result<usize> {
    let api: Api<Run> = Api::namespaced(client.clone(), NAMESPACE);
    let selection = ListParams::default().fields(&format!("status.phase={phase}"));
    Ok(api.list_metadata(&selection).await?.items.len())
}

async fn nodes(client: &Client) -> Result<usize> {
    let api: Api<ClusterNode> = Api::namespaced(client.clone(), NAMESPACE);
    Ok(api.list_metadata(&ListParams::default()).await?.items.len())
}
