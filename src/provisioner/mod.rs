//! Engines: what makes machines, driven through Kubernetes objects, never through a cloud's API.
//!
//! A [`Provisioner`] turns "this ClusterNode shall have a machine" into its engine's objects and back. It is keyed by
//! [`Pool`], one Cluster's machines, because some engines can only be given a whole set.
//!
//! Flow: the node controller calls [`observe`](Provisioner::observe), decides, and calls
//! [`ensure`](Provisioner::ensure) and [`release`](Provisioner::release). The cluster controller calls
//! [`validate`](Provisioner::validate) before it asks for nodes.
//!
//! An engine that finds machines, instead of making them, can also count them: the cluster controller asks it before it
//! plans ([`count`](Provisioner::count)), and has those set aside that it is about to ask for.
//!
//! Guarantees every engine gives, held by [`conformance`]:
//! * `ensure` adds and never removes; said twice it adds once; a machine that was seen and is gone is not made again.
//! * `release` removes exactly what it is given, by UID, and only when the object carries our UIDs.
//! * An object of the right name with other UIDs is never adopted.
//! * `observe` tells everything that is there, strangers included, and what the engine said of machines it gave up.
//! * No machine is ever given to two ClusterNodes. One that was found is given back as it was found.
//! * A lost machine is removed without waiting for what runs there. One that was found is nobody's until it is back and empty.
//!
//! An engine must never: decide whether a machine is wanted, busy or idle; read a Cluster, a Run or a class (all it
//! needs is copied into the ClusterNode); wait.

pub mod conformance;
pub mod engines;
pub mod error;
pub mod karpenter;
pub mod memory;
pub mod ownership;
pub mod static_nodes;

use std::{cmp::Reverse, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use kube::ResourceExt as _;
use trainyard_api::{
    ClusterNode,
    cluster_node::{ClusterNodeSpec, Engine},
};
use trainyard_model::node::{
    found::Counted,
    seen::{GivenUp, LastWords, Machine, Owner},
};

use crate::{kubernetes::cache::Cache, tasks::Tasks, telemetry::metrics::Metrics};

pub use engines::{EngineKind, Engines};
pub use error::Error;

/// One Cluster, whose machines are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    /// Namespace of the Cluster and of its ClusterNodes.
    pub namespace: String,
    /// Name of the Cluster.
    pub name: String,
    /// UID of the Cluster: what machines are found by.
    pub uid: String,
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken<'a> {
    /// Something of the Cluster with this UID.
    Pool(&'a str),
    /// Something of the machine made for the ClusterNode of this name; its namespace is not known.
    Machine(&'a str),
}

/// Told what may have changed. Must not block.
pub type Wake = Arc<dyn Fn(Woken<'_>) + Send + Sync>;

/// What an engine needs to start its watches.
pub struct Starting<'a> {
    /// Where the watches run.
    pub tasks: &'a mut Tasks,
    /// Where they are counted.
    pub metrics: &'a Metrics,
    /// Whom to tell.
    pub wake: Wake,
    /// All ClusterNodes, as the node controller follows them: an engine that finds machines keeps those for a Cluster that
    /// its ClusterNodes await.
    pub cluster_nodes: &'a Cache<ClusterNode>,
}

/// Static facts about an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What can be removed.
    pub removal: Removal,
    /// Whether the engine drains a machine's pods itself when it is released.
    pub drains: bool,
    /// What it says when it gives a machine up or has none, so that a wait need not end by a time limit.
    pub tells: &'static [GivenUp],
    /// Where its machines come from.
    pub origin: Origin,
    /// Whether machines can be had that the cloud may take back.
    pub spot: bool,
}

/// Where the machines of an engine come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They are made, under the names of their ClusterNodes, and destroyed.
    Made,
    /// They were there before, under names of their own; they are counted, and given back as they were.
    Found,
}

/// What an engine can remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Exactly the machine that is named.
    Exact,
    /// One machine at a time; the engine takes the one that is cordoned.
    CordonFirst,
    /// A hold is taken off exactly the machine that is named; the engine removes it in its own time.
    DelegatedHold,
    /// Nothing less than all machines of a pool.
    WholePoolOnly,
}

/// Whether an engine can make machines of this kind now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity {
    /// As far as can be known before asking.
    Usable,
    /// Not until somebody mends something.
    Refused(Refusal),
}

/// Why an engine makes no machines, found before anything is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, for programs.
    pub code: RefusalCode,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// Kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The engine's API is not served: it is not installed.
    EngineUnavailable,
    /// The class names an object of the engine, or machines, that do not exist.
    ClassNotFound,
    /// That object exists and the engine says that it is not ready.
    ClassNotReady,
    /// The operator may not read that object.
    ClassForbidden,
    /// An object of somebody else's stands where the engine would take ours for it.
    PoolNameTaken,
}

/// Everything an engine knows of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Every machine under the Cluster's UID, strangers included.
    pub machines: Vec<Machine>,
    /// What the engine said of machines it gave up, as long as it is remembered.
    pub last_words: Vec<LastWords>,
    /// The engine is not installed, as a live look shows. What it had made may run on, and nobody can tell: that it is not
    /// among `machines` means nothing, and who must know asks [`Provisioner::look_up`].
    pub is_absent: bool,
}

impl Observed {
    /// The machine made for this ClusterNode, if it is there.
    pub fn machine_of(&self, node: &ClusterNode) -> Option<&Machine> {
        best_of(self.machines.iter(), node)
    }
}

/// Of all machines the one of this ClusterNode. A backing object counts before a bare Node; then the one that its status
/// names before one that somebody else has got for it at the same time; then the one that got further.
pub fn best_of<'a>(
    machines: impl IntoIterator<Item = &'a Machine>,
    node: &ClusterNode,
) -> Option<&'a Machine> {
    let uid = node.uid().unwrap_or_default();
    let recorded = node.status.as_ref().and_then(|status| status.machine_uid.as_deref());
    let owned = |machine: &&Machine| machine.owner.as_ref().is_some_and(|owner| owner.uid == uid);
    machines.into_iter().filter(owned).max_by_key(|machine| {
        let is_recorded = Some(machine.uid.as_str()) == recorded;
        (machine.backing.is_some(), is_recorded, machine.progress, Reverse(machine.name.as_str()))
    })
}

/// What an engine that can count still has for the nodes of one Cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// How many, and what is the matter with the others.
    pub counted: Counted,
    /// When to count again although nothing will have told.
    pub again_at: Option<Timestamp>,
}

/// Told that what was counted for a pool has changed. Must not block.
pub type Recount = Arc<dyn Fn(&Pool) + Send + Sync>;

/// One machine that shall exist.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The ClusterNode it is for: its name, UID and spec say all there is to say.
    pub node: Arc<ClusterNode>,
    /// UID of its machine, once one was seen. Such a machine is not made again, even when it is gone.
    pub machine: Option<String>,
}

/// What came of one [`Wanted`] that had no machine yet.
#[derive(Debug)]
pub struct Launch {
    /// UID of the ClusterNode.
    pub node_uid: String,
    /// What came of it. After an error the machine may have been asked for, or not.
    pub result: Result<Launched, Error>,
}

/// How a request for a machine was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launched {
    /// It is asked for, now or before, by an object with this UID.
    Requested {
        /// UID of the backing object.
        machine_uid: String,
    },
    /// An object of its name exists and is not ours.
    NameTaken {
        /// Which object, and whose it seems to be.
        message: String,
    },
    /// There is none for it now, as the engine knows at once. Nothing was asked for.
    NoneLeft {
        /// What there is, and why none of it will do.
        message: String,
    },
    /// The request itself is not taken; the same one never will be.
    Rejected {
        /// The words of whoever refused.
        message: String,
    },
}

/// One machine that shall go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The machine, as it was observed.
    pub machine: Box<Doomed>,
    /// Whether pods there are waited for.
    pub drain: Drain,
}

/// Identity of a machine that is to be destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Name of the object it is released by.
    pub name: String,
    /// UID of that object.
    pub uid: String,
    /// Whether that object is the engine's own, and not a bare Node.
    pub backed: bool,
    /// The ClusterNode it must have been made for, when one is known.
    pub owner: Option<Owner>,
}

impl Doomed {
    /// The identity of an observed machine.
    pub fn of(machine: &Machine) -> Self {
        Self {
            name: machine.name.clone(),
            uid: machine.uid.clone(),
            backed: machine.backing.is_some(),
            owner: machine.owner.clone(),
        }
    }
}

/// Whether an engine waits for pods on a machine it removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Until the last pod that can be evicted is gone.
    Wait,
    /// The machine is lost, or hangs: at once.
    Skip,
}

/// What came of one [`Release`].
#[derive(Debug)]
pub struct Released {
    /// UID of the object it was to be released by.
    pub machine_uid: String,
    /// What came of it.
    pub result: Result<ReleaseOutcome, Error>,
}

/// How a request to destroy a machine was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// It is going.
    Started,
    /// It is not there.
    AlreadyGone,
    /// It is left alone: not ours, or not removable now.
    Refused(String),
}

/// An engine. See the module for what it must and must not do.
#[async_trait]
pub trait Provisioner: Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Starts to follow its objects. Called once, before anything but `capabilities` and `validate`.
    fn watches(&self, starting: &mut Starting<'_>);

    /// Whether it could make machines with this block, for this pool. Cheap enough to be asked at every decision.
    async fn validate(&self, pool: &Pool, engine: &Engine) -> Result<Validity, Error>;

    /// How many machines are there for nodes like this one; `None` from an engine that makes them. From its watches; those
    /// that ClusterNodes of other pools await, or that are set aside for such, are not counted as free. Once it is another number,
    /// [`Recount`] is told.
    async fn count(&self, _: &Pool, _: &ClusterNodeSpec) -> Result<Option<Supply>, Error> {
        Ok(None)
    }

    /// Sets so many machines aside for nodes of this pool that are about to be asked for, after a live look at them: for half a
    /// minute, in which their ClusterNodes are made. From then on these speak for themselves. Nothing is set aside when fewer than that are free, as the answer says.
    async fn set_aside(&self, _: &Pool, _: &ClusterNodeSpec, _: i64) -> Result<Option<Supply>, Error> {
        Ok(None)
    }

    /// Whom to tell when what was counted has changed. Called once.
    fn on_recount(&self, _: Recount) {}

    /// A ClusterNode has changed: what it awaited may be free for others. Called after the cache of them has changed. Must not
    /// block.
    fn cluster_node_changed(&self, _before: Option<&ClusterNode>, _after: Option<&ClusterNode>) {}

    /// Everything it has under this pool's UID, from its watches. Writes nothing.
    async fn observe(&self, pool: &Pool) -> Result<Observed, Error>;

    /// The backing object of this name as it is now, past every cache: `None` only when there is none, or when the engine
    /// is not installed (any more). For the moments in which "gone" would be acted on.
    async fn look_up(&self, pool: &Pool, node: &ClusterNode) -> Result<Option<Machine>, Error>;

    /// Asks for every machine of the full wanted set that has none. Answers about those only.
    async fn ensure(&self, pool: &Pool, wanted: &[Wanted]) -> Result<Vec<Launch>, Error>;

    /// Destroys exactly these.
    async fn release(&self, pool: &Pool, leaving: &[Release]) -> Vec<Released>;
}
