//! Machines that are found, and not made: the engine has counted what there is.

use super::*;
use trainyard_planner::RunReport;

#[rstest]
#[case::as_many_as_are_free(2, &["request node 1", "request node 2"], None)]
#[case::one_short(1, &[], Some(WaitReason::NoFreeMachines))]
#[case::none(0, &[], Some(WaitReason::NoFreeMachines))]
fn a_gang_asks_for_machines_that_are_found_only_when_all_are_there(
    #[case] free: i64,
    #[case] expected: &[&str],
    #[case] waits: Option<WaitReason>,
) {
    let plan = cluster().free_machines(free).queued("gang").nodes(2).plan("00:01");
    assert_eq!(told(&plan), expected);
    assert_eq!(reason(&plan, "gang"), waits.unwrap_or(WaitReason::NodesComing));
    let shortage = plan.report.pool.shortage.as_ref().map(|shortage| shortage.nodes);
    assert_eq!(shortage, waits.map(|_| 2), "what the gang lacks, not what nobody has");
}

#[test]
fn idle_nodes_are_not_kept_for_a_gang_whose_rest_is_not_there() {
    let world = || cluster().idle_timeout(minutes(1)).node(1).idle_since("00:00").queued("gang").nodes(2);
    assert_eq!(told(&world().free_machines(0).plan("00:02")), ["retire n-1: Idle", "release n-1"]);
    assert_eq!(told(&world().free_machines(1).plan("00:02")), ["request node 2"]);
}

#[test]
fn runs_far_behind_are_not_told_how_many_machines_are_free() {
    let mut world = cluster().free_machines(0);
    for number in 0..30 {
        world = world.queued(&format!("q{number:02}"));
    }
    let plan = world.plan("00:01");
    assert_eq!(plan.report.runs[0].message(), "needs 1 node, the cluster has 0; 0 machines are free");
    assert_eq!(plan.report.runs[29].message(), "needs 1 node, the cluster has 0");
}

#[test]
fn where_machines_are_counted_the_count_decides_and_no_back_off() {
    let refused = || {
        let missed = cluster().max(4).node(1).failed(FailureCause::StockOut, "12:00").released().gone();
        missed.queued("a")
    };
    assert!(
        !told(&refused().plan("12:00")).contains(&"request node 2".to_owned()),
        "an engine that makes them is spared"
    );
    assert!(told(&refused().free_machines(1).plan("12:00")).contains(&"request node 2".to_owned()));
}

#[test]
fn nobody_counts_on_a_lost_machine_that_is_kept_from_use() {
    for (free, is_released) in [(0, true), (1, true), (0, false), (1, false)] {
        let mut world = cluster().max(4).free_machines(free).node(1).node(2).node(3);
        world = world.node(4).failed(FailureCause::Lost, "11:00");
        if is_released {
            world = world.retired(RetireReason::Lost).released();
        }
        let plan = world.queued("gang").nodes(4).queued("small").plan("12:00");
        assert!(told(&plan).iter().any(|told| told.starts_with("start team/small")), "{:?}", told(&plan));
        let gang = &plan.report.runs.iter().find(|run| run.run.name == "gang").unwrap();
        assert_eq!(gang.wait.reason(), WaitReason::NoFreeMachines, "{:?}", gang.wait);
        assert!(gang.message().starts_with("needs 4 nodes, the cluster has 3;"), "{}", gang.message());
    }
}

#[test]
fn a_machine_that_cannot_be_used_is_given_back_and_found_anew() {
    let world = cluster().max(2).free_machines(0).node(1).node(2).failed(FailureCause::Unusable, "11:00");
    assert_eq!(reason(&world.queued("gang").nodes(2).plan("12:00"), "gang"), WaitReason::NodesLeaving);
}

#[test]
fn the_plan_that_sees_a_machine_lost_keeps_no_idle_node_for_the_gang_that_it_was_for() {
    let world = cluster().idle_timeout(minutes(0)).free_machines(0).node(1).node(2);
    let world = world.node(3).failed(FailureCause::Lost, "11:00").queued("gang").nodes(3);
    let expected = ["n-3: Lost", "n-1: Idle", "n-2: Idle"].map(|retired| format!("retire {retired}"));
    assert_eq!(told(&world.plan("12:00"))[..3], expected);
}

#[test]
fn the_end_of_a_run_on_a_lost_machine_gives_nobody_a_node() {
    // What is on n-3 ends by 13:00, and then it is replaced. That n-2 is empty sooner is nothing to the gang.
    let world = cluster().free_machines(0).node(1).node(2).failed(FailureCause::Lost, "11:00");
    let mut world = world.claimed_by("dies").active("dies", &[2]);
    world.last_active().progress = Progress::Ended;
    let world = world.node(3).deleted().claimed_by("works").active("works", &[3]).until("13:00");
    let world = world.queued("gang").nodes(2).queued("short").ends_within(minutes(20));
    assert!(told(&world.plan("12:00")).contains(&"start team/short attempt 1 on n-1".to_owned()));
    assert!(!told(&world.plan("12:50")).iter().any(|told| told.starts_with("start")), "it would not be over");
}

/// The maximum was lowered to 2; a lost machine is there besides and takes up room until it is back.
#[rstest]
#[case::that_is_idle(&[], "start team/gang attempt 1 on n-1, n-2")]
#[case::that_is_idle_and_works(&[2], "retire n-3: Lost")]
fn what_cannot_be_had_again_is_there_for_a_gang(#[case] working: &[i64], #[case] first: &str) {
    let mut world = cluster().max(2).idle_timeout(minutes(0)).free_machines(0);
    for ordinal in [1, 2] {
        world = world.node(ordinal);
        if working.contains(&ordinal) {
            world = world.claimed_by("works").active("works", &[ordinal]);
        }
    }
    let plan = world.node(3).failed(FailureCause::Lost, "11:00").queued("gang").nodes(2).plan("12:00");
    assert!(told(&plan).contains(&first.to_owned()), "{plan}");
    assert!(!told(&plan).iter().any(|told| told.ends_with("Idle")), "{plan}");
    let waits = plan.report.runs.first().map(RunReport::reason);
    assert_eq!(waits, (!working.is_empty()).then_some(WaitReason::NodesBusy));
}

#[test]
fn twenty_runs_are_told_what_the_engine_says_or_who_is_before_them_and_the_others_need_not_be_rewritten() {
    let of_two = |world: World, number: i64| world.queued(&format!("r{number}")).nodes(2);
    let short = (0..21).fold(cluster().free_machines(1), of_two).plan("00:00");
    let says = |plan: &Plan, words: &str| -> Vec<bool> {
        plan.report.runs.iter().map(|report| report.message().contains(words)).collect()
    };
    assert_eq!(says(&short, "1 machines are free"), [vec![true; 20], vec![false]].concat(), "{short}");

    // The gang has the idle node reserved and waits for the busy one.
    let waits = cluster().max(2).node(1).node(2).claimed_by("works").active("works", &[2]);
    let waits =
        (0..20).fold(waits.queued("gang").nodes(2), |world, number| world.queued(&format!("r{number}")));
    let waits = waits.plan("00:00");
    let named = [vec![false], vec![true; 19], vec![false]].concat();
    assert_eq!(says(&waits, "team/gang"), named, "{waits}");
}

/// Since 12:00, and until 16:00; but no longer than until 12:12 if its machines are there.
fn standing_aside(mut world: World) -> World {
    let hold = Hold { until: at("16:00"), count: 5, reason: HoldReason::CapacityHold };
    world.last_queued().hold = Some(hold);
    world
}

#[test]
fn a_gang_that_stands_aside_asks_again_as_soon_as_so_many_are_free() {
    let world = |free| standing_aside(cluster().max(4).free_machines(free).queued("gang").nodes(2));
    let short = world(1).plan("12:12");
    assert_eq!(reason(&short, "gang"), WaitReason::CapacityHold);
    assert_eq!((told(&short).len(), short.wake_at), (0, Some(at("16:00"))), "{short}");
    assert!(short.report.runs[0].message().contains("or until so many are free"), "{short}");

    let soon = world(2).plan("12:11:59");
    assert_eq!((told(&soon).len(), soon.wake_at), (0, Some(at("12:12"))), "{soon}");

    let enough = world(2).plan("12:12");
    assert_eq!(told(&enough), ["request node 1", "request node 2"]);
    let gang = &enough.report.runs[0];
    assert_eq!((gang.wait.reason(), gang.gang_since), (WaitReason::NodesComing, Some(at("12:12"))));
    let hold = gang.hold.as_ref().unwrap();
    assert_eq!((hold.until, hold.count), (at("12:12"), 5), "it is over, and not forgotten");
}

#[test]
fn idle_nodes_count_for_a_gang_that_stands_aside_and_coming_ones_do_not() {
    let world = cluster().max(4).free_machines(1).node(1).idle_since("12:11");
    let plan = standing_aside(world.queued("gang").nodes(2)).plan("12:12");
    assert_eq!(told(&plan), ["request node 2"]);
    let world = cluster().max(4).free_machines(1).node(1).coming("12:11");
    let plan = standing_aside(world.queued("gang").nodes(2)).plan("12:12");
    assert_eq!(reason(&plan, "gang"), WaitReason::CapacityHold, "{plan}");
}

#[test]
fn what_runs_before_it_take_is_not_free_for_a_gang_that_stands_aside() {
    let first = cluster().max(4).free_machines(2).queued("first");
    let plan = standing_aside(first.queued("gang").nodes(2)).plan("12:12");
    assert_eq!(told(&plan), ["request node 1"]);
    assert_eq!(reason(&plan, "gang"), WaitReason::CapacityHold);
}

/// That they are free does not say that they serve: the last ones did not.
#[test]
fn a_back_off_that_is_no_stock_out_is_waited_out_whatever_is_free() {
    let unusable = refusal(FailureCause::Unusable, None, 3, "12:24");
    let world = cluster().max(4).free_machines(2).backoff(unusable).queued("gang").nodes(2);
    let world = standing_aside(world);
    let plan = world.plan("12:12");
    assert_eq!(reason(&plan, "gang"), WaitReason::CapacityHold);
    assert_eq!(plan.wake_at, Some(at("12:24")));
    assert_eq!(told(&world.plan("12:24")), ["request node 1", "request node 2"]);
}

#[test]
fn a_gang_does_not_stand_aside_when_all_its_machines_have_just_become_free() {
    let world = |free| {
        let leaving = cluster().max(4).free_machines(free).node(1).retired(RetireReason::Deleted).released();
        let leaving = leaving.node(2).retired(RetireReason::Deleted).released();
        leaving.queued("gang").nodes(2).waiting_for_nodes_since("11:52")
    };
    assert_eq!(reason(&world(0).plan("12:12"), "gang"), WaitReason::CapacityHold);
    let plan = world(2).plan("12:12");
    assert_eq!(told(&plan), ["request node 3", "request node 4"]);
    assert_eq!(plan.report.runs[0].gang_since, Some(at("12:12")), "for these it has waited no time");
}

#[test]
fn runs_of_other_namespaces_are_told_neither_names_of_others_runs_nor_what_the_engine_says() {
    let guest = |mut world: World| {
        world.last_queued().id.namespace = "guest".to_owned();
        world
    };
    let says = |world: &World| -> Vec<String> {
        world.plan("00:00").report.runs.iter().map(RunReport::message).collect()
    };
    let short = |world: World| world.queued("gang").nodes(2);
    let own = says(&short(cluster().free_machines(0)));
    let others = says(&guest(short(cluster().free_machines(0))));
    assert!(own[0].contains("0 machines are free"), "{own:?}");
    assert_eq!(others, ["needs 2 nodes, the cluster has 0"]);

    let busy =
        || cluster().max(2).node(1).claimed_by("long").active("long", &[1]).node(2).idle_since("00:00");
    let behind = |world: World| world.queued("pair").nodes(2).queued("single").max(2);
    let own = says(&behind(busy()));
    assert!(own[1].starts_with("would delay team/pair"), "{own:?}");
    let others = says(&guest(behind(busy())));
    assert_eq!(others[1], "would delay a run before it in the queue that has nodes reserved");
}

#[test]
fn a_guest_is_told_that_machines_were_refused_and_not_what_the_engine_said() {
    let mut world =
        cluster().max(4).node(1).failed(FailureCause::StockOut, "12:00").released().gone().queued("a");
    let own = world.plan("12:00").report.runs[0].message();
    world.last_queued().id.namespace = "guest".to_owned();
    let guests = world.plan("12:00").report.runs[0].message();
    assert!(own.len() > guests.len() && own.starts_with(&guests), "{own} and {guests}");
    assert!(guests.contains("refused (StockOut), asked again at"), "{guests}");
}
