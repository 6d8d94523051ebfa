//! Carries a decision out: destroys, and then makes, machines. It decides nothing; it checks, live, what must be true
//! at the moment of acting, and records what it learnt in the observation.
//!
//! * Before a machine is destroyed: its Node is cordoned, and a live list shows no pod of ours on it.
//! * Before a machine is asked for: a live list of the Cluster's ClusterNodes shows that this one is still wanted, and
//!   that there is room for it within `maxNodes` ([`admit`]); and the engine says that its class could work.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use trainyard_api::names::{FieldManager, node_labels};
use trainyard_model::node::{Answer, pods::Life, seen::Owner};

use super::{
    Error, NodeController, admit,
    decide::{Decision, HeldUp, NodeId, Observation, Removal, SeenNode, Warrant},
    memory::PoolMemory,
    observe,
};
use crate::{
    kubernetes::{
        apply::{self, Seen},
        read,
    },
    occupancy::{self, Machine},
    provisioner::{EngineKind, Launched, Pool, Release, ReleaseOutcome, Released, Validity, Wanted},
};

/// Removals prepared at a time.
const CONCURRENCY: usize = 8;

/// Machines asked for on the word of one live list. The list is read right before, and the requests go out together, so
/// it is as fresh for the last as for the first; a list for each would make a Cluster of 1,000 nodes read a million
/// ClusterNodes while it grows.
const LAUNCHES_PER_LIST: usize = 8;

/// Machines asked for in one reconcile. Statuses are written at its end, so a Cluster that grows by hundreds of nodes
/// reports in between, every second or so.
const LAUNCHES_PER_LOOK: usize = 32;

/// When to look again at a Node that still has a pod of ours, or at a machine that is gone and still seen. Nothing wakes
/// the controller when that pod is gone, and a released node has none as a rule.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// When to ask again whether a launch is possible: what a person waits after mending a class, at most.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// What came of a decision, beside what the observation has learnt.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What failed; the rest was done all the same.
    pub errors: Vec<Error>,
    /// When to look again because something was not possible now.
    pub retry_at: Option<Timestamp>,
    /// UIDs of stray machines whose end has begun.
    pub destroyed: Vec<String>,
}

impl Done {
    fn retry(&mut self, at: Timestamp) {
        self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
    }
}

pub(super) async fn execute(
    controller: &NodeController,
    observation: &mut Observation,
    memory: &mut PoolMemory,
    decision: &Decision,
) -> Done {
    let mut done = Done::default();
    destroy(controller, observation, memory, &decision.removals, &mut done).await;
    launch(controller, observation, memory, &decision.launches, &mut done).await;
    done
}

/// A removal after its checks.
enum Checked<'a> {
    Clear(&'a Removal),
    HeldUp(&'a Removal, String),
    /// A ClusterNode accounts for it after all.
    Unwarranted,
}

async fn destroy(
    controller: &NodeController,
    observation: &mut Observation,
    memory: &mut PoolMemory,
    removals: &[Removal],
    done: &mut Done,
) {
    let mut checks = Vec::new();
    for removal in removals {
        checks.push(check(controller, &observation.pool, removal));
    }
    let checked: Vec<_> = stream::iter(checks).buffer_unordered(CONCURRENCY).collect().await;
    let now = controller.clock.now();
    let mut clear: HashMap<EngineKind, Vec<&Removal>> = HashMap::new();
    for checked in checked {
        match checked {
            Ok(Checked::Clear(removal)) => clear.entry(removal.engine).or_default().push(removal),
            Ok(Checked::HeldUp(removal, by)) => hold_up(observation, memory, removal, by, now),
            Ok(Checked::Unwarranted) => {}
            Err(error) => done.errors.push(error),
        }
    }
    for (kind, removals) in clear {
        let leaving: Vec<_> = removals
            .iter()
            .map(|removal| Release { machine: Box::new(removal.machine.clone()), drain: removal.drain })
            .collect();
        let Some(engine) = controller.engines.get(kind) else { continue };
        let answers = engine.release(&observation.pool, &leaving).await;
        for Released { machine_uid, result } in answers {
            let Some(removal) = removals.iter().find(|removal| removal.machine.uid == machine_uid) else {
                continue;
            };
            match result {
                Ok(ReleaseOutcome::Started) => release_started(memory, removal, done),
                Ok(ReleaseOutcome::AlreadyGone) => {
                    release_started(memory, removal, done);
                    // The cache that shows it is behind; its watch may have been cut, or its whole kind be gone.
                    done.retry(now + LOOK_AGAIN);
                }
                Ok(ReleaseOutcome::Refused(why)) => hold_up(observation, memory, removal, why, now),
                Err(error) => done.errors.push(error.into()),
            }
        }
    }
}

fn release_started(memory: &mut PoolMemory, removal: &Removal, done: &mut Done) {
    match &removal.warrant {
        Warrant::Released { node_uid } => {
            memory.held_up.remove(node_uid);
        }
        Warrant::Stray => {
            memory.held_up.remove(&removal.machine.uid);
            done.destroyed.push(removal.machine.uid.clone());
        }
    }
}

fn hold_up(
    observation: &mut Observation,
    memory: &mut PoolMemory,
    removal: &Removal,
    by: String,
    now: Timestamp,
) {
    let held_up = HeldUp { by, until: now + LOOK_AGAIN };
    match &removal.warrant {
        Warrant::Released { node_uid } => {
            for seen in observation.nodes.iter_mut().filter(|seen| seen.uid() == *node_uid) {
                seen.held_up = Some(held_up.clone());
            }
            memory.held_up.insert(node_uid.clone(), held_up);
        }
        Warrant::Stray => {
            let uid = &removal.machine.uid;
            for stray in observation.strays.iter_mut().filter(|stray| stray.machine.uid == *uid) {
                stray.held_up = Some(held_up.clone());
            }
            memory.held_up.insert(uid.clone(), held_up);
        }
    }
}

/// Cordon, then look: a pod that is bound after the look would have to pass the cordon.
async fn check<'a>(
    controller: &NodeController,
    pool: &Pool,
    removal: &'a Removal,
) -> Result<Checked<'a>, Error> {
    if removal.warrant == Warrant::Stray && observe::has_cluster_node(controller, &removal.machine).await? {
        return Ok(Checked::Unwarranted);
    }
    if let Some(node) = &removal.cordon {
        cordon(controller, node, removal.machine.owner.as_ref()).await?;
    }
    if let Some(node) = &removal.empty
        && let Some(pod) = live_pod_of_ours(controller, pool, removal, node).await?
    {
        return Ok(Checked::HeldUp(removal, format!("pod {pod} of a run is still on its Node")));
    }
    Ok(Checked::Clear(removal))
}

/// Cordons the Node if, live, it is the one that was meant and carries the ClusterNode's UID. Anything else needs no
/// cordon: nothing of ours is placed there. A Node that was found is given back, so it must be known whose cordon it is.
async fn cordon(controller: &NodeController, id: &NodeId, owner: Option<&Owner>) -> Result<(), Error> {
    let api = Api::<Node>::all(controller.client.clone());
    let Some(node) = read::get(&api, &id.name).await? else { return Ok(()) };
    let is_meant = node.uid().as_ref() == Some(&id.uid) && Owner::of(node.labels()).as_ref() == owner;
    let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    if !is_meant || is_cordoned || owner.is_none() {
        return Ok(());
    }
    let by_us = BTreeMap::from([(node_labels::CORDONED, "true")]);
    let fields = json!({"metadata": {"labels": by_us}, "spec": {"unschedulable": true}});
    apply::merge(&api, &Seen::of(&node)?, FieldManager::Node.as_str(), &fields).await?;
    Ok(())
}

/// A pod of a run that is bound to this Node and not finished.
async fn live_pod_of_ours(
    controller: &NodeController,
    pool: &Pool,
    removal: &Removal,
    node: &str,
) -> Result<Option<String>, Error> {
    let owner = removal.machine.owner.as_ref();
    let namespace = owner.map_or(pool.namespace.as_str(), |owner| owner.namespace.as_str());
    // Then every label is believed, as that of a process which the machine may have carried through: at worst it comes back later.
    let namespace = if removal.was_lost { "" } else { namespace };
    let cluster_node = owner.map_or("", |owner| owner.name.as_str());
    let machine = Machine { namespace, cluster_node, node };
    Ok(occupancy::live_pod(&controller.client, machine, |pod| Life::of(pod).may_run()).await?)
}

async fn launch(
    controller: &NodeController,
    observation: &mut Observation,
    memory: &mut PoolMemory,
    launches: &[String],
    done: &mut Done,
) {
    let now_or_later = launches.split_at_checked(LAUNCHES_PER_LOOK);
    let (now, later) = now_or_later.unwrap_or((launches, &[]));
    if !later.is_empty() {
        done.retry(controller.clock.now());
    }
    for batch in now.chunks(LAUNCHES_PER_LIST) {
        if let Err(error) = launch_batch(controller, observation, memory, batch, done).await {
            done.errors.push(error);
            return;
        }
    }
}

async fn launch_batch(
    controller: &NodeController,
    observation: &mut Observation,
    memory: &mut PoolMemory,
    batch: &[String],
    done: &mut Done,
) -> Result<(), Error> {
    let now = controller.clock.now();
    let mut usable = Vec::new();
    for uid in batch {
        match blocked(controller, observation, uid).await? {
            None => usable.push(uid),
            Some(why) => {
                answer(observation, uid, Answer::Blocked(why));
                done.retry(now + ASK_AGAIN);
            }
        }
    }
    if usable.is_empty() {
        return Ok(());
    }
    let admitted = admit::admit(controller, &observation.pool, &memory.requested, &usable).await?;
    if admitted.len() < usable.len() {
        // Released, deleted or beyond `maxNodes`: the cluster controller's matter, and seen again by then.
        done.retry(now + ASK_AGAIN);
    }
    let mut by_engine: BTreeMap<EngineKind, Vec<Wanted>> = BTreeMap::new();
    for node in admitted {
        if let Some(kind) = EngineKind::of(&node.spec.engine) {
            by_engine.entry(kind).or_default().push(Wanted { node: Arc::new(node), machine: None });
        }
    }
    for (kind, new) in by_engine {
        let wanted: Vec<_> = standing(observation, kind).chain(new).collect();
        let Some(engine) = controller.engines.get(kind) else { continue };
        for launch in engine.ensure(&observation.pool, &wanted).await? {
            let uid = launch.node_uid;
            match launch.result {
                Ok(Launched::Requested { machine_uid }) => {
                    memory.requested.insert(uid.clone(), machine_uid.clone());
                    answer(observation, &uid, Answer::Requested { machine_uid });
                }
                Ok(Launched::NameTaken { message }) => answer(observation, &uid, Answer::NameTaken(message)),
                Ok(Launched::NoneLeft { message }) => answer(observation, &uid, Answer::NoneLeft(message)),
                Ok(Launched::Rejected { message }) => answer(observation, &uid, Answer::Rejected(message)),
                Err(error) => done.errors.push(error.into()),
            }
        }
    }
    Ok(())
}

/// Why the engine could not make this node's machine now, if so.
async fn blocked(
    controller: &NodeController,
    observation: &Observation,
    uid: &str,
) -> Result<Option<String>, Error> {
    let Some(seen) = observation.nodes.iter().find(|seen| seen.uid() == uid) else { return Ok(None) };
    let Some(engine) = controller.engines.of(&seen.node.spec.engine) else { return Ok(None) };
    Ok(match engine.validate(&observation.pool, &seen.node.spec.engine).await? {
        Validity::Usable => None,
        Validity::Refused(refusal) => Some(refusal.message),
    })
}

/// The machines that stand already: an engine that counts needs the whole set.
fn standing(observation: &Observation, kind: EngineKind) -> impl Iterator<Item = Wanted> {
    observation.nodes.iter().filter_map(move |seen| {
        let machine = seen.node.status.as_ref()?.machine_uid.clone()?;
        let is_wanted = seen.engine == Some(kind) && seen.node.spec.released.is_none();
        is_wanted.then(|| Wanted { node: Arc::clone(&seen.node), machine: Some(machine) })
    })
}

fn answer(observation: &mut Observation, uid: &str, answer: Answer) {
    let is_meant = |seen: &&mut SeenNode| seen.uid() == uid;
    if let Some(seen) = observation.nodes.iter_mut().find(is_meant) {
        seen.answer = Some(answer);
    }
}
