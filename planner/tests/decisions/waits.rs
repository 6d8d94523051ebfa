//! How long a run waits: its patience for a whole gang, its holds, its deadline.

use super::*;

#[rstest]
#[case::young("00:19:59", WaitReason::NodesComing)]
#[case::out_of_patience("00:20", WaitReason::CapacityHold)]
fn patience_ends_at_the_minute(#[case] now: &str, #[case] expected: WaitReason) {
    let world = cluster().node(1).coming("00:00").queued("gang").waiting_for_nodes_since("00:00");
    let plan = world.plan(now);
    assert_eq!(reason(&plan, "gang"), expected);
    let held = plan.actions.iter().any(|action| matches!(action, Action::Hold { .. }));
    assert_eq!(held, expected == WaitReason::CapacityHold);
}

#[rstest]
#[case::a_moment_before("00:29:59", false)]
#[case::at_its_deadline("00:30", true)]
#[case::long_after("12:00", true)]
fn a_run_is_given_up_at_its_deadline_and_not_before(#[case] now: &str, #[case] expected: bool) {
    let world = cluster().node(1).idle_since("00:29").queued("train").giving_up_at("00:30");
    let plan = world.plan(now);
    let given_up = plan.actions.iter().any(|action| matches!(action, Action::GiveUp { .. }));
    let started = plan.actions.iter().any(|action| matches!(action, Action::Allocate { .. }));
    assert_eq!((given_up, started), (expected, !expected), "{plan}");
}

#[test]
fn a_deadline_ends_the_wait_in_a_cluster_that_goes() {
    let world = cluster().deleting().queued("train").giving_up_at("00:30").queued("other");
    let plan = world.plan("00:30");
    assert_eq!(told(&plan), ["give up team/train: its queueDeadline has passed", "let the cluster go"]);
    assert_eq!(reason(&plan, "other"), WaitReason::ClusterDeleting);
}

#[rstest]
#[case::first(0, 20)]
#[case::second(1, 40)]
#[case::fourth(3, 160)]
#[case::at_most_four_hours(4, 240)]
#[case::however_often(60, 240)]
fn holds_double_up_to_four_hours(#[case] before: i64, #[case] expected: i64) {
    let mut world = cluster().queued("gang").waiting_for_nodes_since("11:00");
    let until = at("10:00");
    world.last_queued().hold =
        (before > 0).then_some(Hold { until, count: before, reason: HoldReason::CapacityHold });
    let plan = world.plan("12:00");
    let hold = plan.report.runs[0].hold.clone().unwrap();
    assert_eq!((hold.until, hold.count), (at("12:00") + minutes(expected), before + 1));
}

#[test]
fn a_held_run_is_passed_over_until_its_time() {
    let mut world = cluster().node(1).idle_since("11:59:30").queued("gang").waiting_for_nodes_since("11:00");
    world.last_queued().hold = Some(Hold { until: at("12:01"), count: 1, reason: HoldReason::CapacityHold });
    let before = world.plan("12:00");
    assert_eq!(reason(&before, "gang"), WaitReason::CapacityHold);
    assert_eq!(before.wake_at, Some(at("12:01")));
    assert_eq!(told(&world.plan("12:01")), ["start team/gang attempt 1 on n-1"]);
}
