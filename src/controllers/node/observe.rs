//! What is there: ClusterNodes and DaemonSets from the caches, machines from the engines, and live reads wherever
//! something would be believed to be gone.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::{Api, ResourceExt as _};
use trainyard_api::{ClusterNode, cluster_node::ClusterNodeStatus};
use trainyard_model::node::{
    Answer,
    assess::is_bad,
    seen::{LastWords, Machine, Progress},
};

use super::{
    ClusterUid, Error, NodeController,
    decide::{Observation, SeenMachine, SeenNode, Stray},
    memory::PoolMemory,
    strangers,
};
use crate::{
    kubernetes::read,
    provisioner::{Doomed, EngineKind, Observed, Pool},
};

/// Live reads at a time, within one reconcile.
const CONCURRENCY: usize = 8;

pub(super) async fn observe(
    controller: &NodeController,
    cluster: &ClusterUid,
) -> Result<(Observation, PoolMemory), Error> {
    let now = controller.clock.now();
    let old = controller.memory.recall(cluster);
    let cached = controller.nodes.indexed(&cluster.0);
    let mut nodes: Vec<_> = cached.into_iter().map(|node| old.newest(node)).collect();
    nodes.sort_by_key(|node| node.spec.ordinal);
    let pool = pool_of(cluster, &nodes);

    let engines = observe_engines(controller, &pool, &nodes).await?;
    let mut looks = Vec::new();
    for node in &nodes {
        looks.push(look_at_node(controller, &pool, node, &engines, &old, now));
    }
    let seen: Vec<Result<SeenNode, Error>> = stream::iter(looks).buffered(CONCURRENCY).collect().await;
    let nodes = seen.into_iter().collect::<Result<Vec<_>, _>>()?;
    let strays = find_strays(controller, &nodes, &engines, &old, now).await?;

    let memory = kept(&nodes, &strays, &old);
    let daemons = controller.daemons.all();
    let is_blind = nodes.iter().any(|seen| {
        let observed = seen.engine.and_then(|kind| engines.get(&kind));
        status(&seen.node).gone_time.is_none() && observed.is_some_and(|observed| observed.is_absent)
    });
    Ok((Observation { pool, nodes, strays, daemons, is_blind }, memory))
}

/// Names come from any ClusterNode; with none left only the UID is known, which is what machines are found by.
fn pool_of(cluster: &ClusterUid, nodes: &[Arc<ClusterNode>]) -> Pool {
    let first = nodes.first();
    Pool {
        namespace: first.and_then(|node| node.namespace()).unwrap_or_default(),
        name: first.map(|node| node.spec.cluster.name.clone()).unwrap_or_default(),
        uid: cluster.0.clone(),
    }
}

type ByEngine = HashMap<EngineKind, Observed>;

async fn observe_engines(
    controller: &NodeController,
    pool: &Pool,
    nodes: &[Arc<ClusterNode>],
) -> Result<ByEngine, Error> {
    let mut found = HashMap::new();
    for (kind, engine) in controller.engines.all() {
        match engine.observe(pool).await {
            Ok(observed) => {
                found.insert(kind, observed);
            }
            // An engine that is not installed is no matter to Clusters of others.
            Err(error) => {
                if nodes.iter().any(|node| EngineKind::of(&node.spec.engine) == Some(kind)) {
                    return Err(error.into());
                }
            }
        }
    }
    Ok(found)
}

async fn look_at_node(
    controller: &NodeController,
    pool: &Pool,
    node: &Arc<ClusterNode>,
    engines: &ByEngine,
    memory: &PoolMemory,
    now: Timestamp,
) -> Result<SeenNode, Error> {
    let uid = node.uid().unwrap_or_default();
    let engine = EngineKind::of(&node.spec.engine);
    let observed = engine.and_then(|kind| engines.get(&kind));
    let requested = memory.requested.get(&uid).filter(|_| status(node).machine_uid.is_none());
    let cached = observed
        .and_then(|observed| observed.machine_of(node))
        .filter(|machine| !is_half_taken(machine, node) || requested.is_some());
    let machine = match (engine, memory.gone_since.get(&uid)) {
        (_, Some(since)) if cached.is_none() => SeenMachine::Gone { since: *since },
        // What an engine made that is not installed any more may run on, with its runs. Only for a node that goes anyway
        // does it follow that its machine is nobody's.
        _ if observed.is_some_and(|observed| observed.is_absent) && node.spec.released.is_none() => {
            SeenMachine::NotSeen
        }
        (Some(_), _) if must_be_looked_up(node, cached) => match controller.engines.of(&node.spec.engine) {
            Some(engine) => match engine.look_up(pool, node).await? {
                Some(machine) => SeenMachine::Here(Box::new(machine)),
                None => SeenMachine::Gone { since: now },
            },
            None => SeenMachine::NotSeen,
        },
        _ => cached.map_or(SeenMachine::NotSeen, |machine| SeenMachine::Here(Box::new(machine.clone()))),
    };
    let strangers = match &machine {
        SeenMachine::Here(machine) => {
            strangers::of_node(&controller.client, node, machine, memory.strangers.get(&uid), now).await?
        }
        SeenMachine::NotSeen | SeenMachine::Gone { .. } => None,
    };
    Ok(SeenNode {
        engine,
        machine,
        strangers,
        last_words: observed.and_then(|observed| last_words(node, observed)).cloned(),
        answer: requested.map(|machine_uid| Answer::Requested { machine_uid: machine_uid.clone() }),
        held_up: memory.held_up.get(&uid).cloned(),
        node: Arc::clone(node),
    })
}

fn status(node: &ClusterNode) -> Cow<'_, ClusterNodeStatus> {
    node.status.as_ref().map_or_else(|| Cow::Owned(ClusterNodeStatus::default()), Cow::Borrowed)
}

/// Whether a machine that was found is not this node's yet: whoever took it died before it had looked at it once more, or
/// met an error. It is asked for again, and then it is looked at. For a released node it is given back like any other.
fn is_half_taken(machine: &Machine, node: &ClusterNode) -> bool {
    let is_being_taken = machine.found && machine.progress == Progress::Requested;
    is_being_taken && status(node).machine_uid.is_none() && node.spec.released.is_none()
}

/// Whether a cache says that something is gone, and something would follow from believing it.
fn must_be_looked_up(node: &ClusterNode, cached: Option<&Machine>) -> bool {
    let status = status(node);
    if status.gone_time.is_some() {
        return false;
    }
    match cached {
        None => status.machine_uid.is_some() || node.spec.released.is_some(),
        Some(machine) => {
            let seen = machine.node.as_ref().map(|seen| &seen.uid);
            let lacks_its_node = status.node_uid.is_some() && status.node_uid.as_ref() != seen;
            lacks_its_node && !status.state.is_some_and(is_bad) && node.spec.released.is_none()
        }
    }
}

/// What was said of this node's machine; before the machine's UID is known the name must do, which is never used twice.
fn last_words<'a>(node: &ClusterNode, observed: &'a Observed) -> Option<&'a LastWords> {
    let name = node.name_any();
    let status = status(node);
    let known = status.machine_uid.as_ref();
    observed.last_words.iter().find(|words| words.name == name && known.is_none_or(|uid| *uid == words.uid))
}

async fn find_strays(
    controller: &NodeController,
    nodes: &[SeenNode],
    engines: &ByEngine,
    memory: &PoolMemory,
    now: Timestamp,
) -> Result<Vec<Stray>, Error> {
    let mut strays = Vec::new();
    for (kind, observed) in engines {
        for machine in &observed.machines {
            if is_accounted_for(machine, nodes, observed) {
                continue;
            }
            let known_since = memory.strays.get(&machine.uid).copied();
            let is_leaving = machine.deleting_since.is_some();
            if known_since.is_none()
                && !is_leaving
                && has_cluster_node(controller, &Doomed::of(machine)).await?
            {
                // The cache of ClusterNodes is behind.
                continue;
            }
            strays.push(Stray {
                engine: *kind,
                since: known_since.unwrap_or(now),
                is_new: known_since.is_none() && !is_leaving,
                held_up: memory.held_up.get(&machine.uid).cloned(),
                machine: machine.clone(),
            });
        }
    }
    strays.sort_by(|a, b| a.machine.name.cmp(&b.machine.name));
    Ok(strays)
}

fn is_accounted_for(machine: &Machine, nodes: &[SeenNode], observed: &Observed) -> bool {
    match &machine.owner {
        Some(owner) => nodes.iter().any(|seen| {
            seen.uid() == owner.uid
                && status(&seen.node).gone_time.is_none()
                && (machine.backing.is_none() || is_not_another(machine, seen))
        }),
        // A Node that is just registering has no labels of ours yet, and perhaps no cloud identity to know it by.
        None => {
            machine.backing.is_none()
                && observed
                    .machines
                    .iter()
                    .any(|other| other.backing.is_some() && other.progress < Progress::Registered)
        }
    }
}

/// Whether the ClusterNode has no other machine than this one. Two processes may have got one each for it.
fn is_not_another(machine: &Machine, seen: &SeenNode) -> bool {
    match &seen.machine {
        SeenMachine::Here(its) => its.backing.is_none() || its.uid == machine.uid,
        SeenMachine::NotSeen | SeenMachine::Gone { .. } => true,
    }
}

/// Whether, live, a ClusterNode still accounts for the machine: it is there, and does not name another one.
pub(super) async fn has_cluster_node(controller: &NodeController, machine: &Doomed) -> Result<bool, Error> {
    let Some(owner) = &machine.owner else { return Ok(false) };
    let api = Api::<ClusterNode>::namespaced(controller.client.clone(), &owner.namespace);
    let found = read::get(&api, &owner.name).await?;
    Ok(found.is_some_and(|node| {
        let status = status(&node);
        let recorded = status.machine_uid.as_ref().filter(|_| machine.backed);
        node.uid().as_ref() == Some(&owner.uid)
            && status.gone_time.is_none()
            && recorded.is_none_or(|uid| *uid == machine.uid)
    }))
}

/// Of the old memory what is still about something, with what this look has found.
fn kept(nodes: &[SeenNode], strays: &[Stray], old: &PoolMemory) -> PoolMemory {
    let mut memory = PoolMemory::default();
    for seen in nodes {
        let uid = seen.uid();
        if let SeenMachine::Gone { since } = seen.machine
            && status(&seen.node).gone_time.is_none()
        {
            memory.gone_since.insert(uid.clone(), since);
        }
        if let Some(Answer::Requested { machine_uid }) = &seen.answer {
            memory.requested.insert(uid.clone(), machine_uid.clone());
        }
        if let Some(written) = old.written.get(&uid).filter(|written| Arc::ptr_eq(written, &seen.node)) {
            memory.written.insert(uid.clone(), Arc::clone(written));
        }
        if let Some(looked) = &seen.strangers {
            memory.strangers.insert(uid.clone(), looked.clone());
        }
        if let Some(held_up) = old.held_up.get(&uid) {
            memory.held_up.insert(uid, held_up.clone());
        }
    }
    for stray in strays {
        let uid = stray.machine.uid.clone();
        if let Some(held_up) = old.held_up.get(&uid) {
            memory.held_up.insert(uid.clone(), held_up.clone());
        }
        memory.strays.insert(uid, stray.since);
    }
    memory
}
