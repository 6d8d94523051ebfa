//! One Run, reduced to what the cluster controller reads of it: a hundredth of the wire object, because a queue may hold
//! tens of thousands.

use jiff::{SignedDuration, Timestamp};
use trainyard_api::{
    conditions::RunCondition,
    conditions::{self, ConditionStatus},
    run::{Priority as WirePriority, Run},
    run_status::{
        Allocation, Attempt, DirectiveKind as WireKind, DirectiveReason as WireDirectiveReason,
        HoldReason as WireHoldReason, RunPhase, RunQueue,
    },
};
use trainyard_planner::{
    ActiveRun, Capacity, DirectiveKind, DirectiveReason, EndedAttempt, GivenDirective, Hold, HoldReason,
    NodeName, Priority, Progress, QueuedRun, RequestedShare, RunId,
};

use super::node::{planner_capacity, wire_capacity};
use crate::run::{Portion, ValidRun, limits};

/// What the cluster controller keeps of a Run that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct LightRun {
    /// Which.
    pub id: RunId,
    /// The version this was read at.
    pub resource_version: String,
    /// Namespace of the Cluster it names.
    pub cluster_namespace: String,
    /// Name of that Cluster.
    pub cluster: String,
    /// When it was created.
    pub created: Timestamp,
    /// Its priority.
    pub priority: Priority,
    /// Nodes it needs.
    pub node_count: i64,
    /// What it takes of each; absent, the whole node.
    pub portion: Option<Portion>,
    /// Pods on the node that gets most of them; counts when nodes are shared.
    pub pods_on_a_node: i64,
    /// The least of `maxWallClockTime` and what is left of `maxTotalTime`, as far as its user wrote them: what its next or
    /// live attempt takes at most.
    pub user_limit: Option<SignedDuration>,
    /// When it has waited in the queue as long as its `queueDeadline` allows; absent while it does not wait.
    pub give_up_at: Option<Timestamp>,
    /// `gangTimeout`.
    pub gang_timeout: SignedDuration,
    /// It wants to run: accepted, in phase Queued, neither suspended nor cancelled nor being deleted.
    pub wants_to_run: bool,
    /// `status.allocation`.
    pub allocation: Option<LightAllocation>,
    /// `status.queue` as it was last written.
    pub queue: Option<RunQueue>,
}

/// What is kept of `status.allocation` and of the attempt it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct LightAllocation {
    /// Number of the attempt.
    pub attempt: i64,
    /// Names of its ClusterNodes, in the order of ranks.
    pub nodes: Vec<String>,
    /// The directive given, if one was.
    pub directive: Option<GivenDirective>,
    /// What the run controller recorded of it, once it has answered.
    pub answer: Option<LightAttempt>,
}

/// What is kept of `status.attempts[k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LightAttempt {
    /// When its gates were opened; its time limit counts from here.
    pub launched: Option<Timestamp>,
    /// Its end is recorded.
    pub ended: bool,
    /// A live list made after the end showed no pod of it.
    pub pods_gone: bool,
}

/// Where a run stands for the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for nodes.
    Queued,
    /// It has a live attempt.
    Active(Progress),
    /// It neither waits nor holds anything (not accepted, suspended, cancelled, being deleted, ended).
    Aside,
}

impl LightRun {
    /// Reduces a Run. `None` for one without the metadata that every stored object has.
    pub fn of(run: &Run) -> Option<Self> {
        let metadata = &run.metadata;
        let status = run.status.as_ref();
        let allocation = status.and_then(|status| status.allocation.as_ref());
        // One that is not valid is not accepted, and a Run of whole nodes needs no look at its processes.
        let shares = run.spec.resources_per_node.is_some();
        let shared = shares.then(|| ValidRun::parse(run).ok()).flatten();
        Some(Self {
            id: RunId {
                namespace: metadata.namespace.clone()?,
                name: metadata.name.clone()?,
                uid: metadata.uid.clone()?,
            },
            resource_version: metadata.resource_version.clone()?,
            cluster_namespace: run.spec.cluster_ref.namespace_or(metadata.namespace.as_ref()?).to_owned(),
            cluster: run.spec.cluster_ref.name.clone(),
            created: metadata.creation_timestamp.as_ref()?.0,
            priority: match run.spec.priority {
                WirePriority::Low => Priority::Low,
                WirePriority::Normal => Priority::Normal,
                WirePriority::High => Priority::High,
            },
            node_count: i64::from(run.spec.node_count),
            portion: shared.as_ref().and_then(|valid| valid.portion),
            pods_on_a_node: shared.map_or(1, |valid| valid.layout.most_on_one_node() as i64),
            user_limit: limits::of_next_attempt(run),
            give_up_at: limits::queue_deadline(run),
            gang_timeout: SignedDuration::from_secs(run.spec.gang_timeout.as_secs()),
            wants_to_run: wants_to_run(run),
            allocation: allocation.map(|allocation| {
                let attempts = status.map(|status| status.attempts.as_slice()).unwrap_or_default();
                LightAllocation::of(allocation, attempts)
            }),
            queue: status.and_then(|status| status.queue.clone()),
        })
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        match self.allocation.as_ref().map(LightAllocation::progress) {
            Some(Some(progress)) => Standing::Active(progress),
            Some(None) | None if self.wants_to_run => Standing::Queued,
            Some(None) | None => Standing::Aside,
        }
    }

    /// As a queued run of a Cluster whose nodes have `node_capacity`; zero, when nothing is known of them.
    pub fn as_queued(&self, node_capacity: &Capacity) -> QueuedRun {
        let queue = self.queue.as_ref();
        QueuedRun {
            id: self.id.clone(),
            priority: self.priority,
            created: self.created,
            node_count: self.node_count,
            share: self.share(node_capacity),
            user_limit: self.user_limit,
            gang_timeout: self.gang_timeout,
            gang_since: queue.and_then(|queue| queue.gang_since.as_ref()).map(|time| time.0),
            hold: queue.and_then(|queue| queue.hold.as_ref()).map(|hold| Hold {
                until: hold.until.0,
                count: i64::from(hold.count),
                reason: match hold.reason {
                    WireHoldReason::GangTimeout | WireHoldReason::Unknown => HoldReason::CapacityHold,
                },
            }),
            give_up_at: self.give_up_at,
            given_up: queue.is_some_and(|queue| queue.given_up.is_some()),
            next_attempt: self.allocation.as_ref().map_or(1, |allocation| allocation.attempt + 1),
        }
    }

    /// As a run with a live attempt; `None` when nothing is allocated.
    pub fn as_active(&self, progress: Progress) -> Option<ActiveRun> {
        let allocation = self.allocation.as_ref()?;
        Some(ActiveRun {
            id: self.id.clone(),
            priority: self.priority,
            created: self.created,
            attempt: allocation.attempt,
            nodes: allocation.nodes.iter().cloned().map(NodeName).collect(),
            progress,
            directive: allocation.directive,
            started: allocation.answer.and_then(|answer| answer.launched),
            limit: self.user_limit.unwrap_or(limits::DEFAULT_WALL_CLOCK),
            limit_by_user: self.user_limit.is_some(),
            whole: self.portion.is_none(),
        })
    }

    /// The attempt of its last allocation, if it is over and no pod of it is left.
    pub fn ended_attempt(&self) -> Option<EndedAttempt> {
        let allocation = self.allocation.as_ref()?;
        allocation
            .progress()
            .is_none()
            .then(|| EndedAttempt { run: self.id.clone(), attempt: allocation.attempt })
    }

    /// Nodes of one Cluster are equal, so a part of one is the same part of any. The planner is told amounts, because
    /// tenants of one node may ask in different terms.
    fn share(&self, node_capacity: &Capacity) -> RequestedShare {
        let Some(portion) = self.portion.filter(|_| !node_capacity.is_zero()) else {
            return RequestedShare::WholeNode;
        };
        let part = portion
            .of(&wire_capacity(node_capacity), self.pods_on_a_node)
            .map(|part| planner_capacity(&part));
        // Accepted when its nodes had accelerators of one kind, and they have no longer: no node holds this.
        let of_no_kind = |_| Capacity {
            accelerators: [("accelerators".to_owned(), portion.accelerators())].into(),
            ..Capacity::default()
        };
        RequestedShare::Part(part.unwrap_or_else(of_no_kind))
    }
}

impl LightAllocation {
    fn of(allocation: &Allocation, attempts: &[Attempt]) -> Self {
        let answer = attempts.iter().find(|attempt| attempt.number == allocation.attempt);
        Self {
            attempt: i64::from(allocation.attempt),
            nodes: allocation.nodes.iter().map(|node| node.name.clone()).collect(),
            directive: allocation.directive.as_ref().map(|directive| GivenDirective {
                kind: planner_kind(directive.kind),
                reason: planner_directive_reason(directive.reason),
            }),
            answer: answer.map(|attempt| LightAttempt {
                launched: attempt.launched.as_ref().map(|time| time.0),
                ended: attempt.end_time.is_some(),
                pods_gone: attempt.pods_gone,
            }),
        }
    }

    /// How far its attempt got; `None` when it is over and nothing of it is left.
    pub fn progress(&self) -> Option<Progress> {
        match self.answer {
            Some(LightAttempt { ended: true, pods_gone: true, .. }) => None,
            Some(LightAttempt { ended: true, .. }) => Some(Progress::Ended),
            Some(LightAttempt { launched: Some(_), .. }) => Some(Progress::Launched),
            Some(_) | None => Some(Progress::Allocated),
        }
    }
}

fn wants_to_run(run: &Run) -> bool {
    let Some(status) = &run.status else { return false };
    let accepted = match conditions::find(&status.conditions, RunCondition::Accepted)
        .map(|condition| condition.status)
    {
        // Unknown: an admission webhook that cannot rehearse keeps the answer from being known, and no Run waiting.
        Some(ConditionStatus::True | ConditionStatus::Unknown) => true,
        Some(ConditionStatus::False) | None => false,
    };
    accepted
        && status.phase == Some(RunPhase::Queued)
        && !run.spec.suspend
        && !run.spec.cancel
        && status.cancel_requested_time.is_none()
        && run.metadata.deletion_timestamp.is_none()
}

fn planner_kind(kind: WireKind) -> DirectiveKind {
    match kind {
        WireKind::Stop => DirectiveKind::Stop,
        WireKind::Requeue => DirectiveKind::Requeue,
        // One of a newer version is final for its attempt, too; the planner only needs to know that there is one.
        WireKind::Fail | WireKind::Unknown => DirectiveKind::Fail,
    }
}

/// The wire's word for a directive.
pub fn wire_kind(kind: DirectiveKind) -> WireKind {
    match kind {
        DirectiveKind::Stop => WireKind::Stop,
        DirectiveKind::Requeue => WireKind::Requeue,
        DirectiveKind::Fail => WireKind::Fail,
    }
}

fn planner_directive_reason(reason: WireDirectiveReason) -> DirectiveReason {
    match reason {
        WireDirectiveReason::Withdrawn => DirectiveReason::Withdrawn,
        WireDirectiveReason::NodeLost => DirectiveReason::NodeLost,
        WireDirectiveReason::NodeRemoved => DirectiveReason::NodeRemoved,
        WireDirectiveReason::MaxNodesLowered => DirectiveReason::MaxNodesLowered,
        WireDirectiveReason::NodePreempted => DirectiveReason::NodePreempted,
        WireDirectiveReason::NodeUnusable => DirectiveReason::NodeUnusable,
        WireDirectiveReason::ClusterDeleted | WireDirectiveReason::Unknown => DirectiveReason::ClusterDeleted,
    }
}

/// The wire's word for a directive's reason.
pub fn wire_directive_reason(reason: DirectiveReason) -> WireDirectiveReason {
    match reason {
        DirectiveReason::Withdrawn => WireDirectiveReason::Withdrawn,
        DirectiveReason::NodeLost => WireDirectiveReason::NodeLost,
        DirectiveReason::NodePreempted => WireDirectiveReason::NodePreempted,
        DirectiveReason::NodeUnusable => WireDirectiveReason::NodeUnusable,
        DirectiveReason::ClusterDeleted => WireDirectiveReason::ClusterDeleted,
        DirectiveReason::NodeRemoved => WireDirectiveReason::NodeRemoved,
        DirectiveReason::MaxNodesLowered => WireDirectiveReason::MaxNodesLowered,
    }
}
