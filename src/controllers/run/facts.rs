//! What the run controller reads of each object, and nothing else.
//!
//! Each form is made from the wire object once, on arrival from a watch, a live read or a write's answer. Changes of
//! anything that is not here wake nobody.

mod pool;
mod progress;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use trainyard_api::Run;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster_node::{ClusterIdentity, ClusterNode};
use trainyard_api::names::{API_VERSION, Finalizer, START_GATE, labels};
use trainyard_api::placement::{Taint, Toleration};
use trainyard_api::retention::CleanPodPolicy;
use trainyard_api::run_status::{RunPhase, RunStatus};
use trainyard_model::node::lost::is_lost;
use trainyard_model::node::pods::{Life, has_ended};
use trainyard_model::run::{PodName, acceptance};

use crate::kubernetes::apply::Seen;
use crate::kubernetes::key::ObjectKey;

pub use pool::{ClusterFacts, SizeFacts};
pub use progress::Progress;

/// A Run as the controllers keep it: whole while something may happen to it, its head afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID and version.
    pub seen: Seen,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Namespace and name of its Cluster.
    pub cluster: ObjectKey,
    /// Name of its Experiment.
    pub experiment: String,
    /// Its phase; Queued until one is written.
    pub phase: RunPhase,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Which of its pods are deleted when an attempt is over.
    pub clean_pods: CleanPodPolicy,
    /// So long after its end its pods and its Service go.
    pub ttl: Option<SignedDuration>,
    /// The whole object; `None` once it is finished and nothing of it is left to do.
    pub whole: Option<Arc<Run>>,
}

impl RunFacts {
    /// Reduces a Run; `None` for one that no API server returned.
    pub fn of(run: Run) -> Option<Self> {
        let status = run.status.as_ref();
        Some(Self {
            key: ObjectKey::of(&run),
            seen: Seen::of(&run).ok()?,
            finalizers: run.finalizers().to_vec(),
            deleting: run.metadata.deletion_timestamp.is_some(),
            cluster: cluster_of(&run),
            experiment: run.spec.experiment.clone(),
            phase: status.and_then(|status| status.phase).unwrap_or_default(),
            ended: status.and_then(|status| status.completion_time.as_ref()).map(|time| time.0),
            clean_pods: run.spec.clean_pod_policy,
            ttl: run.spec.ttl_after_finished.map(SignedDuration::from),
            whole: (!status.is_some_and(is_over)).then(|| Arc::new(run)),
        })
    }

    /// Whether our finalizer is on it.
    pub fn has_finalizer(&self) -> bool {
        self.finalizers.iter().any(|one| one == Finalizer::Run.as_str())
    }

    /// When the pods and the Service of a finished Run go; `None` when they stay.
    pub fn cleared_at(&self) -> Option<Timestamp> {
        Some(self.ended?.saturating_add(self.ttl?).unwrap_or(Timestamp::MAX))
    }
}

/// Namespace and name of the Cluster that a Run names.
pub fn cluster_of(run: &Run) -> ObjectKey {
    let own = run.metadata.namespace.as_deref().unwrap_or_default();
    let cluster = &run.spec.cluster_ref;
    ObjectKey::namespaced(cluster.namespace_or(own), &cluster.name)
}

/// Whether nothing is left to be done for a Run with this status: terminal, every allocation answered, all pods gone.
fn is_over(status: &RunStatus) -> bool {
    let last = status.attempts.last().map_or(0, |attempt| attempt.number);
    status.phase.is_some_and(RunPhase::is_terminal)
        && status.attempts.iter().all(|attempt| attempt.pods_gone)
        && status.allocation.as_ref().is_none_or(|allocation| allocation.attempt <= last)
}

/// How long a kubelet may take to stop the sidecars of a pod whose main container has exited. They have 30 seconds, and then
/// are killed; after twice that something is wrong, and the pod is deleted so that its machine becomes free.
const SIDECARS_STOP: SignedDuration = SignedDuration::from_mins(1);

/// A pod of a Run.
///
/// What it is, is read from its name, and from the Node it is bound to or may only go to, which nobody can change; labels and
/// owner are for finding it. See [`PodName`].
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Its namespace, and the name of the Run.
    pub run: ObjectKey,
    /// Name, UID and version.
    pub seen: Seen,
    /// UID of the Run: of the one that owns it, else by its label.
    pub run_uid: String,
    /// Whether the label of that Run is on it: without it, neither the watch nor a list shows it.
    pub labelled: bool,
    /// Number of the attempt; absent when neither name nor label has one.
    pub attempt: Option<i32>,
    /// UID of its controlling owner.
    pub owner_uid: Option<String>,
    /// The Node it is bound to.
    pub node_name: Option<String>,
    /// Where in its list of gates ours stands.
    pub gate: Option<usize>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// When it was told to stop, by its deletion or by the condition `DisruptionTarget`; the earlier of the two.
    pub told_to_stop: Option<Timestamp>,
    /// Whether it is finished: no container of it runs or will run.
    pub finished: bool,
    /// How far its main container is.
    pub progress: Progress,
    /// Since when its kubelet has nothing left to do but to stop its sidecars: the main container has exited, and there is no
    /// other ordinary one. Somebody's webhook may put one there, and such a pod does not end by itself.
    pub closing: Option<Timestamp>,
    /// Why it is taken from its node, when the condition `DisruptionTarget` says so.
    pub disruption: Option<String>,
    /// Since when the scheduler finds no place for it, and why.
    pub unschedulable: Option<(Timestamp, String)>,
    /// Since when its node has it, without its volumes and its network being there.
    pub unprepared: Option<Timestamp>,
}

impl PodFacts {
    /// Reduces a pod that a watch or list by label has shown; `None` for one that says of no Run that it is its, or that
    /// no API server returned.
    pub fn of(pod: &Pod) -> Option<Self> {
        let name = pod.name_any();
        let label = pod.labels().get(labels::RUN).map(String::as_str);
        let run = PodName::parse(&name).map(|name| name.run).or(label)?;
        let uid = owning_run(pod).or_else(|| pod.labels().get(labels::RUN_UID))?;
        Self::of_run(pod, ObjectKey::namespaced(pod.namespace()?, run), uid)
    }

    /// Reduces a pod that has the name of one of this Run's. `None` for a stranger's, on which nothing says that it is or
    /// was this Run's: neither owner nor label nor our finalizer, nor that it is on one of these `machines`, given by the names of
    /// their Nodes. The first three can be taken off by whoever may write the pod. A machine that was allocated to the Run is
    /// nobody else's, so a pod of the Run's names there is the Run's or made to look so.
    pub fn of_name(pod: &Pod, run: &ObjectKey, run_uid: &str, machines: &[String]) -> Option<Self> {
        if place_of(pod).is_some_and(|place| machines.contains(place)) {
            return Self::of_run(pod, run.clone(), run_uid);
        }
        let is_owned = owning_run(pod).is_some_and(|uid| uid == run_uid);
        let is_labelled = pod.labels().get(labels::RUN_UID).is_some_and(|uid| uid == run_uid);
        let is_held = pod.finalizers().iter().any(|one| one == Finalizer::RunPod.as_str());
        if !is_owned && (owning_run(pod).is_some() || !(is_labelled || is_held)) {
            return None;
        }
        Self::of_run(pod, run.clone(), run_uid)
    }

    fn of_run(pod: &Pod, run: ObjectKey, run_uid: &str) -> Option<Self> {
        let labels = pod.labels();
        let name = pod.name_any();
        let name = PodName::parse(&name).filter(|name| name.run == run.name);
        let spec = pod.spec.as_ref();
        let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        let progress = Progress::of(pod);
        let of_label = || labels.get(labels::ATTEMPT).and_then(|text| text.parse().ok());
        Some(Self {
            seen: Seen::of(pod).ok()?,
            run_uid: run_uid.to_owned(),
            labelled: labels.get(labels::RUN_UID).is_some_and(|uid| uid == run_uid),
            attempt: name.map(|name| name.attempt).or_else(of_label),
            run,
            owner_uid: owner.map(|owner| owner.uid.clone()),
            node_name: spec.and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty()),
            gate: gates.and_then(|gates| gates.iter().position(|gate| gate.name == START_GATE)),
            finalizers: pod.finalizers().to_vec(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            told_to_stop: told_to_stop(pod),
            finished: has_ended(pod),
            closing: progress.exited_at().filter(|_| spec.is_some_and(|spec| spec.containers.len() == 1)),
            progress,
            disruption: condition(pod, "DisruptionTarget").filter(|one| one.status == "True").map(|one| {
                format!(
                    "{}: {}",
                    one.reason.clone().unwrap_or_default(),
                    one.message.clone().unwrap_or_default()
                )
            }),
            unschedulable: condition(pod, "PodScheduled")
                .filter(|one| one.status == "False" && one.reason.as_deref() == Some("Unschedulable"))
                .and_then(|one| {
                    Some((one.last_transition_time.as_ref()?.0, one.message.clone().unwrap_or_default()))
                }),
            unprepared: condition(pod, "PodReadyToStartContainers")
                .filter(|one| one.status == "False")
                .and_then(|one| one.last_transition_time.as_ref().map(|time| time.0)),
        })
    }

    /// Whether our finalizer is on it.
    pub fn has_finalizer(&self) -> bool {
        self.finalizers.iter().any(|one| one == Finalizer::RunPod.as_str())
    }

    /// Whether a process of it may run, if its machine is not lost.
    pub fn may_run(&self) -> bool {
        let (ended, placed, deleting) = (self.finished, self.node_name.is_some(), self.deleting);
        Life { ended, placed, deleting }.may_run()
    }

    /// Until when its kubelet may take to stop its sidecars, when all that is left of it is that. Deleted before, its logs
    /// would go with it.
    pub fn closes_until(&self) -> Option<Timestamp> {
        let since = self.closing.filter(|_| !self.finished && !self.deleting)?;
        Some(since.saturating_add(SIDECARS_STOP).unwrap_or(Timestamp::MAX))
    }

    /// Whether it was told to stop before its main container ended by itself, so that its exit code, 0 included, says
    /// nothing about its work: a script that stores a checkpoint on SIGTERM and exits 0 has not finished its training.
    /// Times have seconds only; in doubt it was cut short, because a second attempt costs less than a training that is
    /// wrongly taken for finished.
    pub fn was_cut_short(&self) -> bool {
        let Some(told) = self.told_to_stop else { return false };
        match &self.progress {
            Progress::Exited { finished: Some(finished), .. } => *finished >= told,
            Progress::Exited { code, finished: None, .. } => *code != 0,
            Progress::Waiting { .. } | Progress::Running { .. } | Progress::Broken { .. } => true,
        }
    }
}

/// A deletion's time stamp is when its grace ends.
fn told_to_stop(pod: &Pod) -> Option<Timestamp> {
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|ends| ends.0.saturating_sub(grace));
    let disrupted = condition(pod, "DisruptionTarget").filter(|one| one.status == "True");
    let disrupted =
        disrupted.map(|one| one.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0));
    deleted.map(|at| at.unwrap_or(Timestamp::MIN)).into_iter().chain(disrupted).min()
}

/// The Node it is bound to, or the only one that it may be bound to. Once its scheduling gates are off, neither can be changed.
fn place_of(pod: &Pod) -> Option<&String> {
    let spec = pod.spec.as_ref()?;
    let required = || {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms =
            &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let [term] = terms.as_slice() else { return None };
        let names = term.match_fields.iter().flatten().filter(|one| one.key == "metadata.name");
        names.filter(|one| one.operator == "In").find_map(|one| one.values.as_ref()?.first())
    };
    spec.node_name.as_ref().filter(|name| !name.is_empty()).or_else(required)
}

/// UID of the Run that owns the pod.
fn owning_run(pod: &Pod) -> Option<&String> {
    let is_ours = |owner: &&OwnerReference| {
        owner.controller == Some(true) && owner.kind == "Run" && owner.api_version == API_VERSION
    };
    pod.owner_references().iter().find(is_ours).map(|owner| &owner.uid)
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let status = pod.status.as_ref()?;
    status.conditions.iter().flatten().find(|one| one.type_ == kind)
}

/// A Service that carries the label of a Run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// UID of the Run by its label.
    pub run_uid: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The attempt that it selects, if it selects pods of that Run.
    pub attempt: Option<i32>,
}

impl ServiceFacts {
    /// Reduces a Service; `None` for one without the label of a Run.
    pub fn of(service: &Service) -> Option<Self> {
        let run_uid = service.labels().get(labels::RUN_UID)?.clone();
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let attempt = selector
            .filter(|selector| selector.get(labels::RUN_UID) == Some(&run_uid))
            .and_then(|selector| selector.get(labels::ATTEMPT)?.parse().ok());
        Some(Self { run_uid, deleting: service.metadata.deletion_timestamp.is_some(), attempt })
    }
}

/// A ClusterNode.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its Cluster.
    pub cluster: ClusterIdentity,
    /// The taint on its Node.
    pub taint: Taint,
    /// Tolerations its pods need besides.
    pub tolerations: Vec<Toleration>,
    /// Who may use it.
    pub claims: Vec<ClaimFacts>,
    /// Name of its Node.
    pub node_name: Option<String>,
    /// UID of its Node.
    pub node_uid: Option<String>,
    /// What its Node has for runs, or what its size promises.
    pub capacity: Capacity,
    /// Whether its pods count as gone: its Node is gone, or silent for too long.
    pub lost: bool,
    /// Whether its Node is silent for the moment.
    pub not_ready: bool,
}

/// One attempt's hold on a ClusterNode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimFacts {
    /// The Run.
    pub run: ObjectKey,
    /// Its UID.
    pub run_uid: String,
    /// The attempt.
    pub attempt: i32,
    /// How much of the machine.
    pub share: Capacity,
}

impl NodeFacts {
    /// Reduces a ClusterNode.
    pub fn of(node: &ClusterNode) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.clone());
        let size = &node.spec.vm_size;
        Self {
            key: ObjectKey::of(node),
            cluster: node.spec.cluster.clone(),
            taint: node.spec.taint.clone(),
            tolerations: node.spec.tolerations.clone(),
            claims: node
                .spec
                .claims
                .iter()
                .map(|claim| ClaimFacts {
                    run: ObjectKey::namespaced(&claim.run_namespace, &claim.run_name),
                    run_uid: claim.run_uid.clone(),
                    attempt: claim.attempt,
                    share: claim.share.clone(),
                })
                .collect(),
            node_name: status.and_then(|status| status.node_name.clone()),
            node_uid: status.and_then(|status| status.node_uid.clone()),
            capacity: allocatable
                .unwrap_or_else(|| acceptance::promised(size.vcpus, &size.memory, &size.accelerators)),
            lost: is_lost(node),
            not_ready: status.is_some_and(|status| status.not_ready_since.is_some()),
        }
    }

    /// The claim of this attempt.
    pub fn claim(&self, run_uid: &str, attempt: i32) -> Option<&ClaimFacts> {
        self.claims.iter().find(|claim| claim.run_uid == run_uid && claim.attempt == attempt)
    }
}
