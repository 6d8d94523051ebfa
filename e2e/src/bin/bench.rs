//! `make bench`: how long many runs take from submission to running, and what that costs. Prints; judges nothing.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

use anyhow::Result;
use clap::Parser;
use trainyard_e2e::bench::pool::Pool;
use trainyard_e2e::bench::{loss, print, submission};
use trainyard_e2e::controlplane::{ControlPlane, Options};
use trainyard_e2e::installation::{Operator, install};

/// The operator's log as it is set by default: what it writes down is part of what it costs.
const OPERATOR_ARGUMENTS: [&str; 2] = ["--log-level", "info"];

/// Measures trainyard on a local control plane.
#[derive(Parser)]
struct Arguments {
    /// Runs submitted at once, each on a machine of its own; may be given several times.
    #[arg(long, default_values_t = [50, 500])]
    runs: Vec<usize>,
    /// How often each of them is measured.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// How often a Node is deleted under a run; 0 leaves it out.
    #[arg(long, default_value_t = 10)]
    losses: usize,
    /// Print every kind of request.
    #[arg(long)]
    details: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { runs, repeat, losses, details } = Arguments::parse();
    for (index, runs) in runs.into_iter().enumerate() {
        let losses = if index == 0 { losses } else { 0 };
        measure(runs, repeat, losses, details).await?;
    }
    Ok(())
}

/// Every number of runs has a control plane of its own: none pays for what another left behind.
async fn measure(runs: usize, repeat: usize, losses: usize, details: bool) -> Result<()> {
    let plane = ControlPlane::start(Options::default()).await?;
    install(&plane).await?;
    let mut operator = Operator::start_with(&plane, 0, &OPERATOR_ARGUMENTS).await?;
    eprintln!("making {runs} machines");
    let pool = Pool::fill(plane.client().await?, runs).await?;
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
