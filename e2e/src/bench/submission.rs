//! Runs submitted at once, on as many machines that wait for them, until all of their pods run.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::ResourceExt as _;
use kube::api::{WatchEvent, WatchParams};
use tokio::time::{Instant, sleep, timeout};

use super::meter::{Meter, Usage};
use super::pool::{Machines, PODS_PER_RUN, Pool};
use super::requests::Requests;
use crate::controlplane::ControlPlane;
use crate::installation::Operator;

/// Time for what is told late (Events, counts in the Cluster's status): it is counted, too.
const AFTERMATH: Duration = Duration::from_secs(3);
/// How long a watch of the API server lasts at most, in seconds; longer than a measurement may take.
const LIMIT: u32 = 290;

/// What one submission took.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Runs.
    pub runs: usize,
    /// Machines that they share.
    pub machines: usize,
    /// Where these come from.
    pub source: Machines,
    /// Until the last create was answered.
    pub submitted: Duration,
    /// Until the first, the middle and the last Run were shown as Running, which each is when all its pods are.
    pub first: Duration,
    /// See `first`.
    pub median: Duration,
    /// See `first`.
    pub last: Duration,
    /// Processor time until then.
    pub usage: Usage,
    /// The operator's most resident memory since it was started, in bytes.
    pub peak_memory: u64,
    /// What the API server was asked, the aftermath included.
    pub requests: Requests,
}

/// Measures one. The operator should have been started for it: its memory is counted from there.
pub async fn measure(
    plane: &ControlPlane,
    operator: &Operator,
    pool: &Pool,
    name: &str,
) -> Result<Submission> {
    let runs = pool.room();
    let names: Vec<String> = (0..runs).map(|number| format!("{name}-{number}")).collect();
    // The API server picks out the runs that run, so this watch brings one event for each and no other.
    let selection = WatchParams::default().fields("status.phase=Running").timeout(LIMIT);
    let api = pool.runs();
    let mut running = api.watch_metadata(&selection, "0").await?.boxed();

    let mark = plane.audit_mark().await?;
    let meter = Meter::read(plane, operator.process())?;
    let start = Instant::now();
    let submit = async {
        pool.submit(&names).await?;
        Ok::<_, anyhow::Error>(start.elapsed())
    };
    let wait = async {
        let mut seen = HashMap::with_capacity(runs);
        while seen.len() < runs {
            match running.try_next().await? {
                Some(WatchEvent::Added(run)) => {
                    seen.entry(run.name_any()).or_insert_with(|| start.elapsed());
                }
                Some(WatchEvent::Deleted(run)) => bail!("Run {:?} does not run any more", run.metadata.name),
                Some(WatchEvent::Modified(_) | WatchEvent::Bookmark(_)) => {}
                // An API server ends a watch when it likes; a new one begins with all that run by now.
                Some(WatchEvent::Error(_)) | None => {
                    running = api.watch_metadata(&selection, "0").await?.boxed();
                }
            }
        }
        let mut times: Vec<Duration> = seen.into_values().collect();
        times.sort_unstable();
        Ok(times)
    };
    let both = async { tokio::try_join!(submit, wait) };
    let outcome = timeout(Duration::from_secs(u64::from(LIMIT) - 10), both).await;
    let (submitted, seen) = match outcome.context("waiting for all runs to be running").flatten() {
        Ok(times) => times,
        Err(error) => {
            let log = operator.process().log_tail();
            return Err(error.context(format!("{}\noperator's log:\n{log}", pool.complaints().await?)));
        }
    };
    let usage = meter.usage(plane, operator.process())?;
    let pods = pool.running_pods().await?;
    if pods != runs * PODS_PER_RUN {
        bail!("{runs} runs are running, but {pods} pods instead of {}", runs * PODS_PER_RUN);
    }
    sleep(AFTERMATH).await;
    plane.audit_mark().await?;
    let requests = Requests::count(&plane.audit_log()?.since(mark)?);
    Ok(Submission {
        runs,
        machines: pool.size(),
        source: pool.machines(),
        submitted,
        first: seen.first().copied().unwrap_or_default(),
        median: seen.get(runs / 2).copied().unwrap_or_default(),
        last: seen.last().copied().unwrap_or_default(),
        usage,
        peak_memory: operator.process().peak_rss()?,
        requests,
    })
}
