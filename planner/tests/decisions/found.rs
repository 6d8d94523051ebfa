//! Machines that are found, and not made: the engine has counted what there is.

use super::*;

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
    for free in [0, 1] {
        let world = cluster().max(4).free_machines(free).node(1).node(2).node(3);
        let world = world.node(4).failed(FailureCause::Lost, "11:00").retired(RetireReason::Lost).released();
        let plan = world.queued("gang").nodes(4).queued("small").plan("12:00");
        assert!(told(&plan).iter().any(|told| told.starts_with("start team/small")), "{:?}", told(&plan));
        let gang = &plan.report.runs.iter().find(|run| run.run.name == "gang").unwrap();
        assert_eq!(gang.wait.reason(), WaitReason::NoFreeMachines, "{:?}", gang.wait);
    }
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
    let unusable = Backoff {
        cause: FailureCause::Unusable,
        zone: None,
        count: 3,
        until: at("12:24"),
        message: String::new(),
    };
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
