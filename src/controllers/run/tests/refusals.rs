//! The API server does not take a Run's objects: quotas, policies, webhooks, names that are taken, set-up that fails.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use trainyard_api::run_status::{AttemptCause, RunPhase, RunReason};
use trainyard_fake_apiserver::{Fault, Matching, Verb};

use super::world::World;

#[tokio::test(start_paused = true)]
async fn a_gang_refused_by_a_quota_starts_nothing_and_is_not_tried_in_a_loop() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.submit("r1", &json!({"nodeCount": 2}));
    world.settle().await;
    let pods = Matching::any().verb(Verb::Create).resource("pods");
    world.server.fail(pods.clone(), Fault::ForbiddenBecause("exceeded quota: team, requested: cpu=7".into()));
    world.play().await;
    let status = world.status("r1");
    assert_eq!(
        (status.phase, status.attempts[0].cause),
        (Some(RunPhase::Queued), Some(AttemptCause::NamespaceQuota))
    );
    assert_eq!(status.reason, Some(RunReason::NotAccepted));
    assert!(status.message.is_some_and(|text| text.contains("exceeded quota: team")));
    let totals = status.totals.unwrap_or_default();
    assert_eq!((totals.user_failures, totals.infrastructure_failures), (0, 0));
    assert!(world.pods().is_empty());
    let asked = world.count(&pods);
    world.pass(Duration::from_mins(9)).await;
    world.play().await;
    assert!(world.count(&pods) <= asked + 1, "it is not asked for in a loop");
    world.server.heal();
    world.pass(Duration::from_mins(11)).await;
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_does_not_answer_is_named_and_asked_again_every_minute() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    let pods = Matching::any().verb(Verb::Create).resource("pods");
    let said = "failed calling webhook \"guard.example.org\": Post \"https://guard:443\": connection refused";
    world.server.fail(pods.clone(), Fault::InternalErrorBecause(said.into()));
    world.submit("r1", &json!({}));
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Queued, Some(RunReason::NotAccepted)));
    assert!(world.status("r1").message.is_some_and(|text| text.contains("guard.example.org")));
    assert!(world.status("r1").allocation.is_none());
    let asked = world.count(&pods);
    world.pass(Duration::from_secs(55)).await;
    assert_eq!(world.count(&pods), asked, "not in a loop");
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(world.count(&pods), asked + 1);
    world.server.heal();
    world.pass(Duration::from_secs(65)).await;
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_gang_for_which_a_quota_lacks_one_pod_rests_longer_each_time() {
    let world = World::with_nodes(2);
    let process = world.start("one");
    world.submit("r1", &json!({"nodeCount": 2}));
    world.settle().await;
    // The rehearsal asks for pod 0 only, and is told yes each time.
    let pods = Matching::any().verb(Verb::Create).resource("pods").rehearsal(false);
    world.server.fail(pods, Fault::ForbiddenBecause("exceeded quota: team, used pods=9".into()));
    world.play().await;
    let mut rests = Vec::new();
    for _ in 0..7 {
        let ended = world.last_attempt("r1");
        assert_eq!(ended.cause, Some(AttemptCause::NamespaceQuota));
        let mut minutes = 0;
        while world.last_attempt("r1").number == ended.number {
            world.pass(Duration::from_mins(1)).await;
            world.play().await;
            minutes += 1;
        }
        rests.push(minutes);
    }
    assert_eq!(rests, [10, 20, 40, 80, 160, 240, 240]);

    // Another process rests as long, and whoever touches the Run has it tried at once.
    world.pass(Duration::from_mins(30)).await;
    drop(process);
    let _process = world.start("two");
    world.pass(Duration::from_mins(30)).await;
    world.play().await;
    assert_eq!(world.last_attempt("r1").number, 8);
    let message = world.status("r1").message.unwrap_or_default();
    assert!(message.contains("exceeded quota: team") && message.contains("tried again after"), "{message}");
    world.server.heal();
    world.edit_run("r1", |run| run.spec.priority = trainyard_api::run::Priority::High);
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_pods_cannot_be_made_gives_its_machines_back() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({"retries": {"infrastructure": 0}}));
    world.settle().await;
    world.server.fail(Matching::any().verb(Verb::Create).resource("pods"), Fault::InternalError);
    world.play().await;
    world.pass(Duration::from_mins(9)).await;
    assert_eq!(world.cause("r1"), None);
    world.pass(Duration::from_mins(6)).await;
    world.play().await;
    assert_eq!(world.cause("r1"), Some(AttemptCause::Infrastructure));
    assert!(world.status("r1").message.is_some_and(|text| text.contains("within 10 minutes")));
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn a_pod_refused_by_a_policy_after_all_costs_the_users_budget() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    let pods = Matching::any().verb(Verb::Create).resource("pods");
    world.server.fail(pods, Fault::Invalid("spec.containers: no".into()));
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Failed, Some(RunReason::Setup)));
    assert_eq!(world.cause("r1"), Some(AttemptCause::Setup));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_object_of_a_needed_name_is_never_adopted() {
    let world = World::with_nodes(1);
    let foreign: Pod = serde_json::from_value(json!({
        "metadata": {"name": "r1-worker-0", "namespace": "ml"}, "spec": {"containers": [{"name": "other"}]},
    }))
    .expect("a pod");
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    world.server.put(&foreign);
    world.play().await;
    assert_eq!((world.phase("r1"), world.cause("r1")), (RunPhase::Failed, Some(AttemptCause::Setup)));
    assert!(world.status("r1").message.is_some_and(|text| text.contains("a pod of that name is there")));
    assert_eq!(world.pod_names(), ["r1-worker-0"], "and it is not deleted either");
}

#[tokio::test(start_paused = true)]
async fn a_failed_setup_is_tried_again_within_its_budget_and_not_in_a_hot_loop() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"retries": {"user": 2}})).await;
    let image_is_missing = |pod: &mut serde_json::Value| {
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "main", "image": "i", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]});
    };
    world.edit_pod("r1-worker-0", image_is_missing);
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Queued, Some(RunReason::RetryUser)));
    assert_eq!(world.status("r1").attempts.len(), 1, "it rests for a minute");
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
    world.edit_pod("r1-worker-0-a2", image_is_missing);
    world.play().await;
    world.pass(Duration::from_secs(110)).await;
    world.play().await;
    assert_eq!(world.status("r1").attempts.len(), 2, "and for two the next time");
    world.pass(Duration::from_secs(15)).await;
    world.play().await;
    assert_eq!(world.status("r1").attempts.len(), 3);
}
