//! `make bench`: how long many runs take from submission to running, and what that costs; and how the rest grows. Prints;
//! judges nothing.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use trainyard_e2e::bench::disaster::{self, Accident};
use trainyard_e2e::bench::pool::{Machines, Pool};
use trainyard_e2e::bench::{flow, loss, print, queue, submission};
use trainyard_e2e::controlplane::{Component, ControlPlane, Options};
use trainyard_e2e::installation::{Operator, install};

/// The operator's log as it is set by default: what it writes down is part of what it costs.
const OPERATOR_ARGUMENTS: [&str; 2] = ["--log-level", "info"];

/// Measures trainyard on a local control plane.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// From submission to running, on machines that wait; and a run that loses its machine.
    Starts(Starts),
    /// Many machines lost at once under running gangs.
    Losses {
        /// Machines.
        #[arg(long, default_value_t = 50)]
        machines: usize,
        /// How often each kind of loss is measured.
        #[arg(long, default_value_t = 3)]
        repeat: usize,
    },
    /// Many short runs through one Cluster, from nothing and back.
    Flow {
        /// Runs.
        #[arg(long, default_value_t = 5000)]
        runs: usize,
        /// The Cluster's maximum.
        #[arg(long, default_value_t = 1000)]
        machines: usize,
    },
    /// How fast runs are started from a short and from a long queue.
    Queue {
        /// Runs that wait; may be given several times.
        #[arg(long, default_values_t = [100, 20_000])]
        queued: Vec<usize>,
    },
}

#[derive(Args)]
struct Starts {
    /// Runs submitted at once; may be given several times.
    #[arg(long, default_values_t = [50, 500])]
    runs: Vec<usize>,
    /// How many of them share a machine; 1 gives each its own.
    #[arg(long, default_value_t = 1)]
    runs_per_machine: usize,
    /// Where the machines come from. Those that are lent need no Karpenter, so none is started.
    #[arg(long, value_enum, default_value_t = Machines::Made)]
    machines: Machines,
    /// How often each of them is measured.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// How often a Node is deleted under a run; 0 leaves it out. Not of machines that are lent: nobody makes another.
    #[arg(long, default_value_t = 10)]
    losses: usize,
    /// Print every kind of request.
    #[arg(long)]
    details: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let of_starts = ["bench", "starts"].map(ToOwned::to_owned);
    let what = match Arguments::parse().what {
        Some(what) => what,
        None => Arguments::parse_from(of_starts).what.context("`starts` is one of what can be measured")?,
    };
    match what {
        What::Starts(asked) => {
            for (index, runs) in asked.runs.iter().enumerate() {
                let losses = if index == 0 && asked.machines == Machines::Made { asked.losses } else { 0 };
                starts(&asked, *runs, losses).await?;
            }
        }
        What::Losses { machines, repeat } => {
            for (accident, kind) in [(Accident::Deleted, "deleted"), (Accident::Silent, "silent")] {
                let mut all = Vec::new();
                for number in 1..=repeat {
                    eprintln!("{machines} machines {kind}, {number} of {repeat}");
                    let (plane, _operator) = installed(Options::default()).await?;
                    all.push(disaster::measure(&plane.client().await?, machines, accident).await?);
                }
                println!("{}", print::disaster(kind, machines, &all));
            }
        }
        What::Flow { runs, machines } => {
            let (plane, operator) = installed(Options::default()).await?;
            let taken = flow::measure(&plane, &operator, runs, machines).await?;
            println!("{}", print::flow(runs, machines, &taken));
        }
        What::Queue { queued } => {
            let mut all = Vec::new();
            for queued in queued {
                eprintln!("{queued} runs in one queue");
                let (plane, operator) = installed(Options::default()).await?;
                all.push(queue::measure(&plane, &operator, queued).await?);
            }
            println!("{}", print::rates(&all));
        }
    }
    Ok(())
}

/// Every measurement has a control plane of its own: none pays for what another left behind.
async fn installed(options: Options) -> Result<(ControlPlane, Operator)> {
    let plane = ControlPlane::start(options).await?;
    install(&plane).await?;
    let operator = Operator::start_with(&plane, 0, &OPERATOR_ARGUMENTS).await?;
    Ok((plane, operator))
}

async fn starts(asked: &Starts, runs: usize, losses: usize) -> Result<()> {
    let Starts { runs_per_machine, machines, repeat, details, .. } = *asked;
    let options = match machines {
        Machines::Made => Options::default(),
        Machines::Lent => Options::default().without(Component::Karpenter),
    };
    let (plane, mut operator) = installed(options).await?;
    let size = runs.div_ceil(runs_per_machine);
    eprintln!("{size} machines");
    let pool = Pool::fill(plane.client().await?, machines, size, runs_per_machine).await?;
    let mut taken = Vec::new();
    for number in 1..=repeat {
        // A new process, whose memory and processor time are those of this measurement.
        drop(operator);
        operator = Operator::start_with(&plane, 0, &OPERATOR_ARGUMENTS).await?;
        pool.wait_until_idle().await?;
        eprintln!("{runs} runs, {number} of {repeat}");
        let one = submission::measure(&plane, &operator, &pool, &format!("r{number}")).await?;
        // At once: what follows takes longer than the measurement, and may fail.
        eprintln!("{}", print::submissions(std::slice::from_ref(&one), false));
        taken.push(one);
        pool.empty().await?;
    }
    println!("{}", print::submissions(&taken, details));

    let mut lost = Vec::new();
    for number in 1..=losses {
        eprintln!("lost machine {number} of {losses}");
        lost.push(loss::measure(&pool, &format!("lost-{number}")).await?);
        pool.empty().await?;
    }
    if !lost.is_empty() {
        println!("{}", print::losses(&lost));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    /// What asks for it on the page and in the Makefile.
    #[test]
    fn what_the_page_shows_is_understood() {
        let root = trainyard_e2e::installation::checkout();
        let mut shown = 0;
        for path in ["docs/benchmarks.md", "Makefile"] {
            let text = std::fs::read_to_string(root.join(path)).unwrap();
            for line in text.lines().map(str::trim).filter(|line| line.starts_with("target/release/bench")) {
                let words = line.split('#').next().unwrap_or_default().split_whitespace();
                match Arguments::try_parse_from(words) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{path}: {line}: {error}"),
                }
                shown += 1;
            }
        }
        assert!(shown >= 8, "{shown} are shown");
    }
}
