//! A run loses its machine while another one waits: how long until all of its pods run again.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;
use trainyard_api::run_status::RunPhase;

use super::pool::Pool;
use crate::controlplane::{eventually, remove_node};

/// Longer than any of it takes.
const LIMIT: Duration = Duration::from_secs(180);

/// Removes the Node under a run, once; the time from the request until attempt 2 is Running.
pub async fn measure(pool: &Pool, name: &str) -> Result<Duration> {
    pool.submit(&[name.to_owned()]).await?;
    let node = wait_for_attempt(pool, name, 1).await?;
    let start = Instant::now();
    remove_node(pool.client(), &node).await?;
    let next = wait_for_attempt(pool, name, 2).await?;
    let took = start.elapsed();
    if next == node {
        bail!("attempt 2 runs on {node}, which was deleted");
    }
    Ok(took)
}

/// Waits until that attempt runs; the Node it runs on.
async fn wait_for_attempt(pool: &Pool, name: &str, attempt: i32) -> Result<String> {
    let runs = pool.runs();
    eventually(&format!("attempt {attempt} of Run {name} to run"), LIMIT, || async {
        let status = runs.get(name).await?.status.unwrap_or_default();
        let running = status.phase == Some(RunPhase::Running);
        let allocation = status.allocation.filter(|allocation| running && allocation.attempt == attempt);
        let Some(allocation) = allocation else {
            bail!("it is {:?}: {}", status.phase, status.message.unwrap_or_default())
        };
        allocation.nodes.first().map(|node| node.node_name.clone()).context("an allocation without nodes")
    })
    .await
}
