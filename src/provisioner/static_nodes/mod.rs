//! Static nodes: a machine is a Node that is there already, and is taken for a ClusterNode.
//!
//! * [`marks`]: what is written on a Node that is taken, and how it is taken off again.
//! * [`take`]: takes one, and gives one back.
//! * [`claims`]: what is kept for whom, as long as ClusterNodes await a machine.
//! * [`ledger`]: what is set aside for ClusterNodes to come, and what was found on Nodes that look free.
//!
//! Guarantees: a Node is taken by a write on the version that showed it free, so of two Clusters one gets it. A Node that
//! is smaller than the size, carries pods of others, or has anything else in the way is passed over, and counted with the
//! reason. What was taken for a ClusterNode is found again by its UID, whoever took it, and is its machine only once it was
//! looked at after it was taken. What the rest of a gang awaits no other Cluster gets, whichever process is at work.
//!
//! Caveat: two processes that ask for the same ClusterNode at the same time may take two. Each looks afterwards and gives
//! its own back; if both die before that, one is kept and the other is given back as a stray.

mod claims;
mod ledger;
pub mod marks;
mod take;

#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt as _};
use trainyard_api::{
    ClusterNode,
    cluster_node::{ClusterNodeSpec, Engine},
    names::node_labels,
};
use trainyard_model::node::{
    assess::awaits_machine,
    found::{self, Candidate, Fitness},
    seen::{GivenUp, Machine},
};

use self::{
    claims::{Claim, Turn},
    ledger::{Ledger, Page, is_selected},
};
use super::{
    Capabilities, Error, Launch, Observed, Origin, Pool, Provisioner, Recount, Refusal, RefusalCode, Release,
    Released, Removal, Starting, Supply, Validity, Wanted, Woken, best_of,
};
use crate::{
    clock::SharedClock,
    kubernetes::{cache::Cache, watch::Watch},
    telemetry::readiness::Readiness,
};

/// Name of the engine in messages.
const NAME: &str = "static";

/// Requests about different machines at a time.
const CONCURRENCY: usize = 8;

fn unavailable(message: &str) -> Error {
    Error::Unavailable { engine: NAME, message: message.to_owned() }
}

/// The engine.
pub struct Static {
    client: Client,
    clock: SharedClock,
    nodes: OnceLock<Cache<Candidate>>,
    cluster_nodes: OnceLock<Cache<ClusterNode>>,
    ledger: Arc<Ledger>,
    recount: Arc<OnceLock<Recount>>,
    /// Held while Nodes are looked at to be taken, so that two Clusters of this process do not run into each other.
    choosing: tokio::sync::Mutex<()>,
}

impl Static {
    /// An engine that talks through this client.
    pub fn new(client: Client, clock: SharedClock) -> Self {
        Self {
            client,
            clock,
            nodes: OnceLock::new(),
            cluster_nodes: OnceLock::new(),
            ledger: Arc::default(),
            recount: Arc::default(),
            choosing: tokio::sync::Mutex::default(),
        }
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn followed(&self) -> Result<&Cache<Candidate>, Error> {
        let nodes = self.nodes.get().ok_or_else(|| unavailable("its watch is not started"))?;
        if !nodes.is_initialised() {
            return Err(unavailable("its Nodes are not listed yet"));
        }
        if !self.cluster_nodes.get().is_some_and(Cache::is_initialised) {
            // Without them a Cluster would get what the rest of another one's gang awaits.
            return Err(unavailable("the ClusterNodes are not listed yet"));
        }
        Ok(nodes)
    }

    /// What ClusterNodes await, of all Clusters. A Node that was taken for one tells before its status does.
    fn claims(&self) -> Result<Vec<Claim>, Error> {
        let nodes = self.followed()?;
        let awaiting = |node: &ClusterNode| is_ours(node) && awaits_machine(node);
        let mut awaiting = self.cluster_nodes.get().map_or_else(Vec::new, |all| all.filter(awaiting));
        if !awaiting.is_empty() {
            let owner =
                |candidate: &Candidate| candidate.node.labels.get(node_labels::CLUSTER_NODE_UID).cloned();
            let taken = nodes.filter(|candidate| marks::cluster_uid(&candidate.node.labels).is_some());
            let served: HashSet<_> = taken.iter().filter_map(|candidate| owner(candidate)).collect();
            awaiting.retain(|node| node.uid().is_none_or(|uid| !served.contains(&uid)));
        }
        Ok(claims::of(&awaiting))
    }

    /// The Nodes that nodes like this may be, with what is known of each. What others await is theirs.
    fn survey(&self, pool: &Pool, spec: &ClusterNodeSpec) -> Result<Survey, Error> {
        self.look(pool, spec, &self.claims()?, None)
    }

    /// The same for nodes of this pool that exist: what others await is theirs if they await it for longer.
    fn survey_in_turn(&self, pool: &Pool, spec: &ClusterNodeSpec) -> Result<Survey, Error> {
        let claims = self.claims()?;
        let turn = claims.iter().find(|claim| claim.pool.uid == pool.uid).and_then(|own| own.turn.clone());
        self.look(pool, spec, &claims, turn.as_ref())
    }

    fn look(
        &self,
        pool: &Pool,
        spec: &ClusterNodeSpec,
        claims: &[Claim],
        turn: Option<&Turn>,
    ) -> Result<Survey, Error> {
        let nodes = self.followed()?.filter(|candidate| is_selected(spec, candidate));
        let seen: Vec<_> = nodes.iter().map(|one| &**one).collect();
        let page = self.ledger.page(pool, &seen, claims, turn, self.clock.now());
        let judged = nodes.into_iter().map(|candidate| {
            let fitness = match found::fitness(spec, &candidate) {
                Fitness::Fit => page
                    .passed_over
                    .get(&candidate.node.uid)
                    .map_or(Fitness::Fit, |why| Fitness::Hindered(why.clone())),
                other => other,
            };
            (candidate, fitness)
        });
        Ok(Survey { judged: judged.collect(), page })
    }
}

fn is_ours(node: &ClusterNode) -> bool {
    node.spec.engine.static_node.is_some()
}

/// What a question about free Nodes is answered from.
struct Survey {
    judged: Vec<(Arc<Candidate>, Fitness)>,
    page: Page,
}

impl Survey {
    fn supply(&self, pool: &Pool, spec: &ClusterNodeSpec) -> Supply {
        let judged = self.judged.iter();
        let nodes = judged.map(|(candidate, fitness)| (candidate.node.name.as_str(), fitness.clone()));
        let counted = found::count(
            &spec.vm_size.size_name,
            (&pool.namespace, &pool.uid),
            nodes.collect(),
            &self.page.reserved,
        );
        Supply { counted, again_at: self.page.until }
    }

    /// Those that could be taken, the smallest first, so that the larger ones are left to larger sizes.
    fn fit(&self) -> Vec<Arc<Candidate>> {
        let fit = self.judged.iter().filter(|(_, fitness)| *fitness == Fitness::Fit);
        let mut fit: Vec<_> = fit.map(|(candidate, _)| Arc::clone(candidate)).collect();
        fit.sort_by(|one, other| size(one).cmp(&size(other)));
        fit
    }

    /// How many of these are for others.
    fn reserved(&self) -> i64 {
        self.page.reserved.values().sum()
    }
}

fn size(candidate: &Candidate) -> (i64, i64, i64, &str) {
    let devices = candidate.node.allocatable.devices.values().sum();
    (devices, candidate.cpu_millis, candidate.memory_bytes, &candidate.node.name)
}

fn text(selector: &BTreeMap<String, String>) -> String {
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[async_trait]
impl Provisioner for Static {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            removal: Removal::Exact,
            drains: false,
            tells: &[GivenUp::StockOut],
            origin: Origin::Found,
            spot: false,
        }
    }

    fn watches(&self, starting: &mut Starting<'_>) {
        // Not a gate of `/readyz`, as for other engines: Clusters of those work without it.
        let readiness = Readiness::default();
        let wake = Arc::clone(&starting.wake);
        let (ledger, recount) = (Arc::clone(&self.ledger), Arc::clone(&self.recount));
        let nodes = Watch::new("static-nodes", self.api())
            .reduce(|node| Candidate::of(&node))
            .index(|candidate| marks::cluster_uid(&candidate.node.labels).map(str::to_owned))
            .notify(move |change| {
                for uid in change.sides().filter_map(|one| marks::cluster_uid(&one.node.labels)) {
                    wake(Woken::Pool(uid));
                }
                if let Some(recount) = recount.get() {
                    let (before, after) = (change.before.as_deref(), change.after.as_deref());
                    ledger.concerned(before, after).iter().for_each(|pool| recount(pool));
                }
            })
            .start(starting.tasks, &readiness, starting.metrics);
        // A second call would start a watch that nobody reads; the first one stays.
        let _ = self.nodes.set(nodes);
        let _ = self.cluster_nodes.set(starting.cluster_nodes.clone());
    }

    fn cluster_node_changed(&self, before: Option<&ClusterNode>, after: Option<&ClusterNode>) {
        let awaited =
            |node: Option<&ClusterNode>| node.is_some_and(|node| is_ours(node) && awaits_machine(node));
        let has_machine =
            after.is_some_and(|node| node.status.as_ref().is_some_and(|status| status.machine_uid.is_some()));
        if let (Some(node), Some(recount)) = (before.filter(|_| awaited(before)), self.recount.get())
            && !awaited(after)
            && !has_machine
        {
            self.ledger.gave_up(&node.spec.cluster.uid).iter().for_each(|pool| recount(pool));
        }
    }

    fn on_recount(&self, recount: Recount) {
        // Only one controller counts; a second one would be told nothing.
        let _ = self.recount.set(recount);
    }

    async fn validate(&self, _: &Pool, engine: &Engine) -> Result<Validity, Error> {
        let Some(block) = &engine.static_node else {
            return Err(unavailable("the block is another engine's"));
        };
        let selector = &block.node_selector;
        if !self.followed()?.filter(|candidate| candidate.is_selected(selector)).is_empty() {
            return Ok(Validity::Usable);
        }
        Ok(Validity::Refused(Refusal {
            code: RefusalCode::ClassNotFound,
            message: format!(
                "nodeSelector asks for {selector}, and no Node has these labels: label the machines \
                 (`kubectl label node NAME {first}`), or correct the ProvisioningClass",
                selector = text(selector),
                first = text(selector).replace(',', " "),
            ),
        }))
    }

    async fn count(&self, pool: &Pool, spec: &ClusterNodeSpec) -> Result<Option<Supply>, Error> {
        // Asked before it is looked: a change in between is told.
        self.ledger.ask(pool, spec);
        Ok(Some(self.survey(pool, spec)?.supply(pool, spec)))
    }

    async fn set_aside(
        &self,
        pool: &Pool,
        spec: &ClusterNodeSpec,
        nodes: i64,
    ) -> Result<Option<Supply>, Error> {
        let _choosing = self.choosing.lock().await;
        self.look_for_strangers(pool, spec, nodes).await?;
        let supply = self.survey(pool, spec)?.supply(pool, spec);
        if supply.counted.free >= nodes {
            self.ledger.set_aside(pool, spec, nodes, self.clock.now());
        }
        Ok(Some(supply))
    }

    async fn observe(&self, pool: &Pool) -> Result<Observed, Error> {
        let nodes = self.followed()?.indexed(&pool.uid);
        let machines = nodes.iter().filter_map(|candidate| marks::machine(&candidate.node)).collect();
        Ok(Observed { machines, last_words: Vec::new(), is_absent: false })
    }

    async fn look_up(&self, _: &Pool, node: &ClusterNode) -> Result<Option<Machine>, Error> {
        Ok(best_of(&self.taken_for(node).await?, node).cloned())
    }

    async fn ensure(&self, pool: &Pool, wanted: &[Wanted]) -> Result<Vec<Launch>, Error> {
        let _choosing = self.choosing.lock().await;
        let mut launches = Vec::new();
        // One after the other: each would choose the same Node.
        for Wanted { node, .. } in wanted.iter().filter(|wanted| wanted.machine.is_none()) {
            let result = self.take(pool, node).await;
            let is_over = result.is_err();
            launches.push(Launch { node_uid: node.uid().unwrap_or_default(), result });
            if is_over {
                // The next one would meet the same, and the API server is spared the attempt.
                break;
            }
        }
        Ok(launches)
    }

    async fn release(&self, pool: &Pool, leaving: &[Release]) -> Vec<Released> {
        let mut releases = Vec::new();
        for release in leaving {
            releases.push(self.give_back(pool, release));
        }
        stream::iter(releases).buffer_unordered(CONCURRENCY).collect().await
    }
}
