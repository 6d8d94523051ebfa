//! `kubectl trainyard plan -f FILES`: what would be decided for these objects, and why. Offline.
//!
//! In: files, and the time. Out: for each Cluster its size and class, what would be done now, what every run and node
//! waits for, and when trainyard would look again. The decision is `trainyard_planner::plan` on the snapshot that
//! `trainyard_model` assembles: the operator's own code. What only a cluster can tell is assumed, and each assumption is
//! printed.

mod json;
mod text;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use crate::manifest;
use crate::world::{self, Origin};

/// Show what would be decided for the objects in files, and why, without a cluster.
///
/// Reads Clusters, Runs, ClusterNodes, ProvisioningClasses and VmSizes, as you write them or as `kubectl get -o yaml`
/// prints them. The VmSizes that come with trainyard need not be given. Only what a file says is known: whether the
/// engine's own objects are ready, and whether the API server takes a Run's pods, is assumed.
///
///   kubectl trainyard plan -f cluster.yaml -f run.yaml
///
///   kubectl get clusters.trainyard.dev,clusternodes,runs,typc,tyvm -o yaml | kubectl trainyard plan -f -
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Plan {
    /// A file, a folder of files, or - for standard input. May be given several times.
    #[arg(short, long = "filename", value_name = "FILES", required = true, num_args = 1..)]
    filename: Vec<PathBuf>,

    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,

    /// The time to decide at, such as 2030-01-01T12:00:00Z; by default now.
    #[arg(long, value_name = "TIMESTAMP")]
    now: Option<Timestamp>,

    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Plan {
    /// The answer, to be printed.
    pub fn run(self) -> anyhow::Result<String> {
        let Self { filename, namespace, now, output } = self;
        let now = now.unwrap_or_else(wall_clock);
        let manifest = manifest::read(&filename, &namespace)?;
        let world = world::complete(manifest, now, Origin::Files, None)?;
        match output {
            Output::Text => Ok(text::answer(&world)),
            Output::Json => json::answer(&world),
        }
    }
}

#[allow(clippy::disallowed_methods)] // A command that ends at once has no clock to be passed; tests give --now.
/// The time.
pub fn wall_clock() -> Timestamp {
    Timestamp::now()
}
