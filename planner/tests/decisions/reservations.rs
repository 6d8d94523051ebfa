//! What the first run that waits for others has reserved, and from when it is told to start.

use crate::fixture::{World, at, cluster, gpus, minutes, run_id};
use jiff::{SignedDuration, Timestamp};
use trainyard_planner::{Plan, RetireReason, RunReport, WaitReason};

fn report<'a>(plan: &'a Plan, run: &str) -> &'a RunReport {
    plan.report.runs.iter().find(|report| report.run == run_id(run)).unwrap()
}

/// Reason, the promised start, and the sentence.
fn told(world: &World, time: &str, run: &str) -> (WaitReason, Option<Timestamp>, String) {
    let plan = world.plan(time);
    let report = report(&plan, run);
    (report.reason(), report.estimated_start, report.message())
}

#[test]
fn a_node_of_which_it_has_a_part_already_is_not_waited_for_as_well() {
    let half = gpus(2);
    let world = cluster()
        .max(2)
        .node(1)
        .claim("soon", 1, half.clone())
        .active("soon", &[1])
        .until("12:30")
        .node(2)
        .claimed_by("later")
        .active("later", &[2])
        .until("13:00")
        .queued("pair")
        .nodes(2)
        .part(half);
    let (reason, start, message) = told(&world, "12:00", "pair");
    assert_eq!((reason, start), (WaitReason::NodesBusy, Some(at("13:00"))), "{message}");
    assert!(message.contains("1 idle, 1 busy"), "{message}");
}

#[test]
fn a_node_that_leaves_after_its_run_counts_only_if_it_may_be_replaced() {
    let world = |maximum| {
        cluster()
            .max(maximum)
            .node(1)
            .retired(RetireReason::Deleted)
            .claimed_by("soon")
            .active("soon", &[1])
            .until("12:10")
            .node(2)
            .claimed_by("later")
            .active("later", &[2])
            .until("13:00")
            .queued("train")
    };
    // Its replacement would be one more than the maximum, so the other node is waited for.
    assert_eq!(told(&world(1), "12:00", "train").1, Some(at("13:00")));
    // A new machine has to come when it has left, and nobody knows how long that takes.
    assert_eq!(told(&world(2), "12:00", "train").1, None);
    let (reason, _, message) = told(&world(2).nodes(2), "12:00", "train");
    assert_eq!(reason, WaitReason::NodesBusy);
    assert!(message.contains("0 idle, 2 busy"), "{message}");
}

#[test]
fn no_start_is_told_while_a_run_before_it_has_what_it_needs() {
    let world = cluster()
        .max(2)
        .node(1)
        .claimed_by("works")
        .active("works", &[1])
        .until("12:30")
        .queued("first")
        .queued("gang")
        .nodes(2);
    let (reason, start, message) = told(&world, "12:00", "gang");
    assert_eq!((reason, start), (WaitReason::BehindInQueue, None), "{message}");
}

#[test]
fn of_machines_that_are_to_be_asked_for_no_more_are_reserved_than_are_needed() {
    let half = gpus(2);
    let world = cluster()
        .max(3)
        .node(1)
        .claimed_by("works")
        .active("works", &[1])
        .queued("halves")
        .nodes(2)
        .part(half.clone())
        .queued("gang")
        .nodes(2)
        .queued("small")
        .part(half.clone())
        .queued("other")
        .part(half);
    let plan = world.plan("12:00");
    // One of the two new machines is the gang's as soon as it can be, with the busy one; of the other there is half.
    let reasons = ["halves", "gang", "small", "other"].map(|run| report(&plan, run).reason());
    let [comes, behind] = [WaitReason::NodesComing, WaitReason::BehindInQueue];
    assert_eq!(reasons, [comes, behind, comes, behind], "{plan}");
}

#[test]
fn a_machine_that_the_reservation_waits_to_ask_for_serves_a_run_that_is_over_before() {
    let world = cluster()
        .max(4)
        .node(1)
        .claimed_by("works")
        .active("works", &[1])
        .until("16:00")
        .queued("first")
        .queued("gang")
        .nodes(3)
        .queued("short")
        .ends_within(minutes(60))
        .queued("long");
    let plan = world.plan("12:00");
    let reasons = ["first", "gang", "short", "long"].map(|run| report(&plan, run).reason());
    let [comes, busy, behind] = [WaitReason::NodesComing, WaitReason::NodesBusy, WaitReason::BehindInQueue];
    assert_eq!(reasons, [comes, busy, comes, behind], "{plan}");
}

/// A node whose run is about to start and has an hour from then on, and one whose run ends at 13:30.
fn one_end_moves() -> World {
    let mut world = cluster()
        .max(2)
        .node(1)
        .claimed_by("starts")
        .active("starts", &[1])
        .until("01:00")
        .node(2)
        .claimed_by("works")
        .active("works", &[2])
        .until("13:30")
        .queued("train");
    world.0.active[0].started = None;
    world
}

#[test]
fn the_plan_is_made_again_when_an_end_that_moves_on_overtakes_one_that_stands_still() {
    assert_eq!(one_end_moves().plan("12:00").wake_at, Some(at("12:30")));
}

#[test]
fn and_an_instant_later_because_both_end_at_the_same_time_then() {
    let just_after = at("12:30") + SignedDuration::from_nanos(1);
    assert_eq!(one_end_moves().plan("12:30").wake_at, Some(just_after));
}

#[test]
fn what_has_been_overtaken_is_not_overtaken_again() {
    assert_eq!(one_end_moves().plan("12:31").wake_at, None);
}
