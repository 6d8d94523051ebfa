//! What processes used between two readings, and how busy the machine was with anything else.

use std::fs;

use anyhow::{Context, Result};
use tokio::time::Instant;

use crate::controlplane::{ControlPlane, Process};

/// A reading.
pub struct Meter {
    since: Instant,
    used: Vec<(&'static str, f64)>,
    busy: f64,
}

/// What was used since a reading, in processor seconds.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The operator.
    pub operator: f64,
    /// The API server.
    pub api_server: f64,
    /// Everything that was measured, by name: the operator, the control plane, this program.
    pub by_process: Vec<(&'static str, f64)>,
    /// Everything else on the machine, as a share of its processors: 0 is a quiet machine.
    pub others: f64,
    /// Processes that ran or waited for a processor at the end, averaged over a minute.
    pub load: f64,
}

const OPERATOR: &str = "operator";
const API_SERVER: &str = "kube-apiserver";

impl Meter {
    /// Reads the meters.
    pub fn read(plane: &ControlPlane, operator: &Process) -> Result<Self> {
        let mut used = vec![(OPERATOR, operator.cpu_seconds()?)];
        for component in plane.components()? {
            used.push((component.program(), plane.cpu_seconds(component)?));
        }
        used.push(("bench", own_seconds()?));
        Ok(Self { since: Instant::now(), used, busy: busy_seconds()? })
    }

    /// What was used since.
    pub fn usage(&self, plane: &ControlPlane, operator: &Process) -> Result<Usage> {
        let now = Self::read(plane, operator)?;
        let by_process: Vec<(&'static str, f64)> = now
            .used
            .iter()
            .zip(&self.used)
            .map(|((name, after), (_, before))| (*name, after - before))
            .collect();
        let of = |name: &str| by_process.iter().find(|(one, _)| *one == name).map_or(0.0, |(_, used)| *used);
        let ours: f64 = by_process.iter().map(|(_, used)| used).sum();
        let there_was = self.since.elapsed().as_secs_f64() * processors();
        Ok(Usage {
            operator: of(OPERATOR),
            api_server: of(API_SERVER),
            others: ((now.busy - self.busy - ours) / there_was).max(0.0),
            load: load()?,
            by_process,
        })
    }
}

/// How many processors the machine has.
pub fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

/// Processor time of the whole machine, idle and waiting for disks not counted.
fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already.
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    let busy: f64 =
        ticks.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, t)| t).sum();
    Ok(busy / rustix::param::clock_ticks_per_second() as f64)
}

fn own_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    text.split(' ').next().and_then(|first| first.parse().ok()).context("/proc/loadavg has no number")
}
