//! Takes a Node, and gives one back: live reads, and writes on the version that was read.
//!
//! A Node is taken by two writes. The first puts labels and taint on it, so that no other Cluster takes it and no other pod is
//! bound to it, and a mark that it is not anybody's machine yet. Then it is looked at once more, and the second one takes off the
//! mark, or everything. Whoever finds the mark, after a crash or an error in between, goes on from there: so no Node is ever
//! used that was not looked at after it had its taint. And because that write changes the version, a process that
//! slept meanwhile cannot give back what another one has kept.

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt as _};
use trainyard_api::{
    ClusterNode,
    cluster_node::ClusterNodeSpec,
    names::{FieldManager, node_labels},
};
use trainyard_model::node::{
    found::{self, Candidate, Fitness},
    pods::{self, PodId},
    seen::{Machine, NodeFacts, Owner, Progress},
};

use super::{CONCURRENCY, Static, Survey, ledger::is_selected, marks};
use crate::{
    kubernetes::{
        self, ErrorKind,
        apply::{self, Seen},
        read::{self, Selection},
    },
    provisioner::{Doomed, Drain, Error, Launched, Pool, Release, ReleaseOutcome, Released, best_of},
};

/// How often a Node is read again that changed between the read and the write: its kubelet writes every few minutes, so
/// that the second time it is another Cluster.
const TRIES: usize = 3;

/// What came of trying to take one Node.
enum Attempt {
    /// The UID of the Node.
    Taken(String),
    PassedOver,
}

/// When a Node was taken that has not been kept yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// By this call.
    Now,
    /// By a process that has died, or an earlier call that has failed.
    Before,
}

fn changed(node: &ClusterNode) -> Error {
    let target = format!("the machine of ClusterNode {}", node.name_any());
    kubernetes::Error::Changed { verb: kubernetes::error::Verb::Patch, target }.into()
}

impl Static {
    /// The machines that were taken for this ClusterNode, live: one, unless two processes were at it.
    pub(super) async fn taken_for(&self, node: &ClusterNode) -> Result<Vec<Machine>, Error> {
        let uid = node.uid().unwrap_or_default();
        let of_it = Selection::all().labels(format!("{}={uid}", node_labels::CLUSTER_NODE_UID));
        let nodes = read::list(&self.api(), &of_it).await?;
        Ok(nodes.iter().filter_map(NodeFacts::of).filter_map(|node| marks::machine(&node)).collect())
    }

    /// Takes a Node for this ClusterNode, unless one was taken before.
    pub(super) async fn take(&self, pool: &Pool, node: &ClusterNode) -> Result<Launched, Error> {
        if let Some(machine_uid) = self.take_up(node).await? {
            self.ledger.took(pool, &machine_uid, self.clock.now());
            return Ok(Launched::Requested { machine_uid });
        }
        let survey = self.survey_in_turn(pool, &node.spec)?;
        let fit = survey.fit();
        // The last ones are left to those for whom they were set aside; which ones these are is all the same.
        let ours = fit.len().saturating_sub(usize::try_from(survey.reserved()).unwrap_or(0));
        let mut tried = 0;
        for candidate in &fit {
            if tried == ours {
                break;
            }
            match self.try_to_take(&candidate.node.name, node).await? {
                Attempt::Taken(machine_uid) => {
                    self.ledger.took(pool, &machine_uid, self.clock.now());
                    return Ok(Launched::Requested { machine_uid });
                }
                Attempt::PassedOver => tried += 1,
            }
        }
        Ok(Launched::NoneLeft {
            message: self.survey(pool, &node.spec)?.supply(pool, &node.spec).counted.message,
        })
    }

    async fn try_to_take(&self, name: &str, node: &ClusterNode) -> Result<Attempt, Error> {
        for _ in 0..TRIES {
            let Some(live) = read::get(&self.api(), name).await? else { return Ok(Attempt::PassedOver) };
            let Some(candidate) = Candidate::of(&live) else { return Ok(Attempt::PassedOver) };
            if let Some(why) = unfit(&node.spec, &candidate) {
                self.ledger.was_seen(&candidate.node.uid, why, self.clock.now());
                return Ok(Attempt::PassedOver);
            }
            if self.has_stranger(&candidate).await? {
                return Ok(Attempt::PassedOver);
            }
            let fields = marks::taken(&live, node);
            let manager = FieldManager::Machine.as_str();
            match apply::merge(&self.api(), &Seen::of(&live)?, manager, &fields).await {
                Ok(taken) => return self.settle(taken, node, Found::Now).await,
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Forbidden) => {
                    let said = error.server_message().map_or_else(|| error.chain(), str::to_owned);
                    let why = format!("cannot be written to: {said}");
                    self.ledger.cannot_be_written(&candidate.node.uid, why, self.clock.now());
                    return Ok(Attempt::PassedOver);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Attempt::PassedOver)
    }

    /// The Node that was taken for this ClusterNode before, by whichever process.
    async fn take_up(&self, node: &ClusterNode) -> Result<Option<String>, Error> {
        let mut machines = self.taken_for(node).await?;
        while let Some(Machine { uid, name, progress, .. }) = best_of(&machines, node).cloned() {
            if progress == Progress::Registered {
                return Ok(Some(uid));
            }
            if let Some(live) = read::get(&self.api(), &name).await?
                && let Attempt::Taken(uid) = self.settle(live, node, Found::Before).await?
            {
                return Ok(Some(uid));
            }
            machines.retain(|machine| machine.uid != uid);
        }
        Ok(None)
    }

    /// Looks once more at a Node that was taken, and keeps it or gives it back. A pod may have been bound before the taint was
    /// there, and another process may have taken a Node for the same ClusterNode.
    async fn settle(&self, mut taken: Node, node: &ClusterNode, found: Found) -> Result<Attempt, Error> {
        for _ in 0..TRIES {
            let Some(candidate) = Candidate::of(&taken) else { return Ok(Attempt::PassedOver) };
            let uid = candidate.node.uid.clone();
            if Owner::of(taken.labels()).is_none_or(|owner| Some(owner.uid) != node.uid()) {
                // Another process has found something on it.
                return Ok(Attempt::PassedOver);
            }
            if !marks::is_being_taken(taken.labels()) {
                return Ok(Attempt::Taken(uid));
            }
            let is_one_too_many = self.has_rival(&uid, node, found).await?;
            let is_kept = !is_one_too_many && !self.has_stranger(&candidate).await?;
            let fields = if is_kept { marks::kept() } else { marks::given_back(&taken) };
            let manager = FieldManager::Machine.as_str();
            match apply::merge(&self.api(), &Seen::of(&taken)?, manager, &fields).await {
                Ok(_) if is_kept => return Ok(Attempt::Taken(uid)),
                Ok(_) if is_one_too_many => return Err(changed(node)),
                Ok(_) => return Ok(Attempt::PassedOver),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
            match read::get(&self.api(), &candidate.node.name).await? {
                Some(live) => taken = live,
                None => return Ok(Attempt::PassedOver),
            }
        }
        Err(changed(node))
    }

    /// Whether another Node is to be the machine of this ClusterNode. Of two that are being taken, each process gives back the
    /// one that it has taken itself; one that was left behind is no rival.
    async fn has_rival(&self, uid: &str, node: &ClusterNode, found: Found) -> Result<bool, Error> {
        let machines = self.taken_for(node).await?;
        let mut others = machines.iter().filter(|machine| machine.uid != uid);
        Ok(others.any(|other| found == Found::Now || other.progress == Progress::Registered))
    }

    async fn restore(&self, node: &Node) -> Result<(), Error> {
        let fields = marks::given_back(node);
        apply::merge(&self.api(), &Seen::of(node)?, FieldManager::Machine.as_str(), &fields).await?;
        self.ledger.forget(&node.uid().unwrap_or_default());
        Ok(())
    }

    /// Looks at so many of the Nodes that look free, and notes those that carry pods of others.
    pub(super) async fn look_for_strangers(
        &self,
        pool: &Pool,
        spec: &ClusterNodeSpec,
        nodes: i64,
    ) -> Result<(), Error> {
        let survey: Survey = self.survey(pool, spec)?;
        let mut wanted = usize::try_from(nodes + survey.reserved()).unwrap_or(0);
        let mut fit = survey.fit();
        while wanted > 0 && !fit.is_empty() {
            let batch: Vec<_> = fit.drain(..wanted.min(fit.len())).collect();
            let mut looks = Vec::new();
            for candidate in &batch {
                looks.push(self.has_stranger(candidate));
            }
            let looked: Vec<_> = stream::iter(looks).buffer_unordered(CONCURRENCY).collect().await;
            for has_stranger in looked {
                wanted -= usize::from(!has_stranger?);
            }
        }
        Ok(())
    }

    /// Whether a pod is there that would not make room; notes it. Those of DaemonSets belong to the Node, as do those that
    /// its kubelet runs by itself.
    async fn has_stranger(&self, candidate: &Candidate) -> Result<bool, Error> {
        let there = Selection::all().fields(format!("spec.nodeName={}", candidate.node.name));
        let pods = read::list(&Api::<Pod>::all(self.client.clone()), &there).await?;
        let strangers = pods.iter().filter(|pod| stays_in_the_way(pod));
        let Some(pod) = strangers.map(PodId::of).min() else { return Ok(false) };
        // Whose pod it is, is nothing that the people of every Cluster should read.
        tracing::info!(node = candidate.node.name, %pod, "a Node is passed over because it carries a pod");
        self.ledger.pass_over(&candidate.node.uid, "carries pods of others".to_owned(), self.clock.now());
        Ok(true)
    }

    pub(super) async fn give_back(&self, pool: &Pool, release: &Release) -> Released {
        Released {
            machine_uid: release.machine.uid.clone(),
            result: self.try_to_give_back(pool, &release.machine, release.drain).await,
        }
    }

    async fn try_to_give_back(
        &self,
        pool: &Pool,
        doomed: &Doomed,
        drain: Drain,
    ) -> Result<ReleaseOutcome, Error> {
        let Some(node) = read::get(&self.api(), &doomed.name).await? else {
            return Ok(ReleaseOutcome::AlreadyGone);
        };
        let cluster = marks::cluster_uid(node.labels());
        if node.uid().as_ref() != Some(&doomed.uid) || cluster.is_none() {
            return Ok(ReleaseOutcome::AlreadyGone);
        }
        let same_owner = doomed.owner.is_none() || Owner::of(node.labels()) == doomed.owner;
        if cluster != Some(&pool.uid) || !same_owner {
            return Ok(ReleaseOutcome::Refused(format!(
                "{} does not carry the labels of the machine it was taken for",
                doomed.name
            )));
        }
        let is_ready = NodeFacts::of(&node).is_some_and(|facts| facts.ready);
        if drain == Drain::Skip && !is_ready {
            // What runs there nobody knows, and the next one to take it would run beside it.
            return Ok(ReleaseOutcome::Refused(format!("Node {} is lost", doomed.name)));
        }
        self.restore(&node).await?;
        Ok(ReleaseOutcome::Started)
    }
}

/// Why this Node cannot be taken, if it cannot: a predicate.
fn unfit(spec: &ClusterNodeSpec, candidate: &Candidate) -> Option<String> {
    if !is_selected(spec, candidate) {
        return Some("has other labels by now".to_owned());
    }
    match found::fitness(spec, candidate) {
        Fitness::Fit => None,
        Fitness::Used { .. } => Some("has just been taken".to_owned()),
        Fitness::Hindered(why) | Fitness::TooSmall(why) => Some(why),
    }
}

fn stays_in_the_way(pod: &Pod) -> bool {
    let is_the_nodes_own = pods::is_a_kubelets_own(pod) || pods::is_of_a_daemon_set(pod);
    !pods::has_ended(pod) && !is_the_nodes_own
}
