//! The operator is killed around every single write of a Run's life and started again; the end must be the same.

use serde_json::json;
use trainyard_api::run_status::{AttemptCause, RunPhase};
use trainyard_fake_apiserver::{Matching, When};

use super::world::World;

/// Plays the life of one Run, with the operator killed at its `nth` write (counted from 1, Events not counted). Returns
/// the world at its end and whether there was such a write.
async fn life(nth: usize, when: When, with_failure: bool) -> (World, bool) {
    let world = World::with_nodes(2);
    let mut process = Some(world.start("operator"));
    let mut generation = 0;
    let mut killed = false;
    world.server.fail_nth_write(nth, when);
    world.submit("r1", &json!({"nodeCount": 2, "retries": {"user": 1}, "distribution": {"tensorflow": {"parameterServer": {}}}}));
    let all_writes = |world: &World| world.count(&Matching::writes());
    for turn in 0..200 {
        tokio::task::yield_now().await;
        // The cut request is the nth; as soon as it has been made, the process that made it is gone.
        if !killed && all_writes(&world) >= nth {
            killed = true;
            drop(process.take());
            generation += 1;
            world.settle().await;
            process = Some(world.start(&format!("operator-{generation}")));
        }
        if turn % 4 == 3 {
            world.settle().await;
            world.cluster_turn();
            world.kubelet_turn();
            act(&world, with_failure);
        }
        if world.phase("r1").is_terminal() && killed {
            break;
        }
    }
    world.play().await;
    drop(process);
    (world, killed)
}

/// Processes exit once all of them run: in the first attempt one fails, if it shall.
fn act(world: &World, with_failure: bool) {
    let attempt = world.last_attempt("r1");
    if attempt.start_time.is_none() || attempt.cause.is_some() {
        return;
    }
    let pod = |name: &str| {
        if attempt.number == 1 { name.to_owned() } else { format!("{name}-a{}", attempt.number) }
    };
    let code = i32::from(with_failure && attempt.number == 1);
    let worker = pod("r1-worker-0");
    if world.pods().iter().any(|one| one.metadata.name.as_ref() == Some(&worker)) {
        world.exit(&worker, code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_write_of_a_successful_run_changes_nothing_in_the_end() {
    for when in [When::Before, When::After] {
        let mut nth = 1;
        loop {
            let (world, killed) = life(nth, when, false).await;
            let status = world.status("r1");
            assert_eq!(status.phase, Some(RunPhase::Completed), "write {nth} {when:?}: {status:#?}");
            let causes: Vec<_> = status.attempts.iter().filter_map(|one| one.cause).collect();
            assert_eq!(causes, [AttemptCause::Succeeded], "write {nth} {when:?}");
            assert!(status.attempts.iter().all(|one| one.pods_gone));
            world.assert_nothing_held("r1");
            if !killed {
                assert!(nth > 15, "a Run's life has more than {nth} writes");
                break;
            }
            nth += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_write_of_a_retried_run_counts_one_failure() {
    let mut nth = 1;
    loop {
        let (world, killed) = life(nth, When::After, true).await;
        let status = world.status("r1");
        assert_eq!(status.phase, Some(RunPhase::Completed), "write {nth}: {status:#?}");
        assert_eq!(status.attempts.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 2], "write {nth}");
        let totals = status.totals.unwrap_or_default();
        assert_eq!((totals.user_failures, totals.infrastructure_failures), (1, 0), "write {nth}");
        world.assert_nothing_held("r1");
        if !killed {
            assert!(nth > 30, "two attempts have more than {nth} writes");
            break;
        }
        nth += 1;
    }
}
