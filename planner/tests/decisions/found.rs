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
