//! What the first run that waits for others has reserved, and from when it is told to start.

use crate::fixture::{World, at, cluster, gpus, minutes, run_id};
use jiff::{SignedDuration, Timestamp};
use trainyard_planner::{Action, FailureCause, Plan, RetireReason, RunReport, WaitReason};

use super::working;

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

fn starts(plan: &Plan, run: &str) -> bool {
    plan.actions.iter().any(|action| matches!(action, Action::Allocate { run: who, .. } if who.name == run))
}

#[test]
fn what_is_broken_is_waited_for_by_nobody_where_no_machine_can_be_asked_for() {
    let world = working(cluster(), &["works"]).until("13:00").growth_blocked();
    let world = world.node(2).node(3).failed(FailureCause::Unusable, "11:00");
    let plan = world.queued("gang").nodes(2).queued("short").ends_within(minutes(30)).plan("12:00");
    assert!(starts(&plan, "short"), "{plan}");
    assert_eq!(report(&plan, "gang").estimated_start, Some(at("13:00")), "not when n-3 is gone");
}

#[test]
fn a_launched_run_has_its_node_until_it_ends_though_its_claim_is_not_to_be_seen() {
    let world = cluster().node(1).active("works", &[1]).until("13:00").node(2).queued("gang").nodes(2);
    let world = world.queued("short").ends_within(minutes(30)).queued("long").ends_within(minutes(90)).max(2);
    let plan = world.plan("12:00");
    assert!(starts(&plan, "short") && !starts(&plan, "long"), "{plan}");
    assert_eq!(report(&plan, "gang").estimated_start, Some(at("13:00")));
}

/// n-1 works until 13:00, n-2 boots, and a gang waits for both.
fn a_gang_waits_for_one_that_works_and_one_that_boots() -> World {
    working(cluster().max(2), &["works"]).until("13:00").node(2).coming("11:59").queued("gang").nodes(2)
}

#[test]
fn a_part_of_a_machine_on_its_way_is_no_sooner_there_either() {
    let within = |limit| {
        a_gang_waits_for_one_that_works_and_one_that_boots().queued("part").part(gpus(1)).ends_within(limit)
    };
    let reason = |limit| report(&within(limit).plan("12:00"), "part").reason();
    assert_eq!(reason(minutes(30)), WaitReason::NodesComing, "booted by 12:20 and over by 12:50");
    assert_eq!(reason(minutes(50)), WaitReason::BehindInQueue);
}

#[test]
fn who_may_use_a_reserved_machine_that_boots_may_do_so_as_long_as_there_is_time_to_boot() {
    let world = a_gang_waits_for_one_that_works_and_one_that_boots().queued("short").ends_within(minutes(30));
    let plan = world.plan("12:00");
    assert_eq!(report(&plan, "short").reason(), WaitReason::NodesComing);
    assert_eq!(plan.wake_at, Some(at("12:10")), "20 minutes to boot, 30 to work");
}

#[test]
fn who_uses_nothing_that_is_reserved_has_no_time_to_look_at() {
    let world = working(cluster().max(2), &["works"]).until("13:00").node(2).coming("11:59");
    let world = world
        .queued("half")
        .part(gpus(2))
        .queued("gang")
        .queued("other-half")
        .part(gpus(2))
        .ends_within(minutes(30));
    let plan = world.plan("12:00");
    let reasons = ["half", "gang", "other-half"].map(|run| report(&plan, run).reason());
    assert_eq!(reasons, [WaitReason::NodesComing, WaitReason::NodesBusy, WaitReason::NodesComing]);
    assert_eq!(plan.wake_at, None);
}

/// n-1 has 4: one is free from the start, one from 12:30 and two from 14:00.
#[test]
fn a_part_is_waited_for_until_it_is_free_and_not_until_all_is() {
    let world = cluster().max(1).node(1).claim("small", 1, gpus(1)).claim("large", 1, gpus(2));
    let world = world.active("small", &[1]).until("12:30").active("large", &[1]).until("14:00");
    let plan = world.queued("train").part(gpus(2)).plan("12:00");
    assert_eq!(report(&plan, "train").estimated_start, Some(at("12:30")));
}

#[test]
fn a_machine_that_is_to_be_emptied_takes_no_new_part() {
    let half = |world: World, run: &str, ordinal, end| {
        world.node(ordinal).claim(run, 1, gpus(2)).active(run, &[ordinal]).until(end)
    };
    let world = half(half(cluster().max(1), "sooner", 1, "13:00"), "later", 2, "14:00");
    let plan = world.queued("train").part(gpus(2)).plan("12:00");
    assert!(plan.to_string().contains("start team/train attempt 1 on n-2 "), "{plan}");
}

#[test]
fn of_two_equal_parts_the_one_that_is_over_is_given_back() {
    let world = cluster().max(1).node(1).claim("works", 1, gpus(2)).claim("over", 1, gpus(2));
    let world = world.active("works", &[1]).until("13:00").ended("over", 1).queued("train");
    assert_eq!(report(&world.plan("12:00"), "train").estimated_start, Some(at("13:00")));
}

#[test]
fn nobody_is_let_in_before_the_end_of_a_run_that_has_not_begun_and_whose_user_promised_nothing() {
    let world = cluster().max(2).node(1).node(2).claimed_by("begins").active("begins", &[2]).not_launched();
    let plan = world.queued("gang").nodes(2).queued("short").ends_within(minutes(30)).plan("12:00");
    assert_eq!(report(&plan, "short").reason(), WaitReason::BehindReservation, "{plan}");
}
