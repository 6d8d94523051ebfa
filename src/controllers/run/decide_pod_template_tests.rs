//! What the additions to a Run's pods may do to it: volumes that do not come, sidecars that fail or are slow to stop.

use std::sync::Arc;

use rstest::rstest;
use serde_json::{Value, json};
use trainyard_api::Run;
use trainyard_api::run_status::AttemptCause;

use super::tests::{at, end_of, exited, launched, waiting, written};
use super::{Observed, Step, Subject, decide, patience};
use crate::controllers::run::facts::PodFacts;
use crate::controllers::run::observe;

/// The launched attempt of two workers and a parameter server, of a Run with this podTemplate.
fn with(template: &Value) -> Observed {
    let mut seen = launched();
    if let Subject::Live { run, .. } = &seen.subject {
        let mut run = Run::clone(run);
        run.spec.pod_template = Some(serde_json::from_value(template.clone()).expect("a podTemplate"));
        seen.subject = observe::live(Arc::new(run));
    }
    seen
}

fn pod<'a>(seen: &'a mut Observed, name: &str) -> &'a mut PodFacts {
    seen.pods.get_mut(name).expect("it is there")
}

fn claimed() -> Value {
    json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]})
}

#[rstest]
#[case::claim_is_missing(claimed(), "persistentvolumeclaim \"data\" not found", AttemptCause::Setup)]
#[case::claim_is_not_bound(
    claimed(),
    "pod has unbound immediate PersistentVolumeClaims",
    AttemptCause::Setup
)]
#[case::disk_in_another_zone(claimed(), "1 node(s) had volume node affinity conflict", AttemptCause::Setup)]
#[case::cordoned(claimed(), "1 node(s) were unschedulable", AttemptCause::Infrastructure)]
#[case::a_volume_that_is_not_the_users(json!({}), "1 node(s) exceed max volume count", AttemptCause::Infrastructure)]
fn a_place_that_the_users_own_volume_denies_is_his_turn(
    #[case] template: Value,
    #[case] message: &str,
    #[case] cause: AttemptCause,
) {
    let limit =
        if cause == AttemptCause::Setup { patience::SETUP_PATIENCE } else { patience::PLACE_PATIENCE };
    let mut seen = with(&template);
    let worker = pod(&mut seen, "r1-worker-1");
    worker.progress = waiting("", "");
    worker.unschedulable = Some((at(3), message.to_owned()));
    assert_eq!(decide(&seen, at(10)).wake_at, Some(at(3) + limit));
    assert_eq!(end_of(&seen, 2 + limit.as_secs()), None);
    assert_eq!(end_of(&seen, 3 + limit.as_secs()).map(|end| end.0), Some(cause));
}

#[rstest]
#[case::with_volumes(json!({"volumes": [{"name": "keys", "secret": {"secretName": "s"}}]}), AttemptCause::Setup, "its volumes (keys)")]
#[case::without(json!({}), AttemptCause::Infrastructure, "no network")]
fn a_node_that_does_not_get_a_pod_together_is_not_paid_for_ever(
    #[case] template: Value,
    #[case] cause: AttemptCause,
    #[case] words: &str,
) {
    let mut seen = with(&template);
    let worker = pod(&mut seen, "r1-worker-1");
    worker.progress = waiting("ContainerCreating", "");
    worker.unprepared = Some(at(5));
    let until = at(5) + patience::PREPARE_PATIENCE;
    assert_eq!(decide(&seen, at(10)).wake_at, Some(until));
    let decision = decide(&seen, until);
    let attempt = written(&decision).attempts.last().expect("an attempt");
    assert_eq!((attempt.cause, attempt.culprit.as_deref()), (Some(cause), Some("r1-worker-1")));
    let message = attempt.message.clone().unwrap_or_default();
    assert!(message.contains(words) && message.contains("its Events say"), "{message}");

    // Its containers' images may take longer.
    pod(&mut seen, "r1-worker-1").unprepared = None;
    assert_eq!(end_of(&seen, patience::START_PATIENCE.as_secs() - 1), None);
}

#[test]
fn a_sidecar_that_does_not_stay_up_before_the_training_is_its_users_fault_after_five_minutes() {
    let mut seen = launched();
    pod(&mut seen, "r1-worker-0").progress =
        waiting("CrashLoopBackOff", "sidecar proxy: back-off 40s restarting failed container");
    assert_eq!(decide(&seen, at(10)).wake_at, Some(at(0) + patience::SETUP_PATIENCE));
    let end = end_of(&seen, patience::SETUP_PATIENCE.as_secs());
    assert_eq!(end, Some((AttemptCause::Setup, Some("r1-worker-0".into()), None)));
}

/// The deletions that are decided once the attempt's end is stored.
fn deleted(seen: &Observed, second: i64) -> (Vec<String>, Option<jiff::Timestamp>) {
    let decision = decide(seen, at(second));
    let names = decision.steps.iter().filter_map(|step| match step {
        Step::StopPod { pod, delete: true, .. } => Some(pod.seen.name.clone()),
        _ => None,
    });
    (names.collect(), decision.wake_at)
}

#[test]
fn a_pod_whose_sidecars_are_being_stopped_is_left_to_its_kubelet_for_its_logs_and_not_for_ever() {
    let mut seen = launched();
    // Worker 0 has succeeded, and its sidecars still have time to stop.
    pod(&mut seen, "r1-worker-0").progress = exited(0, "Completed", 9);
    pod(&mut seen, "r1-worker-0").closing = Some(at(9));
    let ended = written(&decide(&seen, at(10))).clone();
    if let Subject::Live { run, .. } = &seen.subject {
        let mut run = Run::clone(run);
        run.status = Some(ended);
        seen.subject = observe::live(Arc::new(run));
    }
    assert_eq!(deleted(&seen, 11).0, ["r1-ps-0", "r1-worker-1"], "what still works is stopped");

    for one in seen.pods.values_mut() {
        one.finalizers.clear();
    }
    for name in ["r1-ps-0", "r1-worker-1"] {
        seen.pods.remove(name);
    }
    assert_eq!(deleted(&seen, 20), (vec![], Some(at(9 + 60))), "the machine is not free yet");
    assert_eq!(deleted(&seen, 69).0, ["r1-worker-0"]);
    // A container that somebody's webhook put there does not stop by itself.
    pod(&mut seen, "r1-worker-0").closing = None;
    assert_eq!(deleted(&seen, 20).0, ["r1-worker-0"]);
    pod(&mut seen, "r1-worker-0").finished = true;
    assert_eq!(deleted(&seen, 80).0, Vec::<String>::new());
}
