//! What a story expects: waits with a limit, whose errors show what the namespace holds.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams};
use tokio::time::Instant;
use trainyard_api::cluster::Cluster;
use trainyard_api::cluster_node::ClusterNode;
use trainyard_api::conditions::{self, ClusterCondition, ConditionStatus};
use trainyard_api::run::Run;
use trainyard_api::run_status::{AttemptTotals, RunPhase, RunStatus};

use super::world::Story;
use crate::controlplane::eventually;

/// How long anything may take. Most takes a second or two; this is for machines that are busy with other things.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// What lasts for less is not seen where something is to stay as it is; a machine comes or goes in seconds.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

impl Story {
    /// Waits until `probe` is satisfied.
    pub async fn expect<T, F, Fut>(&self, what: &str, probe: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        match eventually(what, PATIENCE, probe).await {
            Ok(value) => Ok(value),
            Err(error) => bail!("{error:#}\n{}", self.inventory().await),
        }
    }

    /// Looks for so long, all the time, and fails at the first look that does not satisfy `probe`.
    pub async fn stays_so<F, Fut>(&self, what: &str, time: Duration, mut probe: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let begun = Instant::now();
        while begun.elapsed() < time {
            if let Err(error) = probe().await {
                let after = begun.elapsed().as_secs_f64();
                bail!("{what} was to stay so, and after {after:.1} s: {error:#}\n{}", self.inventory().await);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(())
    }

    /// Waits until the Run is in that phase.
    pub async fn run_comes_to(&self, name: &str, phase: RunPhase) -> Result<Run> {
        let what = format!("to come to {phase}");
        let arrived = |status: &RunStatus| {
            status.phase == Some(phase) || status.phase.is_some_and(RunPhase::is_terminal)
        };
        let run = self.run_shows(name, &what, arrived).await?;
        let found = run.status.clone().unwrap_or_default();
        if found.phase != Some(phase) {
            bail!("Run {name} was to come to {phase} and is {:?}\n{}", found, self.inventory().await);
        }
        Ok(run)
    }

    /// Waits until the Run's status is as wanted.
    pub async fn run_shows(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> Result<Run> {
        self.expect(&format!("Run {name} {what}"), || async {
            let run = self.runs().get(name).await?;
            let status = run.status.clone().unwrap_or_default();
            ensure!(
                wanted(&status),
                "phase {:?}, reason {:?}: {:?}",
                status.phase,
                status.reason,
                status.message
            );
            Ok(run)
        })
        .await
    }

    /// Waits until the Cluster is as wanted.
    pub async fn cluster_shows(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Cluster) -> bool,
    ) -> Result<Cluster> {
        self.expect(&format!("Cluster {name} {what}"), || async {
            let cluster = self.clusters().get(name).await?;
            ensure!(wanted(&cluster), "{:?}", cluster.status);
            Ok(cluster)
        })
        .await
    }

    /// Waits until the Cluster is Ready with that many nodes, all of them usable, and no machine is left besides.
    pub async fn cluster_rests_with(&self, name: &str, nodes: i32) -> Result<Cluster> {
        let cluster = self
            .cluster_shows(name, &format!("to rest with {nodes} nodes"), |cluster| {
                let status = cluster.status.clone().unwrap_or_default();
                ready(cluster) == ConditionStatus::True
                    && status.current_node_count == nodes
                    && status.node_state_counts.idle + status.node_state_counts.running == nodes
            })
            .await?;
        self.expect(&format!("{nodes} machines of Cluster {name}"), || async {
            let there = self.nodes_of(name).await?.len();
            ensure!(there == nodes as usize, "{there} ClusterNodes");
            Ok(())
        })
        .await?;
        Ok(cluster)
    }

    /// Waits until no machine of this namespace's Clusters is left.
    pub async fn no_machine_is_left(&self) -> Result<()> {
        self.expect("no machine to be left", || async {
            let there = self.machines().await?.len();
            ensure!(there == 0, "{there} are");
            Ok(())
        })
        .await
    }

    /// The `ClusterNodes` of a Cluster.
    pub async fn nodes_of(&self, cluster: &str) -> Result<Vec<ClusterNode>> {
        let mut nodes = self.cluster_nodes().list(&ListParams::default()).await?.items;
        nodes.retain(|node| node.spec.cluster.name == cluster);
        nodes.sort_by_key(|node| node.spec.ordinal);
        Ok(nodes)
    }

    /// How many nodes are promised to a Run.
    pub async fn nodes_claimed_by(&self, run: &str) -> Result<usize> {
        let nodes = self.cluster_nodes().list(&ListParams::default()).await?.items;
        Ok(nodes.iter().filter(|node| node.spec.claims.iter().any(|claim| claim.run_name == run)).count())
    }

    /// Waits until the Run object is gone, with its pods.
    pub async fn run_is_gone(&self, name: &str) -> Result<()> {
        self.expect(&format!("Run {name} to be gone"), || async {
            ensure!(self.runs().get_opt(name).await?.is_none(), "it is there");
            let pods = self.pods_of(name).await?;
            ensure!(pods.is_empty(), "pods are left: {pods:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the Cluster object is gone.
    pub async fn cluster_is_gone(&self, name: &str) -> Result<()> {
        self.expect(&format!("Cluster {name} to be gone"), || async {
            ensure!(self.clusters().get_opt(name).await?.is_none(), "it is there");
            Ok(())
        })
        .await
    }

    /// Waits until the namespace is gone.
    pub async fn namespace_is_gone(&self) -> Result<()> {
        self.expect(&format!("namespace {} to be gone", self.namespace), || async {
            let found = Api::<Namespace>::all(self.client.clone()).get_opt(&self.namespace).await?;
            match found {
                None => Ok(()),
                Some(namespace) => bail!("{:?}", namespace.status.and_then(|status| status.conditions)),
            }
        })
        .await
    }
}

/// The `Ready` condition of a Cluster.
pub fn ready(cluster: &Cluster) -> ConditionStatus {
    let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(conditions, ClusterCondition::Ready)
        .map_or(ConditionStatus::Unknown, |found| found.status)
}

/// What of its two budgets a Run has used: user, infrastructure.
pub fn budgets(run: &Run) -> (i32, i32) {
    let totals = run.status.as_ref().and_then(|status| status.totals.clone()).unwrap_or_default();
    let AttemptTotals { attempts: _, user_failures, infrastructure_failures, running_seconds: _ } = totals;
    (user_failures, infrastructure_failures)
}

/// When the latest attempt of a Run began to run.
pub fn started(run: &Run) -> Result<jiff::Timestamp> {
    let time = run.status.as_ref().and_then(|status| status.start_time.clone());
    time.map(|time| time.0).ok_or_else(|| anyhow!("the Run has not started"))
}

/// The names of the Nodes of a Run's latest attempt.
pub fn placed_on(run: &Run) -> Vec<String> {
    let allocation = run.status.as_ref().and_then(|status| status.allocation.clone()).unwrap_or_default();
    allocation.nodes.into_iter().map(|node| node.node_name).collect()
}
