//! `kubectl trainyard why RUN|CLUSTER|NODE`: the whole chain of reasons, from a live read, and what can be done.
//!
//! In: a name, and an API server or files. Out: sentences. What a run or node waits for is decided by
//! `trainyard_planner::plan` on the snapshot that `trainyard_model` assembles, as the operator does it; what has happened is
//! read from status. With less than the rights that takes, what the operator last wrote is told, and what is not known.

mod advice;
mod attempts;
mod cluster;
mod node;
mod pool;
mod run;

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use trainyard_api::ClusterNode;
use trainyard_api::run_status::RunPhase;

use crate::answer::Answer;
use crate::connection::{self, Connection};
use crate::find::{self, Subject};
use crate::live::{Objects, Reader};
use crate::manifest;
use crate::plan::{Output, wall_clock};
use crate::target::Target;
use crate::world::{self, Origin, Pool, key_of_object, owning_cluster, wanted_cluster};

/// Say why a run waits, failed or runs; why a cluster is not as asked; why a node is there, or goes.
///
/// The answer is computed from what the API server has at this moment: places in the queue are exact. It needs the right to
/// see Clusters, ClusterNodes and Runs in the namespace (the role view); what may not be read is said.
///
///   kubectl trainyard why mnist
///
///   kubectl trainyard why cluster/nc6 -n ml
///
///   kubectl get clusters.trainyard.dev,clusternodes,runs,tyvm,typc -n ml -o yaml | kubectl trainyard why run/mnist -n ml -f -
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Why {
    /// A name, as mnist, run/mnist, cluster/nc6, node/nc6-3f9a1c-4 or two words: run mnist.
    #[arg(value_name = "RUN|CLUSTER|NODE", required = true, num_args = 1..=2)]
    target: Vec<String>,

    #[command(flatten)]
    connection: Connection,

    /// A file, a folder of files, or - for standard input, that kubectl get -o yaml exported, instead of a cluster.
    #[arg(short, long, value_name = "FILES", conflicts_with_all = ["context", "kubeconfig"])]
    filename: Vec<PathBuf>,

    /// The time to answer at, such as 2030-01-01T12:00:00Z; only with files.
    #[arg(long, value_name = "TIMESTAMP", requires = "filename")]
    now: Option<Timestamp>,

    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Why {
    /// The answer, to be printed.
    pub fn run(self) -> anyhow::Result<String> {
        let Self { target, connection, filename, now, output } = self;
        let target = Target::parse(&target)?;
        let now = now.unwrap_or_else(wall_clock);
        let answer = if filename.is_empty() {
            connection::wait(async {
                let (client, namespace) = connection.connect().await?;
                ask(Reader::new(client), &namespace, &target, now).await
            })?
        } else {
            let namespace = connection.namespace.as_deref().unwrap_or("default");
            let manifest = manifest::read(&filename, namespace)?;
            let subject = find::in_files(&manifest, namespace, &target)?;
            let origin = Origin::of_export(&manifest);
            explain(&subject, Some(Objects { manifest, origin, is_whole: true }), now)?
        };
        match output {
            Output::Text => Ok(answer.text()),
            Output::Json => answer.json(),
        }
    }
}

/// Asks a cluster.
async fn ask(mut reader: Reader, namespace: &str, target: &Target, now: Timestamp) -> anyhow::Result<Answer> {
    let subject = find::in_cluster(&reader, namespace, target).await?;
    let objects = match key(&subject) {
        Some(key) => {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            Some(reader.of_cluster(namespace, name).await?)
        }
        None => None,
    };
    let mut answer = explain(&subject, objects, now)?;
    answer.not_known.append(&mut reader.not_known);
    if let Subject::PastNode(past) = &subject {
        let events = reader.namespaced::<Event>(namespace);
        let told = reader.list(&events, &format!("regarding.name={}", past.name)).await?;
        node::tell_events(&mut answer, told);
    }
    Ok(answer)
}

/// The Cluster that must be known to explain it, as `<namespace>/<name>`.
fn key(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Run(run) => {
            let phase = run.status.as_ref().and_then(|status| status.phase);
            (!phase.is_some_and(RunPhase::is_terminal)).then(|| wanted_cluster(run))
        }
        Subject::Cluster(cluster) => Some(key_of_object(&cluster.metadata)),
        Subject::Node(node) => Some(owning_cluster(node)),
        Subject::PastNode(_) => None,
    }
}

/// What the explanation is made from, once the plan is known.
struct Known<'a> {
    now: Timestamp,
    /// The Clusters of the name, decided for: past ones, and the present one.
    pools: &'a [Pool],
    /// The ClusterNodes of that name's Clusters, as they are on the wire.
    nodes: &'a [ClusterNode],
}

impl Known<'_> {
    /// The Cluster that is there.
    fn present(&self) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.cluster.is_some())
    }

    fn node(&self, name: &str) -> Option<&ClusterNode> {
        self.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name))
    }
}

fn explain(subject: &Subject, objects: Option<Objects>, now: Timestamp) -> anyhow::Result<Answer> {
    let key = key(subject);
    let decided = match objects.filter(|objects| objects.is_whole) {
        Some(Objects { manifest, origin, .. }) => {
            let nodes: Vec<ClusterNode> =
                manifest.nodes.iter().filter(|node| Some(owning_cluster(node)) == key).cloned().collect();
            Some((world::complete(manifest, now, origin, key.as_deref())?, nodes))
        }
        None => None,
    };
    let known =
        decided.as_ref().map(|(world, nodes)| Known { now, pools: &world.pools, nodes: nodes.as_slice() });
    Ok(match subject {
        Subject::Run(run) => run::explain(run, known.as_ref(), now),
        Subject::Cluster(cluster) => cluster::explain(cluster, known.as_ref(), now),
        Subject::Node(node) => node::explain(node, known.as_ref(), now),
        Subject::PastNode(past) => node::past(past, now),
    })
}

#[cfg(test)]
mod tests;
