//! `kubectl trainyard`: what people ask about trainyard at a terminal.
//!
//! One file per subcommand; what several share is in a folder beside them. Nothing here decides anything: answers come
//! from the crates the operator decides with. [`plan`] needs no cluster and asks none.

mod manifest;
mod plan;
mod world;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Elastic pools of training machines on Kubernetes: Cluster, Experiment and Run.
#[derive(Debug, Parser)]
#[command(name = "kubectl trainyard", bin_name = "kubectl trainyard", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Plan(plan::Plan),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let told = match command {
        Command::Plan(plan) => plan.run(),
    };
    match told.and_then(|text| Ok(std::io::stdout().write_all(text.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when this fails, too.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
