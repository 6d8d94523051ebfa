//! How fast runs are started from one queue, by how many wait in it.

use std::time::Duration;

use anyhow::{Result, bail};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use trainyard_api::conditions::{self, RunCondition};
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, Run};

use super::flow::{in_phase, submit};
use super::meter::{Meter, Usage};
use super::pool::NAMESPACE;
use crate::controlplane::{ControlPlane, eventually};
use crate::installation::Operator;

const CLUSTER: &str = "queue";
/// Machines that serve the queue.
const MACHINES: usize = 20;
/// Starts that are measured, after as many as there are machines: the rate is that of a queue under way.
pub const STARTS: usize = 75;
/// Twenty thousand runs take a quarter of an hour to submit and to accept.
const LIMIT: Duration = Duration::from_secs(3600);

/// What was measured.
#[derive(Clone, Debug)]
pub struct Rate {
    /// Runs that waited at first.
    pub queued: usize,
    /// Runs started per second.
    pub per_second: f64,
    /// From the last submission until every run was accepted.
    pub accepted: Duration,
    /// Processor time from the first start to the last.
    pub usage: Usage,
    /// The operator's resident memory when all waited, in bytes.
    pub memory: u64,
}

/// Lets `queued` runs of a second wait for machines that may not come yet, then lets the machines come.
pub async fn measure(plane: &ControlPlane, operator: &Operator, queued: usize) -> Result<Rate> {
    let client = plane.client().await?;
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), NAMESPACE);
    let runs: Api<Run> = Api::namespaced(client.clone(), NAMESPACE);
    let cluster = json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": CLUSTER},
        "spec": {"vmSize": "Standard_D4s_v5", "scale": {"maxNodes": 0}},
    });
    clusters.create(&PostParams::default(), &serde_json::from_value(cluster)?).await?;
    submit(&client, CLUSTER, "waiting", queued, "1s").await?;
    let since = tokio::time::Instant::now();
    eventually("every run to be accepted", LIMIT, || async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let waiting = in_phase(&client, RunPhase::Queued).await?;
        if waiting < queued {
            bail!("{waiting} of {queued} are")
        }
        Ok(())
    })
    .await?;
    let last = runs.get(&format!("waiting-{}", queued - 1)).await?.status.unwrap_or_default();
    if conditions::find(&last.conditions, RunCondition::Accepted).is_none() {
        bail!("the last run was not looked at");
    }
    let accepted = since.elapsed();
    let memory = operator.process().rss()?;

    let scale = json!({"spec": {"scale": {"minNodes": MACHINES, "maxNodes": MACHINES}}});
    clusters.patch(CLUSTER, &PatchParams::default(), &Patch::Merge(scale)).await?;
    let meter = Meter::read(plane, operator.process())?;
    let started = |items: Vec<Run>| -> Vec<jiff::Timestamp> {
        let first = |run: Run| Some(run.status?.attempts.first()?.launched.as_ref()?.0);
        let mut times: Vec<_> = items.into_iter().filter_map(first).collect();
        times.sort_unstable();
        times
    };
    let times = eventually("enough runs to be started", LIMIT, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let done = in_phase(&client, RunPhase::Completed).await?;
        if done < MACHINES + STARTS {
            bail!("{done} have completed")
        }
        let completed = ListParams::default().fields("status.phase=Completed");
        Ok(started(runs.list(&completed).await?.items))
    })
    .await?;
    let usage = meter.usage(plane, operator.process())?;
    let took = times[MACHINES + STARTS - 1].duration_since(times[MACHINES - 1]).as_secs_f64();
    Ok(Rate { queued, per_second: STARTS as f64 / took, accepted, usage, memory })
}
