//! Two operators act at once, one of them paused for a while before or after one of its writes, while its caches are
//! kept fresh or frozen.

use std::time::Duration;

use trainyard_fake_apiserver::{Matching, When};

use super::world::{World, phase};

/// How long the paused operator sleeps.
#[derive(Clone, Copy, Debug)]
enum Sleeps {
    /// Some turns.
    Shortly,
    /// Until everything is over.
    ToTheEnd,
}

/// Plays a story with operator `a` held at its `nth` write. Returns the world, and whether there was such a write.
async fn story(nth: usize, when: When, sleeps: Sleeps) -> (World, bool) {
    let world = World::new();
    let _a = world.start("a");
    let mut held = None;
    let (mut passed, mut turns) = (0, 0);
    world.submit("r1", 2);
    world.submit("r2", 3);
    world.submit("r3", 1);
    let own = || Matching::writes().agent("a");
    let mut gate = world.server.pause(own(), when);
    loop {
        tokio::select! {
            biased;
            () = gate.reached() => {
                passed += 1;
                if passed == nth {
                    held = Some(gate);
                    break;
                }
                let next = world.server.pause(own(), when);
                gate.release();
                gate = next;
            }
            () = world.turn() => {
                turns += 1;
                if world.runs().iter().all(|run| phase(run).is_terminal()) {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                }
                if turns > 150 {
                    gate.release();
                    break;
                }
            }
        }
    }
    let reached = held.is_some();
    let _b = world.start("b");
    if let Some(gate) = held {
        match sleeps {
            Sleeps::Shortly => {
                for _ in 0..7 {
                    world.turn().await;
                }
            }
            Sleeps::ToTheEnd => {
                world.until_done().await;
                world.until_empty().await;
            }
        }
        gate.release();
    }
    world.until_done().await;
    world.until_empty().await;
    (world, reached)
}

async fn pause_around_every_write(when: When, sleeps: Sleeps) {
    for nth in 1.. {
        let (world, reached) = story(nth, when, sleeps).await;
        world.assert_all_completed(3);
        if !reached {
            assert!(nth > 20, "a story has more than {nth} writes");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_before_a_write_while_another_acts_breaks_nothing() {
    pause_around_every_write(When::Before, Sleeps::Shortly).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_after_a_write_while_another_acts_breaks_nothing() {
    pause_around_every_write(When::After, Sleeps::Shortly).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_when_all_is_over_breaks_nothing() {
    pause_around_every_write(When::Before, Sleeps::ToTheEnd).await;
}
