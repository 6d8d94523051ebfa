//! A user who may write the pods of his own Runs changes their labels and owners, and objects that an earlier Run left.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use rstest::rstest;
use serde_json::{Value, json};
use trainyard_api::Run;
use trainyard_api::run_status::{AttemptCause, RunPhase};
use trainyard_fake_apiserver::{FakeServer, Matching, Verb, When};

use super::world::{NAMESPACE, World, benchmark_run};

fn set_label(name: &str, value: Option<&str>) -> impl Fn(&mut Value) {
    let (name, value) = (name.to_owned(), value.map(str::to_owned));
    move |pod: &mut Value| {
        let labels = pod["metadata"]["labels"].as_object_mut().expect("a run's pod has labels");
        match &value {
            Some(value) => labels.insert(name.clone(), json!(value)),
            None => labels.remove(&name),
        };
    }
}

/// What must never happen: a pod of attempt `k` unfinished beside one of attempt `k + 1`.
fn attempts_with_unfinished_pods(world: &World) -> Vec<bool> {
    let unfinished = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let mut later: Vec<bool> =
        world.pods().iter().filter(|pod| unfinished(pod)).map(|pod| pod.name_any().contains("-a")).collect();
    later.sort_unstable();
    later.dedup();
    later
}

#[rstest]
#[case::found_by_no_label("trainyard.dev/run-uid", None)]
#[case::of_another_run("trainyard.dev/run-uid", Some("another-uid"))]
#[case::without_run("trainyard.dev/run", None)]
#[case::of_a_run_of_another_name("trainyard.dev/run", Some("r2"))]
#[case::of_a_later_attempt("trainyard.dev/attempt", Some("999"))]
#[case::of_no_attempt("trainyard.dev/attempt", Some("first"))]
#[tokio::test(start_paused = true)]
async fn a_running_pod_with_changed_labels_is_neither_forgotten_nor_left_behind(
    #[case] label: &str,
    #[case] value: Option<&str>,
) {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("r1", &json!({"nodeCount": 2})).await;
    world.edit_pod("r1-worker-1", set_label(label, value));
    for _ in 0..6 {
        world.settle().await;
        assert!(attempts_with_unfinished_pods(&world).len() <= 1, "{:#?}", world.pods());
        world.pass(Duration::from_secs(6)).await;
        world.play().await;
    }
    assert_eq!(world.phase("r1"), RunPhase::Running, "{:#?}", world.status("r1"));
    world.edit_run("r1", |run| run.spec.cancel = true);
    for _ in 0..3 {
        world.play().await;
        world.pass(Duration::from_secs(6)).await;
    }
    assert_eq!(world.phase("r1"), RunPhase::Canceled, "{:#?}", world.status("r1"));
    assert_eq!(world.pod_names(), Vec::<String>::new());
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_lost_its_label_ends_the_attempt_and_the_sentence_says_so() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({})).await;
    world.edit_pod("r1-worker-0", set_label("trainyard.dev/run-uid", None));
    world.settle().await;
    let attempt = world.last_attempt("r1");
    assert_eq!(attempt.cause, Some(AttemptCause::Infrastructure));
    assert!(attempt.message.is_some_and(|text| text.contains("label trainyard.dev/run-uid")));
    assert!(!attempt.pods_gone, "its container still runs");
    // Nobody tells when it is gone: it is looked for.
    world.kubelet_turn();
    world.pass(Duration::from_secs(6)).await;
    assert!(world.status("r1").attempts[0].pods_gone);
}

#[tokio::test(start_paused = true)]
async fn a_finished_pod_that_lost_its_label_while_the_operator_was_down_is_not_held_for_ever() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.running("r1", &json!({})).await;
    drop(process);
    world.exit("r1-worker-0", 0);
    world.edit_pod("r1-worker-0", set_label("trainyard.dev/run-uid", None));
    let _process = world.start("two");
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running, "nobody vouches for its result");
    let first: Pod = world.server.get(NAMESPACE, "r1-worker-0").expect("a finished pod stays");
    assert_eq!(first.finalizers(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_forged_for_a_later_attempt_goes_and_the_run_goes_on() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({})).await;
    let uid = world.run("r1").uid().expect("a stored object has a UID");
    let forged: Pod = serde_json::from_value(json!({
        "metadata": {"name": "r1-worker-0-a7", "namespace": NAMESPACE, "labels": {"trainyard.dev/run-uid": uid}},
        "spec": {"containers": [{"name": "main"}]},
    }))
    .expect("a pod");
    world.server.put(&forged);
    world.play().await;
    assert_eq!(world.pod_names(), ["r1-worker-0"]);
    assert_eq!((world.phase("r1"), world.status("r1").attempts.len()), (RunPhase::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_one_run_labelled_as_anothers_is_not_stopped_by_the_other() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("r1", &json!({})).await;
    world.running("r2", &json!({})).await;
    let other = world.run("r2").uid().expect("a stored object has a UID");
    world.edit_pod("r1-worker-0", set_label("trainyard.dev/run-uid", Some(&other)));
    world.exit("r2-worker-0", 0);
    world.play().await;
    assert_eq!((world.phase("r2"), world.cause("r2")), (RunPhase::Completed, Some(AttemptCause::Succeeded)));
    world.assert_nothing_held("r2");
}

/// A Run that has finished, was deleted, and whose objects the garbage collector has not come to.
async fn with_leftovers() -> World {
    let world = World::over(FakeServer::new().stopping_pods_gracefully(), 1);
    let process = world.start("one");
    world.running("r1", &benchmark_run()).await;
    world.exit("r1-worker-0", 0);
    world.exit("r1-worker-1", 0);
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
    drop(process);
    world
}

#[rstest]
#[case::while_the_operator_runs(true)]
#[case::while_it_is_down(false)]
#[tokio::test(start_paused = true)]
async fn a_run_made_again_under_its_name_does_not_wait_for_the_garbage_collector(#[case] runs: bool) {
    let world = with_leftovers().await;
    let process = runs.then(|| world.start("two"));
    world.settle().await;
    world.server.delete::<Run>(NAMESPACE, "r1");
    world.settle().await;
    if !runs {
        world.server.remove::<Run>(NAMESPACE, "r1");
    }
    assert!(!world.has_run("r1"));
    assert_eq!(world.pod_names(), ["r1-worker-0", "r1-worker-1"]);
    assert_eq!(world.server.list::<Service>().len(), 1);
    world.submit("r1", &benchmark_run());
    let process = process.unwrap_or_else(|| world.start("two"));
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.attempts.len()), (Some(RunPhase::Running), 1), "{status:#?}");
    let uid = world.run("r1").uid();
    let owners = world.pods().into_iter().map(|pod| pod.metadata.owner_references.unwrap_or_default());
    assert!(owners.flatten().all(|owner| Some(&owner.uid) == uid.as_ref()), "{:#?}", world.pods());
    let service = world.server.list::<Service>().pop().expect("its Service");
    assert_eq!(service.metadata.labels.unwrap_or_default().get("trainyard.dev/run-uid"), uid.as_ref());
    drop(process);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_somebody_deletes_is_made_again() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &benchmark_run()).await;
    world.pass(Duration::from_secs(30)).await;
    world.server.delete::<Service>(NAMESPACE, "r1");
    world.settle().await;
    assert_eq!(world.server.list::<Service>().len(), 1);
    assert_eq!(world.phase("r1"), RunPhase::Running);
}

/// Everything by which a pod is found but its name, and our finalizer.
fn disown(pod: &mut Value) {
    pod["metadata"]["labels"] = json!({});
    pod["metadata"].as_object_mut().expect("metadata").remove("ownerReferences");
}

fn give_to_another_run(pod: &mut Value) {
    pod["metadata"]["ownerReferences"][0]["uid"] = json!("another-uid");
}

/// All of it: nothing is left but what cannot be changed.
fn disown_for_good(pod: &mut Value) {
    disown(pod);
    pod["metadata"].as_object_mut().expect("metadata").remove("finalizers");
}

fn give_away_for_good(pod: &mut Value) {
    give_to_another_run(pod);
    pod["metadata"]["labels"] = json!({});
    pod["metadata"].as_object_mut().expect("metadata").remove("finalizers");
}

#[rstest]
#[case::without_labels_and_owner(disown)]
#[case::of_another_run(give_to_another_run)]
#[case::without_labels_owner_and_finalizer(disown_for_good)]
#[case::of_another_run_without_labels_and_finalizer(give_away_for_good)]
#[tokio::test(start_paused = true)]
async fn a_running_pod_that_nobody_owns_any_more_is_stopped_before_its_node_is_given_away(
    #[case] change: fn(&mut Value),
) {
    // Without the garbage collector, which would delete a pod whose owner is not there.
    let world = World::over(FakeServer::new().stopping_pods_gracefully(), 2);
    let _process = world.start("one");
    world.running("r1", &json!({"nodeCount": 2})).await;
    world.edit_pod("r1-worker-1", change);
    for _ in 0..4 {
        world.settle().await;
        let first: Option<Pod> = world.server.get(NAMESPACE, "r1-worker-1");
        let status = world.status("r1");
        assert!(first.is_none() || !status.attempts[0].pods_gone, "{status:#?}");
        assert!(first.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()));
    }
    for _ in 0..3 {
        world.play().await;
        world.pass(Duration::from_secs(6)).await;
    }
    assert_eq!((world.phase("r1"), world.status("r1").attempts.len()), (RunPhase::Running, 2));
    assert!(world.server.get::<Pod>(NAMESPACE, "r1-worker-1").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_stripped_before_it_is_placed_does_not_start_when_its_run_is_over() {
    let world = World::over(FakeServer::new().stopping_pods_gracefully(), 1);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    world.allocate("r1", &["n0"]);
    world.settle().await;
    assert!(world.last_attempt("r1").launched.is_some(), "{:#?}", world.status("r1"));
    world.edit_pod("r1-worker-0", disown_for_good);
    world.edit_run("r1", |run| run.spec.cancel = true);
    world.settle().await;
    let pod: Option<Pod> = world.server.get(NAMESPACE, "r1-worker-0");
    assert!(pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()), "it waits for its machine");
    for _ in 0..3 {
        world.play().await;
        world.pass(Duration::from_secs(6)).await;
    }
    assert_eq!((world.phase("r1"), world.pods().len()), (RunPhase::Canceled, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_that_name_on_another_machine_is_let_be() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({})).await;
    world.server.remove::<Pod>(NAMESPACE, "r1-worker-0");
    let other: Pod = serde_json::from_value(json!({
        "metadata": {"name": "r1-worker-0", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "main"}], "nodeName": "somewhere-else"}, "status": {"phase": "Running"},
    }))
    .expect("a pod");
    world.server.put(&other);
    world.settle().await;
    assert_eq!(world.cause("r1"), Some(AttemptCause::Infrastructure), "{:#?}", world.status("r1"));
    assert!(world.status("r1").attempts[0].pods_gone);
    let other: Pod = world.server.get(NAMESPACE, "r1-worker-0").expect("it is somebody else's");
    assert!(other.metadata.deletion_timestamp.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_refused_while_the_run_runs_is_asked_for_seldom_and_the_run_goes_on() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &benchmark_run()).await;
    world.pass(Duration::from_secs(30)).await;
    world.server.delete::<Service>(NAMESPACE, "r1");
    let foreign: Service = serde_json::from_value(json!({
        "metadata": {"name": "r1", "namespace": NAMESPACE}, "spec": {"clusterIP": "None"},
    }))
    .expect("a Service");
    world.server.put(&foreign);
    world.server.forget_requests();
    world.pass(Duration::from_mins(2)).await;
    let asked = world.count(&Matching::any().verb(Verb::Create).resource("services"));
    assert!((2..=8).contains(&asked), "{asked}");
    world.exit("r1-worker-0", 0);
    world.exit("r1-worker-1", 0);
    world.settle().await;
    assert_eq!(world.cause("r1"), Some(AttemptCause::Succeeded));
}

#[rstest]
#[case::cancelled(false)]
#[case::deleted(true)]
#[tokio::test(start_paused = true)]
async fn a_gated_pod_that_somebody_holds_does_not_hold_the_machines(#[case] is_deleted: bool) {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    // The claim is missing, so the pod stays gated.
    let gate = world.server.pause(Matching::any().verb(Verb::Get).resource("clusternodes"), When::Before);
    world.allocate("r1", &["n0"]);
    world.settle().await;
    gate.reached().await;
    world.edit_pod("r1-worker-0", |pod| {
        pod["metadata"]["finalizers"] = json!(["example.com/mine", "trainyard.dev/run-pod"]);
    });
    world.server.delete::<Pod>(NAMESPACE, "r1-worker-0");
    if is_deleted {
        world.server.delete::<Run>(NAMESPACE, "r1");
    } else {
        world.edit_run("r1", |run| run.spec.cancel = true);
    }
    gate.release();
    world.pass(Duration::from_secs(30)).await;
    if is_deleted {
        assert!(!world.has_run("r1"), "{:#?}", world.status("r1"));
    } else {
        assert_eq!(world.phase("r1"), RunPhase::Canceled, "{:#?}", world.status("r1"));
    }
    world.cluster_turn();
    world.assert_nothing_claimed();
    let held: Pod = world.server.get(NAMESPACE, "r1-worker-0").expect("it is held");
    assert_eq!(held.finalizers(), ["example.com/mine"]);
}
