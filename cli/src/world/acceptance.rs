//! What the run controller finds out about a Run before the planner may see it, as far as files tell.
//!
//! In: the Runs of one Cluster. Out: the same, those that nobody has looked at yet with the status they would get, and
//! those that would not be accepted with the reason. A Run with a status of its own is believed. The judgement itself is
//! the model's; here is what it is made from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster_node::ClusterNode;
use trainyard_api::conditions::{self, Condition, ConditionStatus, RunCondition};
use trainyard_api::run::Run;
use trainyard_api::run_status::{RunPhase, RunReason, RunStatus};
use trainyard_api::{Cluster, Time, VmSize};
use trainyard_model::run::ValidRun;
use trainyard_model::run::acceptance::{self, Unacceptable};

use super::key_of_object;

/// A run that neither waits nor holds anything, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Aside {
    /// `<namespace>/<name>`.
    pub run: String,
    /// Why, as a word.
    pub reason: AsideReason,
    /// Why, as a sentence.
    pub message: String,
}

/// Why a run is not in the queue.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum AsideReason {
    /// It names no Cluster of its namespace.
    ClusterNotFound,
    /// It names a Cluster of another namespace that does not let it in.
    ClusterNotAllowed,
    /// It cannot be run, or was refused.
    NotAccepted,
    /// Whether it can be run is not known while the size is not.
    NotChecked,
    /// It can never run on machines of this size.
    DoesNotFit,
    /// Its user wants it stopped for now.
    Suspended,
    /// Its user wants it to end.
    Cancelled,
    /// It is being deleted.
    Deleting,
    /// The operator has not looked at it yet.
    NotLookedAt,
    /// Its phase is one in which it does not wait.
    Phase,
}

/// The Runs of one Cluster, judged.
pub struct Judged {
    /// Those the planner's snapshot is made from.
    pub runs: Vec<Run>,
    /// Those that would not be accepted.
    pub aside: Vec<Aside>,
    /// How many were taken as accepted without an API server's word.
    pub assumed: usize,
}

/// See the module.
pub fn judge(
    runs: Vec<Run>,
    cluster: &Cluster,
    nodes: &[&ClusterNode],
    sizes: &[&VmSize],
    labels: &dyn Fn(&str) -> BTreeMap<String, String>,
    now: Timestamp,
) -> Judged {
    let without_nodes = || {
        let remembered = cluster.status.as_ref().and_then(|status| status.node_capacity.clone());
        match (remembered, of_size(cluster, sizes)) {
            (Some(remembered), Some(promised)) => Some(acceptance::believed(&remembered, &promised)),
            (remembered, promised) => remembered.or(promised),
        }
    };
    let capacity = of_nodes(nodes).or_else(without_nodes);
    let pool = capacity.as_ref().map_or(acceptance::Pool::OfUnknownSize, acceptance::Pool::Of);
    let mut judged = Judged { runs: Vec::new(), aside: Vec::new(), assumed: 0 };
    let own = cluster.metadata.namespace.clone().unwrap_or_default();
    for mut run in runs {
        let theirs = run.metadata.namespace.clone().unwrap_or_default();
        let is_let_in = cluster.spec.lets_in(&own, &theirs, Some(&labels(&theirs)));
        let pool = if is_let_in { pool } else { acceptance::Pool::Missing };
        if was_looked_at(run.status.as_ref()) {
            judged.runs.push(run);
            continue;
        }
        if let Some((reason, message)) = refusal(&run, pool) {
            let run = key_of_object(&run.metadata);
            judged.aside.push(Aside { run, reason, message });
            continue;
        }
        let status = run.status.get_or_insert_default();
        status.phase = Some(RunPhase::Queued);
        status.queued_time.get_or_insert(Time(now));
        let accepted = Condition::new(RunCondition::Accepted, ConditionStatus::True, "Assumed", "", now);
        conditions::set(&mut status.conditions, accepted);
        let waits = !run.spec.suspend && !run.spec.cancel && run.metadata.deletion_timestamp.is_none();
        judged.assumed += usize::from(waits);
        judged.runs.push(run);
    }
    judged
}

fn was_looked_at(status: Option<&RunStatus>) -> bool {
    status.is_some_and(|status| {
        status.allocation.is_some()
            || !status.attempts.is_empty()
            || conditions::find(&status.conditions, RunCondition::Accepted).is_some()
    })
}

fn refusal(run: &Run, pool: acceptance::Pool<'_>) -> Option<(AsideReason, String)> {
    let valid = ValidRun::parse(run);
    let fault = acceptance::judge(run, valid.as_ref(), pool).err()?;
    let reason = match fault {
        Unacceptable::Invalid(_) | Unacceptable::SpecChanged => AsideReason::NotAccepted,
        Unacceptable::ClusterNotFound { .. } => AsideReason::ClusterNotFound,
        Unacceptable::ClusterNotAllowed { .. } => AsideReason::ClusterNotAllowed,
        Unacceptable::NotChecked { .. } => AsideReason::NotChecked,
        Unacceptable::DoesNotFit(_) => AsideReason::DoesNotFit,
    };
    Some((reason, fault.to_string()))
}

/// What the smallest node has, as measured or else as promised.
fn of_nodes(nodes: &[&ClusterNode]) -> Option<Capacity> {
    let capacities = nodes.iter().map(|node| {
        let measured = node.status.as_ref().and_then(|status| status.allocatable.clone());
        let size = &node.spec.vm_size;
        measured.unwrap_or_else(|| acceptance::promised(size.vcpus, &size.memory, &size.accelerators))
    });
    acceptance::smallest(capacities, |capacity| capacity)
}

fn of_size(cluster: &Cluster, sizes: &[&VmSize]) -> Option<Capacity> {
    let size = sizes.iter().find(|size| size.spec.answers_to(&cluster.spec.vm_size))?;
    Some(acceptance::promised(size.spec.vcpus, &size.spec.memory, &size.spec.accelerators))
}

/// A run that names no Cluster of the files.
pub fn homeless(run: &Run) -> Aside {
    Aside {
        run: key_of_object(&run.metadata),
        reason: AsideReason::ClusterNotFound,
        message: acceptance::cluster_not_found(run).to_string(),
    }
}

/// Why a run that was looked at neither waits nor holds anything.
pub fn why_aside(run: &Run) -> Aside {
    let status = run.status.clone().unwrap_or_default();
    let refused = conditions::find(&status.conditions, RunCondition::Accepted)
        .filter(|condition| condition.status == ConditionStatus::False);
    let (reason, message) = if run.metadata.deletion_timestamp.is_some() {
        (AsideReason::Deleting, "it is being deleted".to_owned())
    } else if run.spec.cancel || status.cancel_requested_time.is_some() {
        (AsideReason::Cancelled, "it was cancelled".to_owned())
    } else if run.spec.suspend {
        (AsideReason::Suspended, "it is suspended: set spec.suspend to false to queue it".to_owned())
    } else if let Some(condition) = refused {
        (AsideReason::NotAccepted, condition.message.clone())
    } else if !was_looked_at(run.status.as_ref()) && status.message.is_none() {
        (AsideReason::NotLookedAt, "trainyard has not looked at it yet".to_owned())
    } else {
        let phase = status.phase.unwrap_or_default();
        let idle = || format!("it is in phase {phase} and has nothing to wait for");
        let is_said =
            phase == RunPhase::Queued && !conditions::is_true(&status.conditions, RunCondition::Accepted);
        let reason = match status.reason {
            Some(RunReason::ClusterNotAllowed) => AsideReason::ClusterNotAllowed,
            Some(RunReason::NotChecked) => AsideReason::NotChecked,
            _ => AsideReason::Phase,
        };
        (reason, status.message.filter(|_| is_said).unwrap_or_else(idle))
    };
    Aside { run: key_of_object(&run.metadata), reason, message }
}
