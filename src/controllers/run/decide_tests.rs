//! The failure table, row by row, and the order of the protocol, as decisions without any server.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;
use rstest::rstest;
use serde_json::{Value, json};
use trainyard_api::run_status::{AttemptCause, RunPhase};

use super::*;
use crate::controllers::run::facts::{PodFacts, Progress};
use crate::controllers::run::observe::{self, Pool};
use crate::kubernetes::apply::Seen;
use crate::kubernetes::key::ObjectKey;

const LAUNCHED: &str = "2030-01-01T00:00:00Z";

pub fn at(seconds: i64) -> Timestamp {
    let launched: Timestamp = LAUNCHED.parse().expect("a time");
    launched + SignedDuration::from_secs(seconds)
}

/// A launched attempt of two workers and a parameter server on two nodes.
pub fn launched() -> Observed {
    let run: Run = serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run",
        "metadata": {"name": "r1", "namespace": "ml", "uid": "u1", "resourceVersion": "7", "generation": 1,
                     "creationTimestamp": LAUNCHED, "finalizers": ["trainyard.dev/run"]},
        "spec": {"clusterRef": {"name": "nc6"}, "container": {"image": "i"}, "nodeCount": 2,
                 "distribution": {"tensorflow": {"parameterServer": {}}}},
        "status": {"phase": "Preparing", "observedGeneration": 1,
            "allocation": {"attempt": 1, "nodes": [
                {"name": "n0", "nodeName": "vm0", "nodeUID": "vm0-uid"}, {"name": "n1", "nodeName": "vm1", "nodeUID": "vm1-uid"}]},
            "attempts": [{"number": 1, "nodeCount": 2, "launched": LAUNCHED}]},
    }))
    .expect("a Run");
    let key = ObjectKey::namespaced("ml", "r1");
    let pods = ["r1-worker-0", "r1-worker-1", "r1-ps-0"];
    Observed {
        key: key.clone(),
        subject: observe::live(Arc::new(run)),
        pods: pods.into_iter().map(|name| (name.to_owned(), pod(&key, name))).collect(),
        nodes: [("n0", "vm0"), ("n1", "vm1")]
            .into_iter()
            .map(|(name, vm)| (name.to_owned(), node(name, vm)))
            .collect(),
        pool: Pool::default(),
        starting_since: None,
        rehearsed_at: None,
        alike_is_taken: false,
        service_for: Some(1),
        has_service: true,
        believed_until: None,
        rehearsal: None,
        subject_is_live: false,
        pods_are_live: false,
        nodes_are_live: false,
        refusals: Vec::new(),
    }
}

fn pod(run: &ObjectKey, name: &str) -> PodFacts {
    PodFacts {
        run: run.clone(),
        seen: Seen { name: name.into(), uid: format!("{name}-uid"), resource_version: "5".into() },
        run_uid: "u1".into(),
        attempt: Some(1),
        labelled: true,
        owner_uid: Some("u1".into()),
        node_name: Some("vm0".into()),
        gate: None,
        finalizers: vec!["trainyard.dev/run-pod".into()],
        deleting: false,
        told_to_stop: None,
        finished: false,
        progress: Progress::Running { since: Some(at(1)) },
        closing: None,
        disruption: None,
        unschedulable: None,
        unprepared: None,
    }
}

fn node(name: &str, vm: &str) -> crate::controllers::run::facts::NodeFacts {
    let node: trainyard_api::ClusterNode = serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "ClusterNode", "metadata": {"name": name, "namespace": "ml"},
        "spec": {"cluster": {"name": "nc6", "uid": "c1"}, "ordinal": 1,
                 "vmSize": {"sizeName": "S", "vcpus": 4, "memory": "8Gi"}, "engine": {},
                 "taint": {"key": "k", "value": "v", "effect": "NoSchedule"}},
        "status": {"nodeName": vm, "nodeUID": format!("{vm}-uid")},
    }))
    .expect("a ClusterNode");
    crate::controllers::run::facts::NodeFacts::of(&node)
}

pub fn exited(code: i32, reason: &str, second: i64) -> Progress {
    Progress::Exited {
        code,
        reason: reason.into(),
        message: String::new(),
        started: Some(at(1)),
        finished: Some(at(second)),
    }
}

pub fn waiting(reason: &str, message: &str) -> Progress {
    Progress::Waiting { reason: reason.into(), message: message.into() }
}

/// The status that the decision writes.
pub fn written(decision: &Decision) -> &RunStatus {
    match decision.steps.as_slice() {
        [Step::WriteStatus { status, .. }] => status,
        other => panic!("one status write, not {other:#?}"),
    }
}

fn list(expected: &[&str]) -> Step {
    Step::ListPods { expected: expected.iter().map(|name| (*name).to_owned()).collect() }
}

pub fn end_of(seen: &Observed, seconds: i64) -> Option<(AttemptCause, Option<String>, Option<i32>)> {
    let decision = decide(seen, at(seconds));
    let Some(Step::WriteStatus { status, .. }) = decision.steps.first() else { return None };
    let attempt = status.attempts.last()?;
    Some((attempt.cause?, attempt.culprit.clone(), attempt.exit_code))
}

#[rstest]
#[case::as_their_kubelets_say(&[9, 20, 15], 20)]
#[case::a_clock_that_is_fast(&[9, 20, 3600], 30)]
#[case::a_clock_that_is_slow(&[-60, -50, -40], 0)]
#[case::one_of_which_nobody_says(&[9, 20], 30)]
fn an_attempt_ends_when_the_last_of_its_processes_has(#[case] seconds: &[i64], #[case] expected: i64) {
    let mut seen = launched();
    for pod in seen.pods.values_mut() {
        pod.progress = Progress::Broken { reason: "Evicted".into(), message: String::new() };
    }
    for (name, second) in ["r1-worker-0", "r1-worker-1", "r1-ps-0"].into_iter().zip(seconds) {
        if let Some(pod) = seen.pods.get_mut(name) {
            pod.progress = exited(1, "Error", *second);
        }
    }
    let decision = decide(&seen, at(30));
    let status = written(&decision);
    assert_eq!(status.attempts[0].end_time, Some(trainyard_api::Time(at(expected))));
    assert_eq!(status.totals.clone().unwrap_or_default().running_seconds, expected as i32);
}

#[rstest]
#[case::worker_0_exits_0("r1-worker-0", exited(0, "Completed", 9), Some((AttemptCause::Succeeded, None, Some(0))))]
#[case::worker_1_exits_0("r1-worker-1", exited(0, "Completed", 9), None)]
#[case::worker_exits_3("r1-worker-1", exited(3, "Error", 9), Some((AttemptCause::UserCode, Some("r1-worker-1"), Some(3))))]
#[case::server_exits_1("r1-ps-0", exited(1, "Error", 9), Some((AttemptCause::UserCode, Some("r1-ps-0"), Some(1))))]
#[case::out_of_memory("r1-worker-0", exited(137, "OOMKilled", 9), Some((AttemptCause::UserCode, Some("r1-worker-0"), Some(137))))]
#[case::own_storage_limit("r1-worker-0", Progress::Broken { reason: "Evicted".into(), message: "emptyDir".into() }, Some((AttemptCause::UserCode, Some("r1-worker-0"), None)))]
#[case::refused_by_kubelet("r1-worker-0", Progress::Broken { reason: "OutOfcpu".into(), message: String::new() }, Some((AttemptCause::Infrastructure, Some("r1-worker-0"), None)))]
#[case::image_not_found("r1-worker-0", waiting("ErrImagePull", "manifest unknown"), Some((AttemptCause::Setup, Some("r1-worker-0"), None)))]
#[case::image_denied("r1-worker-0", waiting("ImagePullBackOff", "pull access denied"), Some((AttemptCause::Setup, Some("r1-worker-0"), None)))]
#[case::bad_image_name("r1-worker-0", waiting("InvalidImageName", ""), Some((AttemptCause::Setup, Some("r1-worker-0"), None)))]
#[case::pulling("r1-worker-0", waiting("ContainerCreating", ""), None)]
fn what_happens_to_one_pod_is_classified(
    #[case] name: &str,
    #[case] progress: Progress,
    #[case] expected: Option<(AttemptCause, Option<&str>, Option<i32>)>,
) {
    let mut seen = launched();
    if let Some(pod) = seen.pods.get_mut(name) {
        pod.finished = matches!(progress, Progress::Exited { .. } | Progress::Broken { .. });
        pod.progress = progress;
    }
    let expected = expected.map(|(cause, culprit, code)| (cause, culprit.map(ToOwned::to_owned), code));
    assert_eq!(end_of(&seen, 10), expected);
}

#[rstest]
#[case("ErrImagePull", "503 Service Unavailable", patience::PULL_PATIENCE, AttemptCause::Infrastructure)]
#[case("CreateContainerConfigError", "secret \"s\" not found", patience::SETUP_PATIENCE, AttemptCause::Setup)]
fn what_may_mend_itself_is_waited_for_up_to_a_deadline(
    #[case] reason: &str,
    #[case] message: &str,
    #[case] patience: SignedDuration,
    #[case] cause: AttemptCause,
) {
    let mut seen = launched();
    if let Some(pod) = seen.pods.get_mut("r1-worker-0") {
        pod.progress = waiting(reason, message);
    }
    let before = decide(&seen, at(10));
    assert_eq!((before.steps.len(), before.wake_at), (0, Some(at(0) + patience)));
    assert_eq!(end_of(&seen, patience.as_secs()).map(|end| end.0), Some(cause));
}

#[rstest]
#[case::pulling("r1-worker-1", "ContainerCreating")]
#[case::nothing_is_known("r1-ps-0", "")]
fn a_gang_is_not_waited_for_for_ever_when_one_process_never_starts(#[case] name: &str, #[case] reason: &str) {
    let mut seen = launched();
    if let Some(pod) = seen.pods.get_mut(name) {
        pod.progress = waiting(reason, "");
    }
    let patience = patience::START_PATIENCE;
    let before = decide(&seen, at(patience.as_secs() - 1));
    assert_eq!((before.steps.len(), before.wake_at), (0, Some(at(0) + patience)));
    let end = end_of(&seen, patience.as_secs());
    assert_eq!(end, Some((AttemptCause::Infrastructure, Some(name.to_owned()), None)));
}

#[test]
fn a_pod_without_a_place_is_waited_for_from_its_launch() {
    let mut seen = launched();
    if let Some(pod) = seen.pods.get_mut("r1-ps-0") {
        pod.progress = waiting("", "");
        pod.unschedulable = Some((at(-60), "node(s) were unschedulable".into()));
    }
    assert_eq!(decide(&seen, at(10)).wake_at, Some(at(0) + patience::PLACE_PATIENCE));
    let end = end_of(&seen, patience::PLACE_PATIENCE.as_secs());
    assert_eq!(end, Some((AttemptCause::Infrastructure, Some("r1-ps-0".into()), None)));
}

#[test]
fn a_disruption_outweighs_the_exit_code_it_causes() {
    let mut seen = launched();
    if let Some(pod) = seen.pods.get_mut("r1-worker-1") {
        pod.disruption = Some("EvictionByEvictionAPI: drained".into());
        pod.told_to_stop = Some(at(3));
        pod.progress = exited(137, "Error", 5);
        pod.finished = true;
    }
    if let Some(pod) = seen.pods.get_mut("r1-worker-0") {
        pod.progress = exited(1, "Error", 4);
        pod.finished = true;
    }
    assert_eq!(end_of(&seen, 10), Some((AttemptCause::Infrastructure, Some("r1-worker-1".into()), None)));
}

#[test]
fn a_failure_beside_a_silent_node_is_the_machines() {
    let mut seen = launched();
    if let Some(pod) = seen.pods.get_mut("r1-worker-0") {
        pod.progress = exited(1, "Error", 4);
    }
    if let Some(node) = seen.nodes.get_mut("n1") {
        node.not_ready = true;
    }
    assert_eq!(end_of(&seen, 10).map(|end| end.0), Some(AttemptCause::Infrastructure));
}

#[test]
fn the_first_of_several_failures_is_the_culprit() {
    let mut seen = launched();
    for (name, second) in [("r1-worker-0", 7), ("r1-worker-1", 5), ("r1-ps-0", 6)] {
        if let Some(pod) = seen.pods.get_mut(name) {
            pod.progress = exited(2, "Error", second);
        }
    }
    assert_eq!(end_of(&seen, 10).and_then(|end| end.1).as_deref(), Some("r1-worker-1"));
}

#[test]
fn all_workers_must_exit_0_when_asked_for() {
    let mut seen = launched();
    if let Subject::Live { run, .. } = &seen.subject {
        let mut run = Run::clone(run);
        run.spec.success_policy = trainyard_api::run::SuccessPolicy::AllWorkers;
        seen.subject = observe::live(Arc::new(run));
    }
    for (name, expected) in [("r1-worker-0", None), ("r1-worker-1", Some(AttemptCause::Succeeded))] {
        if let Some(pod) = seen.pods.get_mut(name) {
            pod.progress = exited(0, "Completed", 5);
        }
        assert_eq!(end_of(&seen, 10).map(|end| end.0), expected);
    }
}

/// A training that is told to stop often stores a checkpoint and exits 0.
#[rstest]
#[case::exited_0_and_then_deleted(0, 9, 10, AttemptCause::Succeeded)]
#[case::exited_0_because_it_was_told_to(0, 12, 10, AttemptCause::Infrastructure)]
#[case::exited_0_within_the_same_second(0, 10, 10, AttemptCause::Infrastructure)]
#[case::terminated_because_it_was_told_to(143, 12, 10, AttemptCause::Infrastructure)]
#[case::failed_and_then_deleted(3, 9, 10, AttemptCause::UserCode)]
fn what_a_process_says_after_it_was_told_to_stop_is_not_its_result(
    #[case] code: i32,
    #[case] exited_at: i64,
    #[case] told_at: i64,
    #[case] cause: AttemptCause,
    #[values(true, false)] by_eviction: bool,
) {
    let mut seen = launched();
    let pod = seen.pods.get_mut("r1-worker-0").expect("it is there");
    pod.progress = exited(code, "", exited_at);
    pod.finished = true;
    pod.deleting = true;
    pod.told_to_stop = Some(at(told_at));
    pod.disruption = by_eviction.then(|| "EvictionByEvictionAPI: Eviction API: evicting".to_owned());
    assert_eq!(end_of(&seen, 20).map(|end| end.0), Some(cause));
}

#[test]
fn a_deletion_counts_from_its_request_and_a_disruption_from_its_condition() {
    let told = |metadata: Value, conditions: Value| {
        let mut pod = json!({
            "metadata": {"name": "r1-worker-0", "namespace": "ml", "uid": "p", "resourceVersion": "1",
                         "labels": {"trainyard.dev/run-uid": "u1"}},
            "status": {"conditions": conditions},
        });
        pod["metadata"]
            .as_object_mut()
            .expect("metadata")
            .extend(metadata.as_object().expect("fields").clone());
        let pod = serde_json::from_value(pod).expect("a pod");
        PodFacts::of(&pod).expect("a run's pod").told_to_stop
    };
    let disrupted =
        json!([{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": at(7).to_string()}]);
    let deleted = json!({"deletionTimestamp": at(40).to_string(), "deletionGracePeriodSeconds": 30});
    assert_eq!(told(json!({}), json!([])), None);
    assert_eq!(told(deleted.clone(), json!([])), Some(at(10)));
    assert_eq!(told(json!({}), disrupted.clone()), Some(at(7)));
    assert_eq!(told(deleted, disrupted), Some(at(7)));
}

#[test]
fn a_missing_member_is_lost_only_by_a_live_list() {
    let mut seen = launched();
    seen.pods.remove("r1-worker-1");
    assert_eq!(decide(&seen, at(10)).steps, [list(&["r1-worker-1"])]);
    seen.pods_are_live = true;
    assert_eq!(end_of(&seen, 10), Some((AttemptCause::Infrastructure, Some("r1-worker-1".into()), None)));
}

#[test]
fn a_pod_with_our_labels_and_another_owner_is_no_member() {
    let mut seen = launched();
    seen.pods_are_live = true;
    if let Some(pod) = seen.pods.get_mut("r1-worker-0") {
        pod.owner_uid = Some("somebody".into());
        pod.progress = exited(0, "Completed", 5);
    }
    assert_eq!(end_of(&seen, 10).map(|end| end.0), Some(AttemptCause::Infrastructure));
}

#[test]
fn all_running_is_one_write_and_some_running_is_none() {
    let mut seen = launched();
    let status = written(&decide(&seen, at(10))).clone();
    assert_eq!(status.phase, Some(RunPhase::Running));
    assert_eq!(status.roles.iter().map(|role| role.active).collect::<Vec<_>>(), [2, 1]);
    if let Some(pod) = seen.pods.get_mut("r1-worker-1") {
        pod.progress = waiting("ContainerCreating", "");
    }
    assert_eq!(decide(&seen, at(10)).steps, []);
}

#[test]
fn gates_are_removed_only_after_the_launch_is_stored() {
    let mut seen = launched();
    for pod in seen.pods.values_mut() {
        pod.gate = Some(0);
        pod.progress = waiting("", "");
    }
    let removed = decide(&seen, at(1)).steps;
    assert_eq!(removed.len(), 3);
    assert!(removed.iter().all(|step| matches!(step, Step::RemoveGate(_))));
    if let Subject::Live { run, .. } = &seen.subject {
        let mut value: Value = serde_json::to_value(&**run).expect("a Run is JSON");
        value["status"]["attempts"][0]["launched"] = Value::Null;
        seen.subject = observe::live(Arc::new(serde_json::from_value(value).expect("still a Run")));
    }
    let before = decide(&seen, at(1)).steps;
    assert!(!before.iter().any(|step| matches!(step, Step::RemoveGate(_))), "{before:#?}");
}

#[test]
fn an_ended_attempt_stops_its_pods_and_is_free_only_by_a_live_list() {
    let mut seen = launched();
    if let Subject::Live { run, .. } = &seen.subject {
        let mut value: Value = serde_json::to_value(&**run).expect("a Run is JSON");
        value["status"]["attempts"][0]["cause"] = json!("Succeeded");
        value["status"]["phase"] = json!("Finalizing");
        seen.subject = observe::live(Arc::new(serde_json::from_value(value).expect("still a Run")));
    }
    if let Some(pod) = seen.pods.get_mut("r1-worker-0") {
        pod.finished = true;
        pod.progress = exited(0, "Completed", 5);
    }
    let stops: BTreeMap<String, (bool, bool)> = decide(&seen, at(10))
        .steps
        .into_iter()
        .map(|step| match step {
            Step::StopPod { pod, release, delete } => (pod.seen.name, (release, delete)),
            other => panic!("only stops, not {other:?}"),
        })
        .collect();
    assert_eq!(stops["r1-worker-0"], (true, false), "a finished pod stays");
    assert_eq!(stops["r1-worker-1"], (true, true));
    for pod in seen.pods.values_mut() {
        pod.finalizers.clear();
        pod.deleting = !pod.finished;
    }
    assert_eq!(decide(&seen, at(10)).steps, [], "two pods still run");
    // A lost node's pods count as gone.
    if let Some(node) = seen.nodes.get_mut("n0") {
        node.lost = true;
    }
    assert_eq!(decide(&seen, at(10)).steps, [list(&["r1-worker-0", "r1-worker-1", "r1-ps-0"])]);
    seen.pods_are_live = true;
    let status = written(&decide(&seen, at(10))).clone();
    assert_eq!((status.attempts[0].pods_gone, status.phase), (true, Some(RunPhase::Completed)));
}

#[test]
fn the_same_observation_gives_the_same_decision() {
    let seen = launched();
    assert_eq!(decide(&seen, at(10)), decide(&seen.clone(), at(10)));
}
