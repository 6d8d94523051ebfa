//! Additions to pods, as an API server and kubelets show them.

use std::time::Duration;

use serde_json::{Value, json};
use trainyard_api::run_status::{AttemptCause, RunPhase, RunReason};

use super::world::World;

fn with_a_sidecar() -> Value {
    let sidecar = json!({"name": "proxy", "image": "p", "resources": {"cpu": "100m", "memory": "64Mi"}});
    json!({"podTemplate": {"sidecars": [sidecar]}})
}

/// The training's container exits, and the kubelet has not stopped the others yet.
fn main_exits(world: &World, pod: &str, code: i32) {
    world.exit(pod, code);
    world.edit_pod(pod, |pod| pod["status"]["phase"] = json!("Running"));
}

#[tokio::test(start_paused = true)]
async fn a_finished_pod_stays_with_its_logs_although_its_sidecars_stop_after_it() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &with_a_sidecar()).await;
    main_exits(&world, "r1-worker-0", 0);
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Finalizing, "its machine is not free yet");
    assert_eq!(world.last_attempt("r1").cause, Some(AttemptCause::Succeeded), "but its result is known");

    world.edit_pod("r1-worker-0", |pod| pod["status"]["phase"] = json!("Succeeded"));
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
    assert_eq!(world.pod_names(), ["r1-worker-0"]);
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn sidecars_that_do_not_stop_hold_a_machine_for_a_minute_and_no_longer() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &with_a_sidecar()).await;
    main_exits(&world, "r1-worker-0", 3);
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Finalizing);
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    assert_eq!((world.phase("r1"), world.status("r1").exit_code), (RunPhase::Failed, Some(3)));
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_has_put_beside_the_training_keeps_no_machine() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({})).await;
    world.edit_pod("r1-worker-0", |pod| {
        let containers = pod["spec"]["containers"].as_array_mut().expect("a pod has containers");
        containers.push(json!({"name": "mesh", "image": "m"}));
    });
    main_exits(&world, "r1-worker-0", 0);
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_not_there_ends_the_attempt_after_ten_minutes_as_a_failed_set_up() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit(
        "r1",
        &json!({"podTemplate": {"volumes": [{"name": "keys", "secret": {"secretName": "missing"}}]}}),
    );
    world.settle().await;
    world.cluster_turn();
    world.settle().await;
    world.kubelet_turn();
    let now =
        serde_json::to_value(world.run("r1").status.and_then(|status| status.attempts[0].launched.clone()));
    world.edit_pod("r1-worker-0", |pod| {
        pod["status"] = json!({"phase": "Pending",
            "conditions": [{"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": now.expect("a time")}],
            "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                                   "state": {"waiting": {"reason": "ContainerCreating"}}}]});
    });
    world.pass(Duration::from_secs(9 * 60)).await;
    assert_eq!(world.phase("r1"), RunPhase::Preparing);
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.reason), (Some(RunPhase::Failed), Some(RunReason::Setup)));
    assert_eq!(status.attempts[0].reason.as_deref(), Some("VolumesNotReady"));
    assert!(status.message.is_some_and(|message| message.contains("did not get its volumes (keys)")));
}
