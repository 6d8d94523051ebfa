//! What the run controller finds out about a Run before the planner may see it, as far as files tell.
//!
//! In: the Runs of one Cluster. Out: the same, those that nobody has looked at yet with the status they would get, and
//! those that would not be accepted with the reason. A Run with a status of its own is believed.

use jiff::Timestamp;
use serde::Serialize;
use trainyard_api::capacity::{self, Capacity};
use trainyard_api::cluster_node::{ClusterNode, VmSizeFacts};
use trainyard_api::conditions::{self, Condition, ConditionStatus, RunCondition};
use trainyard_api::run::Run;
use trainyard_api::run_status::{RunPhase, RunStatus};
use trainyard_api::{Cluster, VmSize};
use trainyard_model::run::ValidRun;

use super::world::key_of;

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
    now: Timestamp,
) -> Judged {
    let capacity = smallest(nodes).or_else(|| of_size(cluster, sizes));
    let mut judged = Judged { runs: Vec::new(), aside: Vec::new(), assumed: 0 };
    for mut run in runs {
        if was_looked_at(run.status.as_ref()) {
            judged.runs.push(run);
            continue;
        }
        if let Some((reason, message)) = refusal(&run, cluster, capacity.as_ref()) {
            let run = key_of(run.metadata.namespace.as_ref(), run.metadata.name.as_ref());
            judged.aside.push(Aside { run, reason, message });
            continue;
        }
        let status = run.status.get_or_insert_default();
        status.phase = Some(RunPhase::Queued);
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

fn refusal(run: &Run, cluster: &Cluster, capacity: Option<&Capacity>) -> Option<(AsideReason, String)> {
    let valid = match ValidRun::parse(run) {
        Ok(valid) => valid,
        Err(invalid) => return Some((AsideReason::NotAccepted, invalid.to_string())),
    };
    let Some(capacity) = capacity else {
        let text = format!(
            "the size {} of Cluster {} is not known, so whether the Run fits its machines is not, either",
            cluster.spec.vm_size, valid.cluster
        );
        return Some((AsideReason::NotChecked, text));
    };
    valid.fits(capacity).err().map(|unfit| (AsideReason::DoesNotFit, unfit.to_string()))
}

/// The smallest node is what every process must fit on.
fn smallest(nodes: &[&ClusterNode]) -> Option<Capacity> {
    nodes
        .iter()
        .map(|node| {
            let measured = node.status.as_ref().and_then(|status| status.allocatable.clone());
            measured.unwrap_or_else(|| promised(&node.spec.vm_size))
        })
        .min_by_key(|capacity| (capacity.memory_bytes, capacity.cpu_millis))
}

fn of_size(cluster: &Cluster, sizes: &[&VmSize]) -> Option<Capacity> {
    let size = sizes.iter().find(|size| size.spec.answers_to(&cluster.spec.vm_size))?;
    Some(promised(&VmSizeFacts {
        size_name: size.spec.size_name.clone(),
        vcpus: size.spec.vcpus,
        memory: size.spec.memory.clone(),
        accelerators: size.spec.accelerators.clone(),
    }))
}

fn promised(size: &VmSizeFacts) -> Capacity {
    Capacity {
        cpu_millis: i64::from(size.vcpus) * 1000,
        memory_bytes: capacity::bytes(&size.memory).unwrap_or(0),
        accelerators: size
            .accelerators
            .iter()
            .map(|accelerator| (accelerator.resource_name.clone(), i64::from(accelerator.count)))
            .collect(),
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
    } else {
        let phase = status.phase.unwrap_or_default();
        (AsideReason::Phase, format!("it is in phase {phase} and has nothing to wait for"))
    };
    Aside { run: key_of(run.metadata.namespace.as_ref(), run.metadata.name.as_ref()), reason, message }
}
