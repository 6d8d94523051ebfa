//! Karpenter: every machine is a NodeClaim that belongs to no NodePool.
//!
//! * [`claim`]: the NodeClaim of a ClusterNode. Its name is the ClusterNode's, so that creating twice is harmless.
//! * [`class`]: whether the class could work, before anything is asked for.
//! * [`discovery`]: whether Karpenter is there at all.
//! * [`facts`]: claims and Nodes reduced to machines, Nodes that leaked included.
//! * [`words`]: what Karpenter says of a claim it deletes.
//! * [`wire`]: the types of `karpenter.sh/v1` that are touched.
//!
//! Assumptions: Karpenter 1.x copies the labels of a claim to its Node at registration; it deletes a claim that it
//! cannot launch, after an Event; nothing voluntary touches a claim whose NodePool does not exist and that never expires.
//! Caveat: an Event is written after the claim is deleted, so last words may come a moment later than the end.

pub mod claim;
pub mod class;
mod discovery;
pub mod facts;
pub mod wire;
pub mod words;

#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Event, Node};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use trainyard_api::{
    ClusterNode,
    cluster_node::Engine,
    names::{FieldManager, node_labels},
};
use trainyard_model::node::seen::{GivenUp, LastWords, Machine, NodeFacts};

use self::{
    class::ClassCheck,
    discovery::Discovery,
    facts::ClaimFacts,
    wire::{NODE_POOL_LABEL, NodeClaim, TERMINATION_TIME},
};
use super::{
    Capabilities, Doomed, Drain, Error, Launch, Launched, Observed, Origin, Pool, Provisioner, Release,
    ReleaseOutcome, Released, Removal, Starting, Validity, Wanted, Woken, best_of,
};
use crate::{
    clock::SharedClock,
    kubernetes::{
        ErrorKind,
        apply::{self, Creation, DeleteIf, Deletion, Seen},
        cache::Cache,
        key::ObjectKey,
        read::{self, Selection},
        watch::Watch,
    },
    telemetry::readiness::Readiness,
};

/// Name of the engine in messages.
const NAME: &str = "karpenter";

/// Namespace of Events about objects that have none.
const EVENTS_NAMESPACE: &str = "default";

/// Requests about different machines at a time. The client bounds the whole process; this keeps one big Cluster from
/// taking all of that.
const CONCURRENCY: usize = 8;

fn unavailable(message: &str) -> Error {
    Error::Unavailable { engine: NAME, message: message.to_owned() }
}

/// The engine.
pub struct Karpenter {
    client: Client,
    clock: SharedClock,
    discovery: Arc<Discovery>,
    classes: ClassCheck,
    followed: OnceLock<Followed>,
}

/// What its watches have seen.
struct Followed {
    claims: Cache<ClaimFacts>,
    nodes: Cache<NodeFacts>,
    words: Cache<LastWords>,
}

impl Karpenter {
    /// An engine that talks through this client.
    pub fn new(client: Client, clock: SharedClock) -> Self {
        let discovery = Arc::new(Discovery::new(client.clone(), Arc::clone(&clock)));
        let classes = ClassCheck::new(client.clone(), Arc::clone(&clock), Arc::clone(&discovery));
        Self { client, clock, discovery, classes, followed: OnceLock::new() }
    }

    fn followed(&self) -> Result<&Followed, Error> {
        let followed = self.followed.get().ok_or_else(|| unavailable("its watches are not started"))?;
        if !followed.nodes.is_initialised() {
            return Err(unavailable("its Nodes are not listed yet"));
        }
        Ok(followed)
    }

    /// Whether Karpenter is not there, nor any object of it. Asked where a cache says nothing yet, or was contradicted.
    async fn is_absent(&self, followed: &Followed) -> Result<bool, Error> {
        let is_doubtful = !followed.claims.is_initialised() || self.discovery.lacked_claims();
        Ok(is_doubtful && !self.discovery.served_claims_lately().await?)
    }

    /// The claim of this name as it is now. There is none where Karpenter is not installed.
    async fn claim(&self, name: &str) -> Result<Option<NodeClaim>, Error> {
        match read::get(&self.claims(), name).await {
            // The kind is not found, not the object.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.discovery.serves_claims().await? {
                    Err(error.into())
                } else {
                    Ok(None)
                }
            }
            found => Ok(found?),
        }
    }

    fn claims(&self) -> Api<NodeClaim> {
        Api::all(self.client.clone())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn launch(&self, wanted: &Wanted) -> Launch {
        Launch { node_uid: wanted.node.uid().unwrap_or_default(), result: self.request(wanted).await }
    }

    async fn remove(&self, pool: &Pool, release: &Release) -> Released {
        Released { machine_uid: release.machine.uid.clone(), result: self.destroy(pool, release).await }
    }

    /// The Node that the ClusterNode's status names, if it is still that one.
    async fn known_node(&self, node: &ClusterNode) -> Result<Option<NodeFacts>, Error> {
        let status = node.status.as_ref();
        let Some((name, uid)) =
            status.and_then(|status| status.node_name.as_ref().zip(status.node_uid.as_ref()))
        else {
            return Ok(None);
        };
        let found = read::get(&self.nodes(), name).await?;
        Ok(found.filter(|found| found.uid().as_ref() == Some(uid)).and_then(|found| NodeFacts::of(&found)))
    }

    async fn request(&self, wanted: &Wanted) -> Result<Launched, Error> {
        let node = &wanted.node;
        let owner_uid = node.uid().unwrap_or_default();
        let Some(engine) = &node.spec.engine.karpenter else {
            return Ok(Launched::Rejected {
                message: "the node's engine block is not karpenter's".to_owned(),
            });
        };
        let is_ours = |claim: &ClaimFacts| claim.owner.as_ref().is_some_and(|owner| owner.uid == owner_uid);
        if let Ok(followed) = self.followed()
            && let Some(known) = followed.claims.get(&ObjectKey::cluster_scoped(node.name_any()))
            && is_ours(&known)
        {
            return Ok(Launched::Requested { machine_uid: known.uid.clone() });
        }
        let claim = claim::build(node, engine);
        match apply::create(&self.claims(), &claim, FieldManager::Machine.as_str()).await {
            Ok(Creation::Created(claim)) => {
                Ok(Launched::Requested { machine_uid: claim.uid().unwrap_or_default() })
            }
            Ok(Creation::AlreadyExists(claim)) => Ok(match ClaimFacts::of(&claim) {
                Some(facts) if is_ours(&facts) => Launched::Requested { machine_uid: facts.uid },
                _ => Launched::NameTaken {
                    message: format!(
                        "NodeClaim {} exists with other labels, so it is not this node's machine and is left alone: \
                         delete it if nobody needs it",
                        node.name_any()
                    ),
                },
            }),
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Forbidden) => {
                let said = error.server_message().map_or_else(|| error.chain(), str::to_owned);
                Ok(Launched::Rejected { message: format!("the NodeClaim was refused: {said}") })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn destroy(&self, pool: &Pool, release: &Release) -> Result<ReleaseOutcome, Error> {
        let doomed = &*release.machine;
        if doomed.backed {
            let Some(claim) = self.claim(&doomed.name).await? else {
                return Ok(ReleaseOutcome::AlreadyGone);
            };
            if let Some(answer) = stands_in_the_way(pool, doomed, &claim) {
                return Ok(answer);
            }
            if release.drain == Drain::Skip {
                self.skip_drain(&claim).await?;
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Ok(ReleaseOutcome::Started);
            }
            deleted(&self.claims(), &Seen::of(&claim)?).await
        } else {
            let Some(node) = read::get(&self.nodes(), &doomed.name).await? else {
                return Ok(ReleaseOutcome::AlreadyGone);
            };
            if let Some(answer) = stands_in_the_way(pool, doomed, &node) {
                return Ok(answer);
            }
            if node.metadata.deletion_timestamp.is_some() {
                return Ok(ReleaseOutcome::Started);
            }
            deleted(&self.nodes(), &Seen::of(&node)?).await
        }
    }

    /// Tells Karpenter that the time to drain is over, on the version of the claim that showed our UIDs.
    async fn skip_drain(&self, claim: &NodeClaim) -> Result<(), Error> {
        if claim.annotations().contains_key(TERMINATION_TIME) {
            return Ok(());
        }
        // Whole seconds: Karpenter reads RFC 3339 and rounds nothing.
        let now = jiff::Timestamp::from_second(self.clock.now().as_second()).unwrap_or_default();
        let fields = json!({"metadata": {"annotations": {TERMINATION_TIME: now.to_string()}}});
        apply::merge(&self.claims(), &Seen::of(claim)?, FieldManager::Machine.as_str(), &fields).await?;
        Ok(())
    }
}

/// Whether a Node that Karpenter left behind is anything to act on. One that is being deleted waits for Karpenter's
/// finalizer, which nobody will remove.
fn is_still_there(node: &NodeFacts) -> bool {
    node.deleting_since.is_none()
}

/// Why an object is not to be deleted, if anything: another UID means that ours is gone, other labels that it is not
/// ours to delete.
fn stands_in_the_way<K: kube::Resource>(pool: &Pool, doomed: &Doomed, object: &K) -> Option<ReleaseOutcome> {
    if object.meta().uid.as_deref() != Some(&doomed.uid) {
        return Some(ReleaseOutcome::AlreadyGone);
    }
    let none = std::collections::BTreeMap::new();
    let labels = object.meta().labels.as_ref().unwrap_or(&none);
    let same_pool = facts::cluster_uid(labels) == Some(&pool.uid);
    let owner = trainyard_model::node::seen::Owner::of(labels);
    let same_owner = doomed.owner.is_none() || owner == doomed.owner;
    (!same_pool || !same_owner).then(|| {
        ReleaseOutcome::Refused(format!(
            "{} does not carry the labels of the machine it was taken for",
            doomed.name
        ))
    })
}

async fn deleted<K: apply::Object>(api: &Api<K>, seen: &Seen) -> Result<ReleaseOutcome, Error> {
    match apply::delete(api, seen, DeleteIf::SameObject, None).await {
        Ok(Deletion::Accepted) => Ok(ReleaseOutcome::Started),
        Ok(Deletion::AlreadyGone) => Ok(ReleaseOutcome::AlreadyGone),
        // Another object has the name by now, so the one that was meant is gone.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(ReleaseOutcome::AlreadyGone),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl Provisioner for Karpenter {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            removal: Removal::Exact,
            drains: true,
            tells: &[GivenUp::StockOut, GivenUp::Quota],
            origin: Origin::Made,
            spot: true,
        }
    }

    fn watches(&self, starting: &mut Starting<'_>) {
        // Not a gate of `/readyz`: without Karpenter in the cluster these lists never come, and Clusters of other engines
        // work. `followed` asks the caches instead.
        let readiness = Readiness::default();
        let wake = Arc::clone(&starting.wake);
        let claims = Watch::new("karpenter-nodeclaims", self.claims())
            .select(Selection::all().labels(node_labels::CLUSTER_UID))
            .annotations(&[TERMINATION_TIME])
            .reduce(|claim| ClaimFacts::of(&claim))
            .index(|claim| claim.cluster_uid.clone())
            .notify(move |change| {
                for uid in change.sides().filter_map(|claim| claim.cluster_uid.as_deref()) {
                    wake(Woken::Pool(uid));
                }
            })
            .start(starting.tasks, &readiness, starting.metrics);
        let wake = Arc::clone(&starting.wake);
        let nodes = Watch::new("karpenter-nodes", self.nodes())
            .select(Selection::all().labels(NODE_POOL_LABEL))
            .reduce(|node| facts::node(&node))
            .index(|node| facts::cluster_uid(&node.labels).map(str::to_owned))
            .notify(move |change| {
                for uid in change.sides().filter_map(|node| facts::cluster_uid(&node.labels)) {
                    wake(Woken::Pool(uid));
                }
            })
            .start(starting.tasks, &readiness, starting.metrics);
        let wake = Arc::clone(&starting.wake);
        let words =
            Watch::new("karpenter-events", Api::<Event>::namespaced(self.client.clone(), EVENTS_NAMESPACE))
                .select(Selection::all().fields("involvedObject.kind=NodeClaim"))
                .reduce(|event| words::last_words(&event))
                .notify(move |change| change.sides().for_each(|words| wake(Woken::Machine(&words.name))))
                .start(starting.tasks, &readiness, starting.metrics);
        // A second call would start watches that nobody reads; the first ones stay.
        let _ = self.followed.set(Followed { claims, nodes, words });
    }

    async fn validate(&self, pool: &Pool, engine: &Engine) -> Result<Validity, Error> {
        let Some(engine) = &engine.karpenter else {
            return Err(unavailable("the block is another engine's"));
        };
        Ok(self.classes.check(pool, engine).await?)
    }

    async fn observe(&self, pool: &Pool) -> Result<Observed, Error> {
        let followed = self.followed()?;
        let is_absent = self.is_absent(followed).await?;
        if !is_absent && !followed.claims.is_initialised() {
            return Err(unavailable("NodeClaims of karpenter.sh/v1 are not listed yet"));
        }
        let claims = if is_absent { Vec::new() } else { followed.claims.indexed(&pool.uid) };
        let mut nodes = followed.nodes.indexed(&pool.uid);
        nodes.retain(|node| !is_absent || is_still_there(node));
        let machines = facts::machines(claims.iter().map(|one| &**one), nodes.iter().map(|one| &**one));
        let prefix = format!("{}-", pool.name);
        let last_words = followed.words.filter(|words| words.name.starts_with(&prefix));
        let last_words = last_words.iter().map(|words| (**words).clone()).collect();
        Ok(Observed { machines, last_words, is_absent })
    }

    async fn look_up(&self, pool: &Pool, node: &ClusterNode) -> Result<Option<Machine>, Error> {
        let known = self.known_node(node).await?;
        let followed = self.followed()?;
        let cached = followed.nodes.indexed(&pool.uid);
        // The Node of the status was just looked for; whatever the cache says of that one is older.
        let status_uid = node.status.as_ref().and_then(|status| status.node_uid.as_deref());
        let others = cached.iter().map(|one| &**one).filter(|one| Some(one.uid.as_str()) != status_uid);

        let claim = self.claim(&node.name_any()).await?;
        let is_absent = claim.is_none() && self.is_absent(followed).await?;
        let nodes = known.iter().chain(others).filter(|node| !is_absent || is_still_there(node));
        let claim = claim.as_ref().and_then(ClaimFacts::of);
        let machines = facts::machines(claim.as_ref(), nodes);
        Ok(best_of(&machines, node).cloned())
    }

    async fn ensure(&self, _: &Pool, wanted: &[Wanted]) -> Result<Vec<Launch>, Error> {
        let mut launches = Vec::new();
        for wanted in wanted {
            if wanted.machine.is_none() {
                launches.push(self.launch(wanted));
            }
        }
        Ok(stream::iter(launches).buffer_unordered(CONCURRENCY).collect().await)
    }

    async fn release(&self, pool: &Pool, leaving: &[Release]) -> Vec<Released> {
        let mut releases = Vec::new();
        for release in leaving {
            releases.push(self.remove(pool, release));
        }
        stream::iter(releases).buffer_unordered(CONCURRENCY).collect().await
    }
}
