//! `kubectl trainyard`: what people ask about trainyard at a terminal.
//!
//! One file or folder per subcommand; what several share is in modules beside them. Nothing here decides anything: answers
//! come from the crates the operator decides with. Nothing here writes.
//!
//! * [`plan`]: what would be decided for files; asks no cluster.
//! * [`why`]: why a run waits or failed, a cluster is not as asked, a node is there.
//! * [`queue`]: the queue of a cluster, in exact order.
//!
//! * [`target`] and [`find`]: from what was typed to the object that is meant.
//! * [`connection`] and [`live`]: reads, with the rights of whoever asks.
//! * [`manifest`]: the same from files.
//! * [`world`]: from objects to the plan of each Cluster.
//! * [`answer`], [`sentences`], [`words`]: how it is said.

mod answer;
mod connection;
mod find;
mod live;
mod manifest;
mod plan;
mod queue;
mod sentences;
mod target;
mod why;
mod words;
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
    Why(why::Why),
    Queue(queue::Queue),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let told = match command {
        Command::Plan(plan) => plan.run(),
        Command::Why(why) => why.run(),
        Command::Queue(queue) => queue.run(),
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
