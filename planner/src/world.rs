//! The working copy of a plan: the snapshot's nodes as they will be once what is decided so far has happened, and the
//! decisions themselves.
//!
//! Made anew by every [`plan`](crate::plan()); each step reads it, decides, and changes it through the functions below, so
//! that a later step never sees a node otherwise than an executed plan would leave it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::action::{Action, DropBasis};
use crate::capacity::Capacity;
use crate::clock;
use crate::decisions::Decisions;
use crate::identity::{NodeName, RunId};
use crate::snapshot::{
    ActiveRun, Claim, Hold, Lifetime, Machine, Node, PoolHold, Progress, QueuedRun, RequestedShare,
    RetireReason, Snapshot,
};

/// How long a node that was ready and is not is counted on by runs that wait, as if it were booting. A kubelet that
/// restarts is back within seconds, and one that stays silent is lost after 60 s; so what is not ready for longer was cordoned or
/// tainted by somebody or lost its accelerators, and whether and when that ends nobody knows. A new machine is there
/// after some minutes; a longer wait would save little, a shorter one buy machines for mere restarts.
const TRUSTED_NOT_READY: SignedDuration = SignedDuration::from_mins(2);

/// When a tenant leaves its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ends {
    /// Its end is recorded; its pods are going.
    Soon,
    /// At this instant at the latest; `by_user` when its user promised so.
    At { time: Timestamp, by_default: bool },
    /// Its time has not begun to count, and its user promised nothing.
    Unknown,
    /// It has not come: it waits, and counts on the node.
    Awaited,
}

/// A run on a node, after this plan's drops and allocations.
pub(crate) struct Tenant<'a> {
    pub run: &'a RunId,
    pub share: Cow<'a, Capacity>,
    pub ends: Ends,
}

/// One node, as this plan leaves it.
pub(crate) struct NodeState<'a> {
    pub node: &'a Node,
    pub tenants: Vec<Tenant<'a>>,
    /// What is left of it; nothing, when it has a tenant and nobody asks for parts of nodes.
    pub free: Cow<'a, Capacity>,
    /// Start of its idle clock. `None`: this plan empties it, so the clock starts when that is done.
    pub idle_from: Option<Timestamp>,
    pub retired: Option<RetireReason>,
    pub released: bool,
    /// A waiting run counts on it.
    pub promised: bool,
    /// To be emptied so that the pool gets within its maximum: takes no further tenant.
    pub draining: bool,
}

impl NodeState<'_> {
    /// Neither leaving nor broken.
    pub(crate) fn stays(&self) -> bool {
        self.retired.is_none()
            && !self.released
            && !matches!(self.node.machine, Machine::Failed | Machine::Gone)
    }

    /// Leaving, but it may be called back. Not one with somebody's pod on it: nobody knows what that takes of it.
    pub(crate) fn can_be_called_back(&self) -> bool {
        self.retired.is_some_and(|reason| !reason.is_final())
            && !self.released
            && !self.node.deleted
            && self.node.failure.is_none()
            && self.node.occupied.is_none()
            && self.tenants.is_empty()
            && matches!(self.node.machine, Machine::Coming | Machine::Ready)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.node.machine == Machine::Gone
    }

    /// When runs stop counting on it, if it stays as it is: only a node that is not ready loses their trust.
    pub(crate) fn trusted_until(&self) -> Option<Timestamp> {
        let since = self.node.not_ready_since.unwrap_or(Timestamp::MIN);
        (self.node.machine == Machine::NotReady).then(|| clock::after(since, TRUSTED_NOT_READY))
    }

    /// Not ready, and for so long that no run counts on it.
    pub(crate) fn is_stalled(&self, now: Timestamp) -> bool {
        self.trusted_until().is_some_and(|until| until <= now)
    }
}

/// `minNodes` and `maxNodes`, 0 for a Cluster that is not wanted any more.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub minimum: i64,
    pub maximum: i64,
}

/// See the module.
pub(crate) struct World<'a> {
    pub snapshot: &'a Snapshot,
    pub now: Timestamp,
    /// What the Cluster may not go below, as far as the engine can give it.
    pub minimum: i64,
    /// What the Cluster may not go beyond, and cannot: `maxNodes`, or less where the engine has no more machines.
    pub maximum: i64,
    /// Nodes that count against the maximum and on which no run counts.
    pub quarantined: i64,
    /// What its user wrote.
    pub written: Limits,
    /// Some waiting run asks for a part of a node. If none does, nobody asks what is free of a node with a tenant.
    pub sharing: bool,
    /// In order of ordinal.
    pub nodes: Vec<NodeState<'a>>,
    by_name: BTreeMap<&'a NodeName, usize>,
    /// Active runs by UID.
    pub active: BTreeMap<&'a str, &'a ActiveRun>,
    /// Claims of an allocation that was begun and not written, by the UID of their queued run: its next allocation
    /// takes them over, or they are dropped.
    pub unfinished: BTreeMap<&'a str, Vec<(usize, &'a Claim)>>,
    pub decisions: Decisions,
}

impl<'a> World<'a> {
    /// The snapshot, before anything is decided.
    pub(crate) fn new(snapshot: &'a Snapshot, now: Timestamp) -> Self {
        let written = limits(snapshot);
        let maximum = written.maximum.min(within_reach(snapshot));
        let active: BTreeMap<_, _> = snapshot.active.iter().map(|run| (run.id.uid.as_str(), run)).collect();
        let sharing = snapshot.queued.iter().any(|run| run.share != RequestedShare::WholeNode);
        let mut nodes: Vec<_> =
            snapshot.nodes.iter().map(|node| observed(node, &active, sharing, now)).collect();
        nodes.sort_by(|one, other| {
            (one.node.ordinal, &one.node.name).cmp(&(other.node.ordinal, &other.node.name))
        });
        let by_name: BTreeMap<_, _> =
            nodes.iter().enumerate().map(|(at, state)| (&state.node.name, at)).collect();
        let mut world = Self {
            snapshot,
            now,
            minimum: written.minimum.min(maximum),
            maximum,
            quarantined: snapshot.nodes.iter().filter(|node| node.may_come_back()).count() as i64,
            written,
            sharing,
            nodes,
            by_name,
            active,
            unfinished: BTreeMap::new(),
            decisions: Decisions::default(),
        };
        world.occupy_unclaimed();
        world.note_lost_trust();
        world
    }

    /// What waiting runs count on is another thing when they stop counting on a node.
    fn note_lost_trust(&mut self) {
        if self.snapshot.queued.is_empty() {
            return;
        }
        let ends: Vec<_> =
            self.nodes.iter().filter(|state| state.stays()).filter_map(NodeState::trusted_until).collect();
        ends.into_iter().for_each(|until| self.note_instant(until));
    }

    /// A launched attempt has its nodes, whether or not its claims are still to be seen.
    fn occupy_unclaimed(&mut self) {
        let launched: Vec<_> =
            self.active.values().copied().filter(|run| run.progress >= Progress::Launched).collect();
        let now = self.now;
        for run in launched {
            for name in &run.nodes {
                let Some(at) = self.node(name) else { continue };
                let state = &mut self.nodes[at];
                if state
                    .node
                    .claims
                    .iter()
                    .all(|claim| claim.run.uid != run.id.uid || claim.attempt != run.attempt)
                {
                    let share = &state.node.capacity;
                    state.free = Cow::Owned(state.free.minus(share));
                    state.tenants.push(Tenant {
                        run: &run.id,
                        share: Cow::Borrowed(share),
                        ends: ends(run, now),
                    });
                }
            }
        }
    }

    /// How many nodes are lacking of those that the Cluster was to begin with; 0 once they have been asked for.
    pub(crate) fn initial_nodes_lacking(&self) -> i64 {
        match self.snapshot.policy.initial_last_ordinal {
            None => (self.snapshot.policy.initial_nodes.min(self.maximum) - self.total()).max(0),
            Some(_) => 0,
        }
    }

    /// The highest ordinal of the nodes that the Cluster was to begin with, once they have been asked for. Seen on nodes that
    /// exist: a plan may end before it has asked for any.
    pub(crate) fn initial_last_ordinal(&self) -> Option<i64> {
        let policy = &self.snapshot.policy;
        let count = policy.initial_nodes.min(self.maximum);
        let now = || {
            let mut there = self.nodes.iter().filter(|state| !state.is_gone());
            // In order of ordinal: what else was asked for at the same time is for runs, and goes with them.
            let last = there.nth(usize::try_from(count - 1).ok()?)?;
            Some(last.node.ordinal)
        };
        policy.initial_last_ordinal.or_else(now)
    }

    /// Nothing is asked for, and nothing that could serve is given back.
    pub(crate) fn is_frozen(&self) -> bool {
        self.snapshot.policy.hold == PoolHold::Freeze && self.snapshot.lifetime == Lifetime::Wanted
    }

    /// The index of the node of that name.
    pub(crate) fn node(&self, name: &NodeName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Nodes that count against the maximum: everything of which something may be left.
    pub(crate) fn total(&self) -> i64 {
        self.nodes.iter().filter(|state| !state.is_gone()).count() as i64
    }

    /// Nodes that neither leave nor are broken.
    pub(crate) fn staying(&self) -> i64 {
        self.nodes.iter().filter(|state| state.stays()).count() as i64
    }

    /// Nodes that may be called back, in the order in which they are: whoever waits is served best by what is ready.
    pub(crate) fn callable(&self) -> Vec<usize> {
        let mut callable: Vec<usize> =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].can_be_called_back()).collect();
        callable.sort_by_key(|at| self.nodes[*at].node.machine != Machine::Ready);
        callable
    }

    /// At `time` this plan would be another one.
    pub(crate) fn note_instant(&mut self, time: Timestamp) {
        if time > self.now {
            let first = self.decisions.instants.map_or(time, |known| known.min(time));
            self.decisions.instants = Some(first);
        }
    }

    /// The first instant noted.
    pub(crate) fn first_instant(&self) -> Option<Timestamp> {
        self.decisions.instants
    }

    /// Removes a claim. The node's idle clock starts when its last one goes.
    pub(crate) fn drop_claim(&mut self, at: usize, claim: &'a Claim, basis: DropBasis) {
        self.vacate(at, claim);
        self.decisions.drops.push(drop_action(self.nodes[at].node, claim, basis));
    }

    /// Treats a claim of an unfinished allocation as gone until its run's next allocation is known.
    pub(crate) fn set_aside(&mut self, at: usize, claim: &'a Claim) {
        self.vacate(at, claim);
        self.unfinished.entry(claim.run.uid.as_str()).or_default().push((at, claim));
    }

    fn vacate(&mut self, at: usize, claim: &Claim) {
        let state = &mut self.nodes[at];
        let seat =
            state.tenants.iter().position(|tenant| tenant.run == &claim.run && *tenant.share == claim.share);
        if let Some(seat) = seat {
            state.tenants.remove(seat);
            state.free = Cow::Owned(state.free.plus(&claim.share));
        }
        if state.tenants.is_empty() {
            state.free = Cow::Borrowed(&state.node.capacity);
            state.idle_from = None;
        }
    }

    /// Gives nodes to a run. They must be ready, staying (or be called back here) and have the capacity.
    pub(crate) fn allocate(&mut self, run: &'a QueuedRun, mut chosen: Vec<usize>) {
        chosen.sort_unstable();
        let mut shares = Vec::with_capacity(chosen.len());
        for at in &chosen {
            self.call_back(*at);
            let state = &mut self.nodes[*at];
            let share = match &run.share {
                RequestedShare::WholeNode => &state.node.capacity,
                RequestedShare::Part(share) => share,
            };
            state.free = Cow::Owned(state.free.minus(share));
            let ends = run.user_limit.map_or(Ends::Unknown, |limit| Ends::At {
                time: clock::after(self.now, limit),
                by_default: true,
            });
            state.tenants.push(Tenant { run: &run.id, share: Cow::Borrowed(share), ends });
            shares.push(share.clone());
        }
        if let Some(begun) = self.unfinished.remove(run.id.uid.as_str()) {
            for (at, claim) in begun {
                let taken_over = chosen
                    .iter()
                    .position(|node| *node == at)
                    .is_some_and(|seat| claim.attempt == run.next_attempt && shares[seat] == claim.share);
                if !taken_over {
                    let action = drop_action(self.nodes[at].node, claim, DropBasis::NotAllocated);
                    self.decisions.drops.push(action);
                }
            }
        }
        let nodes = chosen.iter().map(|at| self.nodes[*at].node.name.clone()).collect();
        self.decisions.allocations.push(Action::Allocate {
            run: run.id.clone(),
            attempt: run.next_attempt,
            nodes,
            shares,
        });
    }

    /// Drops the claims of unfinished allocations that no allocation of this plan took over.
    pub(crate) fn drop_unfinished(&mut self) {
        for (at, claim) in std::mem::take(&mut self.unfinished).into_values().flatten() {
            let action = drop_action(self.nodes[at].node, claim, DropBasis::NotAllocated);
            self.decisions.drops.push(action);
        }
    }

    /// Marks a node as leaving.
    pub(crate) fn retire(&mut self, at: usize, reason: RetireReason) {
        let state = &mut self.nodes[at];
        state.retired = Some(reason);
        self.decisions.marks.push(Action::Retire { node: state.node.name.clone(), reason });
    }

    /// Takes the mark back, if there is one.
    pub(crate) fn call_back(&mut self, at: usize) {
        let state = &mut self.nodes[at];
        if state.retired.take().is_some() {
            self.decisions.marks.push(Action::Unretire { node: state.node.name.clone() });
        }
    }

    /// Keeps a node for a waiting run, called back if it is about to leave.
    pub(crate) fn keep(&mut self, at: usize) {
        self.call_back(at);
        self.nodes[at].promised = true;
    }

    /// Lets a node's machine go.
    pub(crate) fn release(&mut self, at: usize) {
        let state = &mut self.nodes[at];
        state.released = true;
        self.decisions.releases.push(Action::Release { node: state.node.name.clone() });
    }

    /// Sets a run aside.
    pub(crate) fn hold(&mut self, run: &QueuedRun, hold: Hold) {
        self.decisions.holds.push(Action::Hold { run: run.id.clone(), hold });
    }

    /// Has a run that waits end.
    pub(crate) fn give_up(&mut self, run: &QueuedRun) {
        self.decisions.give_ups.push(Action::GiveUp { run: run.id.clone() });
    }
}

fn limits(snapshot: &Snapshot) -> Limits {
    let wanted = snapshot.lifetime == Lifetime::Wanted;
    let maximum = if wanted { snapshot.policy.max_nodes.max(0) } else { 0 };
    Limits { minimum: snapshot.policy.min_nodes.clamp(0, maximum), maximum }
}

/// As many nodes as there can be: those there are, of whatever state, because what leaves can be had again, and what the
/// engine could still give.
fn within_reach(snapshot: &Snapshot) -> i64 {
    let there = snapshot.nodes.iter().filter(|node| node.machine != Machine::Gone).count() as i64;
    snapshot.policy.stock.as_ref().map_or(i64::MAX, |stock| there.saturating_add(stock.free.max(0)))
}

/// A node with its tenants, as observed.
fn observed<'a>(
    node: &'a Node,
    active: &BTreeMap<&'a str, &'a ActiveRun>,
    sharing: bool,
    now: Timestamp,
) -> NodeState<'a> {
    let tenants: Vec<_> = node
        .claims
        .iter()
        .map(|claim| Tenant {
            run: &claim.run,
            share: Cow::Borrowed(&claim.share),
            ends: active
                .get(claim.run.uid.as_str())
                .filter(|run| run.attempt == claim.attempt)
                .map_or(Ends::Unknown, |run| ends(run, now)),
        })
        .collect();
    let is_whole = |tenant: &Tenant<'_>| active.get(tenant.run.uid.as_str()).is_some_and(|run| run.whole);
    let has_room = sharing && !tenants.iter().any(is_whole);
    let free = match (tenants.is_empty(), has_room) {
        (true, _) => Cow::Borrowed(&node.capacity),
        (false, false) => Cow::Owned(Capacity::default()),
        (false, true) => {
            Cow::Owned(tenants.iter().fold(node.capacity.clone(), |left, tenant| left.minus(&tenant.share)))
        }
    };
    NodeState {
        node,
        tenants,
        free,
        idle_from: Some(node.idle_since.max(node.first_ready).unwrap_or(node.requested_at)),
        retired: node.retired.as_ref().map(|retired| retired.reason),
        released: node.released,
        promised: false,
        draining: false,
    }
}

/// When an active run leaves its nodes. The end of one that is about to start moves on with `now` and is no estimate for
/// users, but its promise binds the reservation under which it was let through.
fn ends(run: &ActiveRun, now: Timestamp) -> Ends {
    match (run.progress, run.started) {
        (Progress::Allocated | Progress::Launched, None) if run.limit_by_user => {
            Ends::At { time: clock::after(now, run.limit), by_default: true }
        }
        (Progress::Ended, _) => Ends::Soon,
        (_, Some(started)) => {
            Ends::At { time: clock::after(started, run.limit), by_default: !run.limit_by_user }
        }
        (_, None) => Ends::Unknown,
    }
}

fn drop_action(node: &Node, claim: &Claim, basis: DropBasis) -> Action {
    Action::DropClaim { node: node.name.clone(), run: claim.run.clone(), attempt: claim.attempt, basis }
}
