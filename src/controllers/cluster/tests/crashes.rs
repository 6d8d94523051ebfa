//! The operator is killed around every single write of a story and started again; the end must be the same.

use trainyard_fake_apiserver::{Matching, When};

use super::world::World;

/// Plays a story with the operator killed at its `nth` write. Returns the world, and whether there was such a write.
async fn story(nth: usize, when: When) -> (World, bool) {
    let world = World::new();
    world.server.fail_nth_write(nth, when);
    let mut process = Some(world.start("a"));
    world.submit("r1", 2);
    world.submit("r2", 3);
    let mut killed = false;
    for _ in 0..400 {
        for _ in 0..40 {
            tokio::task::yield_now().await;
            if !killed && world.server.count(&Matching::writes()) >= nth {
                killed = true;
                drop(process.take());
                world.settle().await;
                process = Some(world.start("b"));
            }
        }
        if killed {
            break;
        }
        world.turn().await;
        if world.nodes().is_empty() && !world.runs().iter().any(|run| !super::world::phase(run).is_terminal())
        {
            break;
        }
        if world.runs().iter().all(|run| super::world::phase(run).is_terminal()) {
            tokio::time::sleep(std::time::Duration::from_secs(20)).await;
        }
    }
    world.until_done().await;
    world.until_empty().await;
    drop(process);
    (world, killed)
}

async fn crash_around_every_write(when: When) {
    for nth in 1.. {
        let (world, killed) = story(nth, when).await;
        world.assert_all_completed(2);
        let status = world.cluster().status.unwrap_or_default();
        assert_eq!(status.current_node_count, 0, "write {nth} {when:?}: {}", world.shown());
        assert!(status.last_node_ordinal <= 6, "write {nth} {when:?}: {status:#?}");
        if !killed {
            assert!(nth > 20, "a story has more than {nth} writes");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_any_write_changes_nothing_in_the_end() {
    crash_around_every_write(When::Before).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_write_changes_nothing_in_the_end() {
    crash_around_every_write(When::After).await;
}
