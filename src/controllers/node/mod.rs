//! The node controller: gives ClusterNodes their machines, tells what is seen of them, destroys what was released.
//!
//! Keyed by Cluster UID. In: ClusterNodes (their spec is the cluster controller's), what the engines observe, DaemonSets,
//! and pods of others, listed when that may say something new ([`strangers`]).
//! Out: machines, through a [`Provisioner`](crate::provisioner::Provisioner), and the status of ClusterNodes. It reads
//! no Run and no ProvisioningClass, and of a Cluster only `maxNodes`, live, before a launch.
//!
//! One reconcile is four calls: [`observe`], [`decide`], [`execute`], [`report`].
//!
//! It must never: write a ClusterNode's spec or metadata; decide that a node is wanted or idle; destroy a machine whose
//! ClusterNode is not released, or one with a live pod of ours on it unless the machine is lost.

mod admit;
pub mod decide;
mod error;
mod execute;
mod memory;
mod observe;
mod report;
mod strangers;

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client, core::DeserializeGuard};
use tokio_util::sync::CancellationToken;
use trainyard_api::ClusterNode;
use trainyard_model::node::daemons::Daemon;

pub use self::error::Error;
use self::memory::Memory;
use crate::{
    clock::SharedClock,
    kubernetes::{
        cache::Cache,
        events::Events,
        watch::Watch,
        workqueue::{Outcome, Queue},
    },
    provisioner::{self, Engines, Starting, Woken},
    tasks::{Fault, Tasks},
    telemetry::{
        metrics::{ControllerName, Metrics},
        readiness::Readiness,
    },
};

/// How often that is looked for; no request is made.
const LOOK_FOR_CACHES: Duration = Duration::from_millis(20);
/// When to look again at an engine that cannot be read; no request is made.
const ENGINE_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// What the controller is keyed by: the UID of a Cluster, which may be gone while machines of it are left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterUid(pub String);

impl fmt::Display for ClusterUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the controller is started with.
pub struct Setup<'a> {
    /// Where requests go.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// The engines; their watches are started here.
    pub engines: Engines,
    /// Where people are told.
    pub events: Events,
    /// Where watches run.
    pub tasks: &'a mut Tasks,
    /// What waits for their first lists.
    pub readiness: &'a Readiness,
    /// Where all is counted.
    pub metrics: &'a Metrics,
    /// Clusters worked on at a time. A reconcile waits on the API server, not on the processor.
    pub concurrency: usize,
}

/// The controller, its watches started.
pub struct NodeController {
    client: Client,
    clock: SharedClock,
    engines: Engines,
    events: Events,
    nodes: Cache<ClusterNode>,
    daemons: Cache<Daemon>,
    queue: Queue<ClusterUid>,
    memory: Memory,
}

impl NodeController {
    /// Starts the watches. Any replica may; only the leader calls [`NodeController::run`].
    pub fn start(setup: Setup<'_>) -> Arc<Self> {
        let Setup { client, clock, engines, events, tasks, readiness, metrics, concurrency } = setup;
        let queue = Queue::new(ControllerName::Node, Arc::clone(&clock), concurrency, metrics.clone());

        let (trigger, told) = (queue.clone(), engines.clone());
        let nodes =
            Watch::guarded("node-clusternodes", Api::<DeserializeGuard<ClusterNode>>::all(client.clone()))
                .whole()
                .index(|node| Some(node.spec.cluster.uid.clone()))
                .notify(move |change| {
                    told.cluster_node_changed(change.before.as_deref(), change.after.as_deref());
                    change
                        .sides()
                        .for_each(|node| trigger.trigger(ClusterUid(node.spec.cluster.uid.clone())));
                })
                .start(tasks, readiness, metrics);

        let (trigger, all) = (queue.clone(), nodes.clone());
        let daemons = Watch::new("node-daemonsets", Api::<DaemonSet>::all(client.clone()))
            .reduce(|set| Daemon::of(&set))
            .notify(move |_| {
                let clusters: BTreeSet<_> =
                    all.all().iter().map(|node| ClusterUid(node.spec.cluster.uid.clone())).collect();
                for cluster in clusters {
                    trigger.trigger(cluster);
                }
            })
            .start(tasks, readiness, metrics);

        let (trigger, all) = (queue.clone(), nodes.clone());
        let wake = Arc::new(move |woken: Woken<'_>| match woken {
            Woken::Pool(uid) => trigger.trigger(ClusterUid(uid.to_owned())),
            Woken::Machine(name) => all
                .filter(|node| node.metadata.name.as_deref() == Some(name))
                .iter()
                .for_each(|node| trigger.trigger(ClusterUid(node.spec.cluster.uid.clone()))),
        });
        engines.watches(&mut Starting { tasks, metrics, wake, cluster_nodes: &nodes });

        Arc::new(Self { client, clock, engines, events, nodes, daemons, queue, memory: Memory::default() })
    }

    /// Works until the token is cancelled.
    pub async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), Fault> {
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = self.caches_filled() => {}
        }
        let queue = self.queue.clone();
        queue
            .run(token, move |cluster| {
                let controller = Arc::clone(&self);
                async move { controller.reconcile(&cluster).await }
            })
            .await
    }

    /// Without its caches the controller would take every machine for a stray, and ask live about each.
    async fn caches_filled(&self) {
        self.engines.filled().await;
        while !(self.nodes.is_initialised() && self.daemons.is_initialised()) {
            tokio::time::sleep(LOOK_FOR_CACHES).await;
        }
    }

    /// One look at one Cluster's machines, and what follows from it.
    pub async fn reconcile(&self, cluster: &ClusterUid) -> Result<Outcome, Error> {
        let (mut observation, mut memory) = match observe::observe(self, cluster).await {
            Ok(observed) => observed,
            Err(Error::Engine(provisioner::Error::Unavailable { engine, message })) => {
                tracing::debug!(engine, message, "an engine cannot be read yet");
                return Ok(Outcome::wake_at(self.clock.now() + ENGINE_AGAIN));
            }
            Err(error) => return Err(error),
        };
        let decision = decide::decide(&observation, self.clock.now());
        let done = execute::execute(self, &mut observation, &mut memory, &decision).await;
        let reported = report::report(self, &observation, &mut memory, done).await;
        self.memory.keep(cluster, memory);
        let mut outcome = reported?;
        if observation.is_blind {
            let again = self.clock.now() + ENGINE_AGAIN;
            outcome.wake_at = Some(outcome.wake_at.map_or(again, |earlier| earlier.min(again)));
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests;
