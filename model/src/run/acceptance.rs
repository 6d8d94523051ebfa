//! Whether a Run may be queued, as far as that can be told without asking the API server.
//!
//! In: a Run with its parse, and what is known of the machines it wants. Out: nothing, or the first thing that is wrong,
//! as a reason and a sentence for its status. The run controller goes on from here by asking the API server whether it
//! would take the Run's pods; `kubectl trainyard plan` takes that for granted.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use trainyard_api::Run;
use trainyard_api::capacity::{self, Capacity};
use trainyard_api::conditions::{self, ConditionStatus, RunCondition};
use trainyard_api::run_status::{RunPhase, RunReason, RunStatus};
use trainyard_api::vm_size::Accelerator;

use super::{InvalidRun, ValidRun, spec_hash};

/// What a Run finds where it wants to run.
#[derive(Clone, Copy, Debug)]
pub enum Pool<'a> {
    /// No Cluster of that name is in that namespace, or it does not let the Run's namespace in.
    Missing,
    /// Its Cluster is there; what its machines have is not known yet.
    OfUnknownSize,
    /// What every process of the Run must fit on.
    Of(&'a Capacity),
}

/// Why a Run may not be queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// Its spec makes no sense.
    #[error(transparent)]
    Invalid(InvalidRun),
    /// Its spec is not the one it was accepted with.
    #[error(
        "its spec is not the one it was accepted with, although the API server refuses such changes; create another Run"
    )]
    SpecChanged,
    /// It waits for a Cluster of that name.
    #[error(
        "no Cluster {cluster} in namespace {namespace}; create it, or create another Run that names one that is there"
    )]
    ClusterNotFound {
        /// The name it gives.
        cluster: String,
        /// Its namespace.
        namespace: String,
    },
    /// It names a Cluster of another namespace. Whether there is one is not told to whom it does not let in.
    #[error(
        "Cluster {cluster} of namespace {there} does not exist, or does not let Runs of namespace {namespace} in: its \
         spec.allowedNamespaces must select that namespace; ask who owns it, or create another Run on a Cluster of your own"
    )]
    ClusterNotAllowed {
        /// The name it gives.
        cluster: String,
        /// The namespace it gives.
        there: String,
        /// Its own namespace.
        namespace: String,
    },
    /// It waits until it is known what machines of its Cluster have.
    #[error(
        "the size of Cluster {cluster} is not known yet, so whether the Run fits its machines is not, either; the errors \
         of the Cluster say why"
    )]
    NotChecked {
        /// Its Cluster.
        cluster: String,
    },
    /// It can never run on machines of this size.
    #[error(transparent)]
    DoesNotFit(InvalidRun),
}

impl Unacceptable {
    /// The same as a reason of its phase.
    pub const fn reason(&self) -> RunReason {
        match self {
            Self::Invalid(_) => RunReason::NotAccepted,
            Self::SpecChanged => RunReason::SpecChanged,
            Self::ClusterNotFound { .. } => RunReason::ClusterNotFound,
            Self::ClusterNotAllowed { .. } => RunReason::ClusterNotAllowed,
            Self::NotChecked { .. } => RunReason::NotChecked,
            Self::DoesNotFit(_) => RunReason::DoesNotFit,
        }
    }
}

/// Judges a Run of which no attempt is live. `valid` is its parse, and what is returned when there is nothing against it.
pub fn judge<'a>(
    run: &Run,
    valid: Result<&'a ValidRun, &InvalidRun>,
    pool: Pool<'_>,
) -> Result<&'a ValidRun, Unacceptable> {
    let valid = valid.map_err(|invalid| Unacceptable::Invalid(invalid.clone()))?;
    let stored = run.status.as_ref().and_then(|status| status.spec_hash.as_deref());
    if stored.is_some_and(|stored| spec_hash::check(stored, &run.spec) == spec_hash::Verdict::Changed) {
        return Err(Unacceptable::SpecChanged);
    }
    match pool {
        Pool::Missing => Err(cluster_not_found(run)),
        Pool::OfUnknownSize => Err(Unacceptable::NotChecked { cluster: valid.cluster.clone() }),
        Pool::Of(capacity) => valid.fits(capacity).map(|()| valid).map_err(Unacceptable::DoesNotFit),
    }
}

/// That a Run names no Cluster that it may use.
pub fn cluster_not_found(run: &Run) -> Unacceptable {
    let namespace = run.metadata.namespace.clone().unwrap_or_default();
    let cluster = run.spec.cluster_ref.name.clone();
    let there = run.spec.cluster_ref.namespace_or(&namespace).to_owned();
    if there == namespace {
        Unacceptable::ClusterNotFound { cluster, namespace }
    } else {
        Unacceptable::ClusterNotAllowed { cluster, there, namespace }
    }
}

/// The smallest of a pool's machines, by what `capacity` says each has: what every process must fit on. Memory decides,
/// because that is what machines of one size differ in.
pub fn smallest<T>(machines: impl IntoIterator<Item = T>, capacity: impl Fn(&T) -> &Capacity) -> Option<T> {
    machines.into_iter().min_by_key(|machine| {
        let Capacity { cpu_millis, memory_bytes, pods: _, accelerators: _ } = capacity(machine);
        (*memory_bytes, *cpu_millis)
    })
}

/// What was last measured of nodes that are gone, unless it is less than half of what their size promises: that was an
/// accident of its day (a DaemonSet that took it all), and to believe it would keep the Cluster from ever measuring again.
pub fn believed(remembered: &Capacity, promised: &Capacity) -> Capacity {
    let is_plausible = |found: i64, promised: i64| found.saturating_mul(2) >= promised;
    let plausible = is_plausible(remembered.cpu_millis, promised.cpu_millis)
        && is_plausible(remembered.memory_bytes, promised.memory_bytes);
    if plausible { remembered.clone() } else { promised.clone() }
}

/// What a kubelet takes unless it is told otherwise.
const PODS_OF_A_KUBELET: i64 = 110;

/// What the cloud promises of a machine: all that is known of it before it has measured itself.
pub fn promised(vcpus: i32, memory: &Quantity, accelerators: &[Accelerator]) -> Capacity {
    let mut counts = BTreeMap::new();
    for one in accelerators {
        *counts.entry(one.resource_name.clone()).or_insert(0) += i64::from(one.count);
    }
    Capacity {
        cpu_millis: i64::from(vcpus) * 1000,
        memory_bytes: capacity::bytes(memory).unwrap_or(0),
        pods: PODS_OF_A_KUBELET,
        accelerators: counts,
    }
}

/// Whether the planner may see the Run: the API server would take its pods, or cannot say before they are made.
///
/// Before the run controller has looked at it there is no such condition, and the Run is not accepted. A Run in a
/// terminal phase never is.
pub fn is_accepted(status: &RunStatus) -> bool {
    let terminal = status.phase.is_some_and(RunPhase::is_terminal);
    !terminal
        && conditions::find(&status.conditions, RunCondition::Accepted)
            .is_some_and(|condition| condition.status != ConditionStatus::False)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use trainyard_api::conditions::Condition;

    use super::*;
    use crate::run::fixture::{self, machine};

    /// Two workers that share a node.
    fn pair() -> Run {
        fixture::run(json!({"distribution": {"tensorflow": {"worker": {"count": 2}}}}))
    }

    fn verdict(run: &Run, pool: Pool<'_>) -> Option<(RunReason, String)> {
        let valid = ValidRun::parse(run);
        let fault = judge(run, valid.as_ref(), pool).err()?;
        Some((fault.reason(), fault.to_string()))
    }

    #[test]
    fn a_run_that_fits_the_machines_of_its_cluster_is_acceptable() {
        assert_eq!(verdict(&pair(), Pool::Of(&machine(4))), None);
    }

    #[test]
    fn the_first_fault_is_named() {
        let mut wrong = pair();
        wrong.status =
            Some(RunStatus { spec_hash: Some(spec_hash::of(&wrong.spec)), ..RunStatus::default() });
        wrong.spec.command = vec!["other".to_owned()];
        let at = |run: &Run, pool| verdict(run, pool).map(|(reason, _)| reason);
        assert_eq!(at(&wrong, Pool::Missing), Some(RunReason::SpecChanged));
        wrong.spec.node_count = 0;
        assert_eq!(at(&wrong, Pool::Missing), Some(RunReason::NotAccepted));
    }

    #[test]
    fn what_the_machines_have_decides_last() {
        let (reason, message) = verdict(&pair(), Pool::Missing).expect("no Cluster");
        assert_eq!(reason, RunReason::ClusterNotFound);
        assert!(message.starts_with("no Cluster nc6 in namespace ml; create it"), "{message}");
        let (reason, message) = verdict(&pair(), Pool::OfUnknownSize).expect("no size");
        assert_eq!(reason, RunReason::NotChecked);
        assert!(message.starts_with("the size of Cluster nc6 is not known yet"), "{message}");
        let (reason, message) = verdict(&pair(), Pool::Of(&machine(3))).expect("2 does not divide 3");
        assert_eq!(reason, RunReason::DoesNotFit);
        assert!(message.contains("cannot share its 3 nvidia.com/gpu equally"), "{message}");
    }

    #[rstest::rstest]
    #[case(json!({"accelerators": 1}), 8, None)]
    #[case(json!({"accelerators": 9}), 8, Some("asks for 9 nvidia.com/gpu on each node, and a node of its Cluster has 8"))]
    #[case(json!({"accelerators": 1}), 0, Some("accelerators asks for 1, and nodes of its Cluster have none"))]
    #[case(json!({"cpu": 9}), 0, Some("asks for 9000m cpu on each node, and a node of its Cluster has 8000m"))]
    #[case(json!({"memory": "17Gi"}), 8, Some("asks for 17408Mi memory on each node, and a node of its Cluster has 16384Mi"))]
    fn a_part_that_no_machine_has_is_refused_with_both_numbers(
        #[case] part: serde_json::Value,
        #[case] gpus: i64,
        #[case] message: Option<&str>,
    ) {
        let found = verdict(&fixture::run(json!({"resourcesPerNode": part})), Pool::Of(&machine(gpus)));
        match message {
            None => assert_eq!(found, None),
            Some(part) => {
                let (reason, message) = found.expect("a refusal");
                assert_eq!(reason, RunReason::DoesNotFit);
                assert!(message.contains(part), "{message}");
            }
        }
    }

    #[test]
    fn a_machine_takes_no_more_pods_than_its_kubelet() {
        let mut small = machine(0);
        small.pods = 1;
        let mut pair = json!({"distribution": {"tensorflow": {"worker": {"count": 2}}}});
        pair["resourcesPerNode"] = json!({"cpu": 1});
        let (_, message) = verdict(&fixture::run(pair), Pool::Of(&small)).expect("2 pods are not 1");
        assert!(
            message.contains("asks for 2 pods on each node, and a node of its Cluster has 1"),
            "{message}"
        );
    }

    #[test]
    fn processes_share_the_part_and_not_the_machine() {
        let mut both = json!({"distribution": {"tensorflow": {"worker": {"count": 2}}}});
        both["resourcesPerNode"] = json!({"accelerators": 1});
        let (_, message) =
            verdict(&fixture::run(both.clone()), Pool::Of(&machine(8))).expect("2 does not divide 1");
        assert!(message.contains("2 processes on one node cannot share its 1 nvidia.com/gpu"), "{message}");
        both["resourcesPerNode"] = json!({"accelerators": 4});
        assert_eq!(verdict(&fixture::run(both), Pool::Of(&machine(8))), None);
    }

    #[test]
    fn the_machine_with_the_least_memory_is_the_smallest() {
        let with = |gibibytes: i64| Capacity { memory_bytes: gibibytes << 30, ..machine(4) };
        let machines = [with(16), with(15), Capacity { cpu_millis: 1, ..with(17) }];
        assert_eq!(smallest(&machines, |one| one), Some(&machines[1]));
        assert_eq!(smallest([], |one: &Capacity| one), None);
    }

    #[test]
    fn a_measurement_of_next_to_nothing_is_not_believed_for_ever() {
        let promised = machine(4);
        let usual = Capacity { cpu_millis: 7000, ..machine(4) };
        let absurd = Capacity { cpu_millis: 0, ..machine(4) };
        assert_eq!(believed(&usual, &promised), usual);
        assert_eq!(believed(&absurd, &promised), promised);
    }

    #[test]
    fn accelerators_of_one_resource_are_promised_together() {
        let one =
            |count| Accelerator { resource_name: "nvidia.com/gpu".into(), count, ..Accelerator::default() };
        let capacity = promised(8, &Quantity("16Gi".into()), &[one(1), one(3)]);
        assert_eq!(capacity, machine(4));
    }

    #[test]
    fn a_run_is_accepted_once_looked_at_and_not_refused() {
        let now = Timestamp::UNIX_EPOCH;
        let with = |status| {
            let condition = Condition::new(RunCondition::Accepted, status, "R", "", now);
            RunStatus { conditions: vec![condition], ..RunStatus::default() }
        };
        assert!(!is_accepted(&RunStatus::default()));
        assert!(is_accepted(&with(ConditionStatus::True)) && is_accepted(&with(ConditionStatus::Unknown)));
        assert!(!is_accepted(&with(ConditionStatus::False)));
        assert!(!is_accepted(&RunStatus { phase: Some(RunPhase::Completed), ..with(ConditionStatus::True) }));
    }
}
