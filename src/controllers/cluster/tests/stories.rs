//! What happens when nothing fails.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use trainyard_fake_apiserver::Matching;

use super::world::World;

#[tokio::test(start_paused = true)]
async fn a_run_gets_new_nodes_and_they_leave_when_idle() {
    let world = World::new();
    let _operator = world.start("a");
    world.submit("r1", 2);
    world.until_done().await;
    world.assert_all_completed(1);
    assert_eq!(world.nodes().len(), 2);
    world.until_empty().await;
    let status = world.cluster().status.unwrap_or_default();
    assert_eq!((status.current_node_count, status.last_node_ordinal), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn runs_behind_each_other_use_the_same_nodes() {
    let world = World::new();
    let _operator = world.start("a");
    for name in ["r1", "r2", "r3", "r4", "r5"] {
        world.submit(name, 3);
    }
    world.until_done().await;
    world.assert_all_completed(1);
    assert_eq!(world.cluster().status.unwrap_or_default().last_node_ordinal, 3, "{}", world.shown());
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_when_nothing_changes() {
    let mut world = World::new();
    world.work = 1_000_000;
    let _operator = world.start("a");
    world.submit("runs", 3);
    world.submit("waits", 2);
    for _ in 0..20 {
        world.turn().await;
    }
    world.server.forget_requests();
    tokio::time::sleep(Duration::from_hours(1)).await;
    let writes = world.server.requests().into_iter().filter(|one| one.verb.is_write()).collect::<Vec<_>>();
    assert_eq!(writes, [], "{}", world.shown());
    assert!(world.server.count(&Matching::any()) < 1000, "and hardly anything is asked");
}

#[tokio::test(start_paused = true)]
async fn what_happens_to_a_run_and_its_nodes_is_told_in_events() {
    let world = World::with_max_nodes(1);
    let _operator = world.start("a");
    world.submit("r1", 1);
    world.until_done().await;
    world.until_empty().await;
    let told: Vec<(String, String, String)> = world
        .told
        .list::<Event>()
        .into_iter()
        .map(|event| {
            let about = event.regarding.unwrap_or_default();
            let kind = about.kind.unwrap_or_default();
            (kind, event.reason.unwrap_or_default(), event.note.unwrap_or_default())
        })
        .collect();
    for (kind, reason, note) in [
        ("Cluster", "NodesRequested", "node 1 is asked for"),
        ("Run", "Waiting", "NodesPreparing: waits for 1 node"),
        ("Run", "NodesAllocated", "attempt 1 gets "),
        ("ClusterNode", "NodeRetired", "it leaves: it idled longer than idleSecondsBeforeScaleDown"),
    ] {
        let is_it =
            |one: &&(String, String, String)| one.0 == kind && one.1 == reason && one.2.starts_with(note);
        assert_eq!(told.iter().filter(is_it).count(), 1, "{kind} {reason}: {told:#?}");
    }
    assert_eq!(told.len(), 4, "and nothing else: {told:#?}");
}
