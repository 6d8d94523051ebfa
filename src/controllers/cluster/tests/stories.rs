//! What happens when nothing fails.

use std::time::Duration;

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
