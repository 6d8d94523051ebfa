//! Promises that hold whatever is observed: on snapshots that no history has to explain, and on whole histories.
#![allow(clippy::unwrap_used)]

mod arbitrary;
mod cases;
#[allow(dead_code, reason = "`decisions` uses all of it")]
mod fixture;

use jiff::SignedDuration;
use proptest::prelude::*;
use trainyard_planner::{RequestedShare, check, plan};

use arbitrary::{now, snapshot};
use cases::cases;

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn every_plan_keeps_its_promises(snapshot in snapshot(true)) {
        // Debug builds check this inside `plan` as well; this states it for all builds.
        prop_assert_eq!(check::violation(&snapshot, now(), &plan(&snapshot, now())), None);
    }

    #[test]
    fn planning_again_changes_nothing(snapshot in snapshot(true)) {
        let first = plan(&snapshot, now());
        prop_assert_eq!(check::planning_again_changes_nothing(&snapshot, now(), &first), Ok(()));
    }

    #[test]
    fn nothing_changes_before_it_is_time_to_wake(snapshot in snapshot(true), ahead in 0i64..12_000) {
        let first = plan(&snapshot, now());
        let time = now() + SignedDuration::from_secs(ahead);
        prop_assert_eq!(check::wake_is_honest(&snapshot, now(), &first, time), Ok(()));
        if let Some(wake) = first.wake_at {
            let just_before = wake - SignedDuration::from_nanos(1);
            prop_assert_eq!(check::wake_is_honest(&snapshot, now(), &first, just_before), Ok(()));
        }
    }

    #[test]
    fn the_order_of_the_input_is_nothing(
        (snapshot, reordered) in snapshot(true).prop_flat_map(|snapshot| {
            let (nodes, queued, active) =
                (snapshot.nodes.clone(), snapshot.queued.clone(), snapshot.active.clone());
            let whole = Just(snapshot);
            (whole, Just(nodes).prop_shuffle(), Just(queued).prop_shuffle(), Just(active).prop_shuffle())
        }).prop_map(|(snapshot, nodes, queued, active)| {
            let mut reordered = snapshot.clone();
            (reordered.nodes, reordered.queued, reordered.active) = (nodes, queued, active);
            reordered.backoff.reverse();
            (snapshot, reordered)
        })
    ) {
        let first = plan(&snapshot, now());
        prop_assert_eq!(check::order_of_input_is_nothing(&reordered, now(), &first), Ok(()));
    }

    #[test]
    fn who_is_given_up_takes_nothing_from_others(snapshot in snapshot(true)) {
        let first = plan(&snapshot, now());
        prop_assert_eq!(check::who_is_given_up_takes_nothing(&snapshot, now(), &first), Ok(()));
    }

    #[test]
    fn more_demand_never_means_fewer_nodes(mut snapshot in snapshot(false)) {
        for run in &mut snapshot.queued {
            run.node_count = 1;
        }
        if let Some(more) = snapshot.queued.pop() {
            prop_assert_eq!(&more.share, &RequestedShare::WholeNode);
            let first = plan(&snapshot, now());
            prop_assert_eq!(
                check::more_demand_never_means_fewer_nodes(&snapshot, now(), &first, &more),
                Ok(())
            );
        }
    }
}
