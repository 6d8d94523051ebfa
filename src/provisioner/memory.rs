//! An engine whose machines are entries in a map: for tests of what stands on engines, and the smallest example of one.
//!
//! Machines come at once, or [`by hand`](Memory::by_hand); the test refuses launches, hangs drains, takes names, and
//! deletes machines behind everybody's back. It passes the same conformance suite as the real ones.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use kube::ResourceExt as _;
use trainyard_api::{ClusterNode, cluster_node::Engine, names::node_labels};
use trainyard_model::node::seen::{
    Allocatable, Backing, GivenUp, LastWords, Machine, NodeFacts, NodeTaint, Owner, Progress,
};

use super::{
    Capabilities, Drain, Error, Launch, Launched, Observed, Origin, Pool, Provisioner, Release,
    ReleaseOutcome, Released, Removal, Starting, Validity, Wake, Wanted, Woken,
};
use crate::clock::SharedClock;

/// The engine. Clones would be another one; share it in an `Arc`.
pub struct Memory {
    clock: SharedClock,
    wake: OnceLock<Wake>,
    state: Mutex<State>,
}

struct State {
    /// By name.
    machines: BTreeMap<String, Entry>,
    last_words: Vec<LastWords>,
    next_uid: u64,
    by_hand: bool,
    drains_hang: bool,
    refusal: Option<(GivenUp, String)>,
    validity: Validity,
}

#[derive(Clone)]
struct Entry {
    pool: String,
    machine: Machine,
}

impl Memory {
    /// An engine without machines, whose class is usable.
    pub fn new(clock: SharedClock) -> Self {
        let state = State {
            machines: BTreeMap::new(),
            last_words: Vec::new(),
            next_uid: 0,
            by_hand: false,
            drains_hang: false,
            refusal: None,
            validity: Validity::Usable,
        };
        Self { clock, wake: OnceLock::new(), state: Mutex::new(state) }
    }

    /// From now on machines stay as asked for until [`Memory::change`] moves them on.
    pub fn by_hand(&self) {
        self.lock().by_hand = true;
    }

    /// From now on every launch is refused so; `None` ends it.
    pub fn refuse(&self, refusal: Option<(GivenUp, String)>) {
        self.lock().refusal = refusal;
    }

    /// From now on drains end only when they are skipped, or end by themselves again.
    pub fn hang_drains(&self, hang: bool) {
        self.lock().drains_hang = hang;
    }

    /// The answer of `validate` from now on.
    pub fn set_validity(&self, validity: Validity) {
        self.lock().validity = validity;
    }

    /// Changes the machine of this name, as its cloud or its kubelet would. False when there is none.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Machine)) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.machines.get_mut(name) else { return false };
        change(&mut entry.machine);
        let pool = entry.pool.clone();
        drop(state);
        self.tell(&pool);
        true
    }

    /// Takes the machine of this name away, as somebody else would. False when there is none.
    pub fn vanish(&self, name: &str) -> bool {
        let Some(entry) = self.lock().machines.remove(name) else { return false };
        self.tell(&entry.pool);
        true
    }

    /// Puts a machine there that nobody here asked for.
    pub fn appear(&self, pool: &Pool, name: &str, owner: Option<Owner>) {
        let mut state = self.lock();
        let machine = state.new_machine(name, owner, self.clock.now());
        state.machines.insert(name.to_owned(), Entry { pool: pool.uid.clone(), machine });
        drop(state);
        self.tell(&pool.uid);
    }

    /// A copy of the machine of this name.
    pub fn machine(&self, name: &str) -> Option<Machine> {
        self.lock().machines.get(name).map(|entry| entry.machine.clone())
    }

    /// How many machines there are, of all pools.
    pub fn count(&self) -> usize {
        self.lock().machines.len()
    }

    fn tell(&self, pool: &str) {
        if let Some(wake) = self.wake.get() {
            wake(Woken::Pool(pool));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a failed test already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, pool: &Pool, wanted: &Wanted) -> Launched {
        let node = &wanted.node;
        let name = node.name_any();
        let mut state = self.lock();
        if let Some(there) = state.machines.get(&name) {
            let is_ours =
                there.machine.owner.as_ref().is_some_and(|owner| Some(&owner.uid) == node.uid().as_ref());
            return if is_ours {
                Launched::Requested { machine_uid: there.machine.uid.clone() }
            } else {
                Launched::NameTaken { message: format!("machine {name} exists and is not this node's") }
            };
        }
        let mut machine = state.new_machine(&name, Some(owner_of(node)), self.clock.now());
        let machine_uid = machine.uid.clone();
        if let Some((cause, message)) = state.refusal.clone() {
            // As with the real ones, the object is made and is soon gone.
            state.last_words.push(LastWords { name, uid: machine_uid.clone(), cause, message });
        } else {
            if !state.by_hand {
                come_up(&mut machine, node);
            }
            state.machines.insert(name, Entry { pool: pool.uid.clone(), machine });
        }
        drop(state);
        self.tell(&pool.uid);
        Launched::Requested { machine_uid }
    }

    fn destroy(&self, pool: &Pool, release: &Release) -> ReleaseOutcome {
        let doomed = &*release.machine;
        let mut state = self.lock();
        let hangs = state.drains_hang && release.drain == Drain::Wait;
        let Some(entry) =
            state.machines.get_mut(&doomed.name).filter(|entry| entry.machine.uid == doomed.uid)
        else {
            return ReleaseOutcome::AlreadyGone;
        };
        if entry.pool != pool.uid || (doomed.owner.is_some() && entry.machine.owner != doomed.owner) {
            return ReleaseOutcome::Refused(format!("{} was made for another node", doomed.name));
        }
        entry.machine.drain_skipped |= release.drain == Drain::Skip;
        entry.machine.deleting_since.get_or_insert(self.clock.now());
        if !hangs {
            state.machines.remove(&doomed.name);
        }
        drop(state);
        self.tell(&pool.uid);
        ReleaseOutcome::Started
    }
}

impl State {
    fn new_machine(&mut self, name: &str, owner: Option<Owner>, now: jiff::Timestamp) -> Machine {
        self.next_uid += 1;
        Machine {
            uid: format!("memory-machine-{}", self.next_uid),
            name: name.to_owned(),
            backing: Some(Backing { created: Some(now), node_name: None }),
            owner,
            progress: Progress::Requested,
            trouble: None,
            deleting_since: None,
            drain_skipped: false,
            found: false,
            provider_id: None,
            zone: None,
            node: None,
        }
    }
}

fn owner_of(node: &ClusterNode) -> Owner {
    Owner {
        namespace: node.namespace().unwrap_or_default(),
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
    }
}

/// Gives a machine the Node that its size promises, ready.
pub fn come_up(machine: &mut Machine, node: &ClusterNode) {
    let zone = node.spec.engine.karpenter.as_ref().and_then(|engine| engine.zones.first().cloned());
    let zone = zone.unwrap_or_else(|| "zone-a".to_owned());
    let (taint, size) = (&node.spec.taint, &node.spec.vm_size);
    let labels = [
        ("topology.kubernetes.io/zone", zone.clone()),
        (node_labels::CLUSTER_UID, node.spec.cluster.uid.clone()),
        (node_labels::CLUSTER_NAMESPACE, node.namespace().unwrap_or_default()),
        (node_labels::CLUSTER_NODE, node.name_any()),
        (node_labels::CLUSTER_NODE_UID, node.uid().unwrap_or_default()),
    ];
    let devices =
        size.accelerators.iter().map(|one| (one.resource_name.clone(), i64::from(one.count))).collect();
    let provider_id = format!("memory://{}", machine.uid);
    machine.progress = Progress::Registered;
    machine.provider_id = Some(provider_id.clone());
    machine.zone = Some(zone);
    machine.node = Some(NodeFacts {
        name: machine.name.clone(),
        uid: format!("node-of-{}", machine.uid),
        provider_id: Some(provider_id),
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ready: true,
        ready_changed: None,
        not_ready_message: String::new(),
        cordoned: false,
        taints: vec![NodeTaint {
            key: taint.key.clone(),
            value: taint.value.clone(),
            effect: taint.effect.as_str().to_owned(),
        }],
        allocatable: Allocatable {
            cpu_millis: i64::from(size.vcpus) * 1000,
            memory_bytes: trainyard_api::capacity::bytes(&size.memory).unwrap_or(0),
            pods: 110,
            devices,
        },
        deleting_since: None,
        created: machine.backing.as_ref().and_then(|backing| backing.created),
    });
}

#[async_trait]
impl Provisioner for Memory {
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
        // Only one controller is told; a second one would be told nothing, and its test would fail loudly.
        let _ = self.wake.set(starting.wake.clone());
    }

    async fn validate(&self, _: &Pool, _: &Engine) -> Result<Validity, Error> {
        Ok(self.lock().validity.clone())
    }

    async fn observe(&self, pool: &Pool) -> Result<Observed, Error> {
        let state = self.lock();
        let of_pool = state.machines.values().filter(|entry| entry.pool == pool.uid);
        Ok(Observed {
            machines: of_pool.map(|entry| entry.machine.clone()).collect(),
            last_words: state.last_words.clone(),
            is_absent: false,
        })
    }

    async fn look_up(&self, _: &Pool, node: &ClusterNode) -> Result<Option<Machine>, Error> {
        let machine = self.machine(&node.name_any());
        let uid = node.uid().unwrap_or_default();
        Ok(machine.filter(|machine| machine.owner.as_ref().is_some_and(|owner| owner.uid == uid)))
    }

    async fn ensure(&self, pool: &Pool, wanted: &[Wanted]) -> Result<Vec<Launch>, Error> {
        let missing = wanted.iter().filter(|wanted| wanted.machine.is_none());
        Ok(missing
            .map(|wanted| Launch {
                node_uid: wanted.node.uid().unwrap_or_default(),
                result: Ok(self.request(pool, wanted)),
            })
            .collect())
    }

    async fn release(&self, pool: &Pool, leaving: &[Release]) -> Vec<Released> {
        leaving
            .iter()
            .map(|release| Released {
                machine_uid: release.machine.uid.clone(),
                result: Ok(self.destroy(pool, release)),
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
