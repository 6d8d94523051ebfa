//! Single decisions, each as a situation and what follows from it.
#![allow(clippy::unwrap_used)]

#[path = "../fixture/mod.rs"]
mod fixture;
mod found;
mod refusals;
mod reservations;
mod waits;

use fixture::{World, at, cluster, gpus, minutes, node_name, run_id};
use rstest::rstest;
use trainyard_planner::{
    Action, Backoff, DirectiveKind, DirectiveReason, DropBasis, FailureCause, Hold, HoldReason, Machine,
    Plan, PoolHealth, Progress, RetireReason, WaitReason, Zone, check,
};

/// All actions as text, without the amounts.
fn told(plan: &Plan) -> Vec<String> {
    plan.all_actions().map(|action| action.to_string().split(" (cpu").next().unwrap().to_owned()).collect()
}

fn reason(plan: &Plan, run: &str) -> WaitReason {
    plan.report.runs.iter().find(|report| report.run == run_id(run)).unwrap().reason()
}

/// A working node for each name, and the run on it.
fn working(world: World, runs: &[&str]) -> World {
    (1..)
        .zip(runs)
        .fold(world, |world, (ordinal, run)| world.node(ordinal).claimed_by(run).active(run, &[ordinal]))
}

/// As the Cluster remembers it, until then.
fn refusal(cause: FailureCause, zone: Option<&str>, count: i64, until: &str) -> Backoff {
    Backoff {
        cause,
        zone: zone.map(|zone| Zone(zone.into())),
        count,
        until: at(until),
        message: String::new(),
    }
}

#[rstest]
#[case::never_ready_nodes_are_no_place_to_start(cluster().node(1).coming("00:01"), &[])]
#[case::silent_nodes_are_no_place_to_start(cluster().node(1).not_ready_since("00:01"), &[])]
#[case::a_node_that_stays_silent_is_not_waited_for(
    cluster().idle_timeout(minutes(5)).node(1).not_ready_since("00:00"), &["request node 2"])]
#[case::deleted_nodes_are_replaced(cluster().node(1).deleted(), &["retire n-1: Deleted", "release n-1", "request node 2"])]
#[case::leaving_nodes_are_replaced(cluster().node(1).retired(RetireReason::Lost).released(), &["request node 2"])]
#[case::a_node_that_was_about_to_leave_is_called_back(
    cluster().node(1).retired(RetireReason::Idle), &["call back n-1", "start team/train attempt 1 on n-1"])]
#[case::and_one_that_is_ready_before_one_that_is_on_its_way(
    cluster().max(1).node(1).coming("00:01").retired(RetireReason::NotNeeded).node(2).retired(RetireReason::Idle),
    &["call back n-2", "start team/train attempt 1 on n-2", "release n-1"])]
#[case::a_lost_node_is_never_called_back(
    cluster().node(1).retired(RetireReason::Lost), &["release n-1", "request node 2"])]
fn one_run_waits(#[case] world: World, #[case] expected: &[&str]) {
    assert_eq!(told(&world.queued("train").plan("00:02")), expected);
}

#[test]
fn work_goes_to_the_most_recently_emptied_node() {
    let plan = cluster()
        .node(1)
        .idle_since("12:00")
        .node(2)
        .idle_since("12:01")
        .node(3)
        .idle_since("11:59")
        .queued("train")
        .plan("12:01:30");
    assert!(told(&plan).contains(&"start team/train attempt 1 on n-2".to_owned()), "{plan}");
}

#[test]
fn the_longest_idle_leave_first_and_the_minimum_stays() {
    let world =
        cluster().min(1).node(1).idle_since("11:58").node(2).idle_since("11:50").node(3).idle_since("11:55");
    let plan = world.plan("12:00");
    assert_eq!(told(&plan), ["retire n-2: Idle", "retire n-3: Idle", "release n-2", "release n-3"]);
    assert_eq!(plan.wake_at, None, "{plan}");
}

#[test]
fn nodes_on_their_way_are_counted_before_new_ones_are_asked_for() {
    let plan = cluster().node(1).coming("00:00").queued("a").queued("b").nodes(2).plan("00:01");
    assert_eq!(told(&plan), ["request node 2", "request node 3"]);
}

#[test]
fn a_gang_is_not_asked_for_in_parts() {
    // Three places are free, and the fourth is taken by a node that leaves.
    let plan = cluster().node(1).retired(RetireReason::Idle).released().queued("gang").nodes(4).plan("00:01");
    assert_eq!(told(&plan), [""; 0]);
    assert_eq!(reason(&plan, "gang"), WaitReason::NodesLeaving);
}

#[rstest]
#[case::lost(FailureCause::Lost, DirectiveReason::NodeLost)]
#[case::preempted(FailureCause::Preempted, DirectiveReason::NodePreempted)]
#[case::unusable(FailureCause::Unusable, DirectiveReason::NodeUnusable)]
fn a_broken_node_takes_its_attempt_with_it(#[case] cause: FailureCause, #[case] expected: DirectiveReason) {
    let world = working(cluster(), &["train"]).failed(cause, "12:00");
    let directive = Action::Directive {
        run: run_id("train"),
        attempt: 1,
        kind: DirectiveKind::Requeue,
        reason: expected,
        culprit: Some(node_name(1)),
    };
    assert!(world.plan("12:00").actions.contains(&directive));
}

#[rstest]
#[case::over(cluster().node(1).claimed_by("train").ended("train", 1), DropBasis::PodsGone)]
#[case::requeued(cluster().max(0).node(1).claimed_by("train").queued("train").attempt(2), DropBasis::PodsGone)]
#[case::never_written(cluster().max(0).node(1).claimed_by("train").queued("train"), DropBasis::NotAllocated)]
#[case::outside_the_allocation(
    cluster().node(2).claimed_by("train").node(1).claimed_by("train").active("train", &[2]), DropBasis::NotAllocated)]
#[case::of_an_attempt_before(
    cluster().node(2).claim("train", 2, gpus(4)).node(1).claimed_by("train").second_attempt("train", &[2]), DropBasis::PodsGone)]
#[case::unknown(cluster().node(1).claimed_by("train"), DropBasis::RunGone)]
fn claims_that_nothing_explains_are_dropped(#[case] world: World, #[case] basis: DropBasis) {
    let drop = Action::DropClaim { node: node_name(1), run: run_id("train"), attempt: 1, basis };
    let plan = world.plan("00:00");
    assert!(plan.actions.contains(&drop), "{plan}");
}

#[test]
fn an_allocation_that_was_begun_is_completed_on_the_same_nodes() {
    // A crash between the first claim and the second: the first is taken over, not dropped and written again.
    let plan = cluster().node(1).node(2).claimed_by("train").node(3).queued("train").nodes(2).plan("00:00");
    assert_eq!(told(&plan), ["start team/train attempt 1 on n-1, n-2"]);
}

#[test]
fn a_run_of_parts_fills_the_fullest_node_that_holds_it() {
    let world =
        cluster().node(1).node(2).claim("a", 1, gpus(2)).active("a", &[2]).queued("small").part(gpus(2));
    assert!(told(&world.plan("00:00")).contains(&"start team/small attempt 1 on n-2".to_owned()));
}

#[test]
fn small_runs_do_not_starve_a_gang_of_whole_nodes() {
    // The gang waits for the half-taken node; the small run behind it may not take the other half of it.
    let world = cluster()
        .max(2)
        .node(1)
        .node(2)
        .claim("a", 1, gpus(2))
        .active("a", &[2])
        .queued("gang")
        .nodes(2)
        .queued("small")
        .part(gpus(1));
    let plan = world.plan("00:01");
    assert_eq!(told(&plan), [""; 0], "{plan}");
    assert_eq!(reason(&plan, "gang"), WaitReason::NodesBusy);
}

#[rstest]
#[case::promised_by_the_user("00:30", Some("00:30"))]
#[case::known_from_the_default_only("", None)]
fn a_start_is_estimated_only_from_promises(#[case] until: &str, #[case] expected: Option<&str>) {
    let mut world = working(cluster().max(1), &["a"]);
    if !until.is_empty() {
        world = world.until(until);
    }
    let plan = world.queued("next").plan("00:05");
    assert_eq!(plan.report.runs[0].estimated_start, expected.map(at));
}

#[test]
fn no_start_is_estimated_on_a_node_that_is_silent() {
    let world = working(cluster().max(1), &["a"]).until("00:30").queued("next");
    let mut silent = world.clone();
    silent.0.nodes[0].machine = Machine::NotReady;
    silent.0.nodes[0].not_ready_since = Some(at("00:05"));
    let estimate = |world: World| world.plan("00:05:30").report.runs[0].estimated_start;
    assert_eq!([estimate(world), estimate(silent)], [Some(at("00:30")), None]);
}

#[test]
fn what_is_added_to_a_node_that_a_run_has_whole_is_not_given_to_others() {
    // A DaemonSet has gone since: the node has more than the run of whole nodes was given.
    let mut world = cluster().max(1).node(1).claim("a", 1, gpus(2)).active("a", &[1]);
    let waits = |world: World| world.queued("small").part(gpus(1)).plan("12:00");
    assert!(!waits(world.clone()).actions.is_empty(), "what is left of a shared node is given");
    world.last_active().whole = true;
    assert_eq!(waits(world).actions, []);
}

/// A booting node of which an earlier run has a part is waited for like any other.
#[test]
fn no_start_is_estimated_on_a_machine_that_boots() {
    let world = working(cluster().max(2), &["a"]).until("00:30").node(2).coming("00:01");
    let world = world.queued("first").part(gpus(1)).queued("gang").nodes(2).part(gpus(2));
    let plan = world.plan("00:05");
    assert_eq!((reason(&plan, "gang"), plan.report.runs[1].estimated_start), (WaitReason::NodesBusy, None));
    assert_eq!(plan.report.runs[1].message(), "needs 2 nodes: 0 idle, 1 busy, 1 booting");
}

#[test]
fn a_node_is_asked_for_behind_a_reservation_only_with_time_to_boot() {
    // The gang of two waits for the working node until 01:00; the other place is its own from then on.
    let world = |limit: i64| {
        working(cluster().max(2), &["a"])
            .until("01:00")
            .queued("gang")
            .nodes(2)
            .queued("short")
            .ends_within(minutes(limit))
    };
    assert_eq!(told(&world(39).plan("00:00")), ["request node 2"]);
    assert_eq!(told(&world(40).plan("00:00")), [""; 0]);
}

#[test]
fn far_behind_nobody_is_told_names_that_change_with_every_run() {
    let mut world = working(cluster().max(1), &["a"]);
    for number in 0..30 {
        world = world.queued(&format!("q{number:02}"));
    }
    let plan = world.plan("00:01");
    assert_eq!(plan.report.runs.last().unwrap().message(), "runs before it in the queue come first");
    assert_eq!(plan.report.runs.last().unwrap().position, 30);
}

#[test]
fn the_lowered_maximum_takes_coming_nodes_first() {
    let plan = cluster().max(1).node(1).idle_since("11:59:30").node(2).coming("11:59").plan("12:00");
    assert_eq!(told(&plan), ["retire n-2: ScaleDown", "release n-2"]);
}

#[test]
fn a_missing_class_is_said_and_stops_nothing_that_runs() {
    let plan = working(cluster(), &["a"]).growth_blocked().queued("next").nodes(2).plan("00:01");
    assert_eq!(reason(&plan, "next"), WaitReason::GrowthBlocked);
    assert_eq!(plan.report.pool.health, PoolHealth::Blocked);
    assert_eq!(told(&plan), [""; 0]);
}

#[test]
fn nodes_that_leave_are_not_counted_on_where_none_can_be_asked_for() {
    let world = cluster().growth_blocked().node(1).node(2).retired(RetireReason::Lost).released();
    let plan = world.queued("gang").nodes(2).plan("00:02");
    assert_eq!(reason(&plan, "gang"), WaitReason::GrowthBlocked);
}

#[test]
fn what_is_to_be_asked_for_later_is_part_of_what_is_wanted() {
    // Room for two, and one more when n-1 is gone.
    let world = cluster().max(3).node(1).retired(RetireReason::Idle).released().queued("gang").nodes(3);
    let plan = world.plan("00:02");
    assert_eq!(told(&plan), [""; 0]);
    assert_eq!(plan.report.pool.target_nodes, 3);
}

#[test]
fn high_goes_before_normal_before_low() {
    let plan = cluster().queued("low").low().queued("normal").queued("high").high().max(1).plan("00:01");
    let order: Vec<_> = plan.report.runs.iter().map(|report| report.run.name.as_str()).collect();
    assert_eq!(order, ["high", "normal", "low"]);
}

#[test]
fn a_node_that_never_came_and_is_gone_is_only_forgotten() {
    let plan = cluster().node(1).coming("11:59").failed(FailureCause::StockOut, "12:00").gone().plan("12:00");
    assert_eq!(told(&plan), ["forget n-1"]);
}

#[test]
fn an_attempt_that_is_over_frees_nothing_before_its_pods_are_gone() {
    let mut world = working(cluster().max(1), &["a"]).queued("next");
    world.last_active().progress = Progress::Ended;
    assert_eq!(told(&world.plan("00:01")), [""; 0]);
    assert!(
        world
            .deleting()
            .plan("00:01")
            .actions
            .iter()
            .all(|action| !matches!(action, Action::Directive { .. }))
    );
}

#[rstest]
#[case::launched(cluster().active("train", &[7]), "tell team/train attempt 1: Requeue (NodeLost, n-7)")]
#[case::not_launched(cluster().active("train", &[7]).not_launched(), "tell team/train attempt 1: Stop (Withdrawn)")]
fn nothing_runs_on_a_node_of_which_nothing_is_known(#[case] world: World, #[case] expected: &str) {
    assert_eq!(told(&world.plan("00:01"))[0], expected);
}

#[test]
fn the_claim_of_an_attempt_before_lets_no_attempt_start() {
    let world = cluster().node(1).claimed_by("train").second_attempt("train", &[1]).not_launched();
    assert_eq!(told(&world.plan("00:01"))[0], "tell team/train attempt 2: Stop (Withdrawn)");
}

#[rstest]
#[case::that_served(cluster().node(1), RetireReason::Lost)]
#[case::that_never_came(cluster().node(1).coming("00:00"), RetireReason::Failed)]
fn a_machine_that_is_gone_under_a_claim(#[case] world: World, #[case] expected: RetireReason) {
    let world = world.gone().claimed_by("train").active("train", &[1]).not_launched();
    assert!(told(&world.plan("00:01")).contains(&format!("retire n-1: {expected:?}")));
}

#[test]
fn an_attempt_not_launched_without_claims_is_withdrawn_once() {
    let mut world = cluster().node(1).active("train", &[1]).not_launched();
    assert_eq!(told(&world.plan("00:01")), ["tell team/train attempt 1: Stop (Withdrawn)"]);
    world.last_active().directive = Some(trainyard_planner::GivenDirective {
        kind: DirectiveKind::Stop,
        reason: DirectiveReason::Withdrawn,
    });
    assert_eq!(told(&world.plan("00:01")), [""; 0]);
}

/// Its 44 minutes and the time to boot are just too long to be let through; the shorter run's machine, once it is asked for,
/// does not change that.
#[test]
fn a_machine_on_its_way_is_no_sooner_there_than_a_new_one() {
    let mut world = cluster().node(1).node(2).queued("first").nodes(2).high().ends_within(minutes(64));
    world = world.queued("gang").nodes(3).high();
    world = world.queued("short").low().ends_within(minutes(1)).queued("long").ends_within(minutes(44));
    let first = world.plan("00:01");
    assert_eq!(told(&first).last().map(String::as_str), Some("request node 3"));
    check::planning_again_changes_nothing(&world.0, at("00:01"), &first).unwrap();
}

#[test]
fn a_node_with_a_pod_on_it_is_released_when_it_is_time_to_look_again() {
    let world = cluster().node(1).retired(RetireReason::Idle).occupied_until("00:05");
    let early = world.plan("00:04");
    assert_eq!((told(&early), early.wake_at), (vec![], Some(at("00:05"))));
    assert!(early.report.pool.held_up.unwrap().message.contains("team/left-over"));
    assert_eq!(told(&world.plan("00:05")), ["release n-1"]);
}

#[rstest]
#[case::instead_of_a_new_machine(1, cluster().node(1).retired(RetireReason::Idle), &["call back n-1"])]
#[case::and_no_more_than_it_lacks(
    1, cluster().node(1).retired(RetireReason::Idle).node(2).retired(RetireReason::Idle), &["call back n-1", "release n-2"])]
#[case::ready_ones_first(
    1, cluster().node(1).coming("00:01").retired(RetireReason::NotNeeded).node(2).retired(RetireReason::Idle),
    &["call back n-2", "release n-1"])]
#[case::not_beside_machines_that_the_queue_asks_for(
    1, cluster().node(1).of(gpus(2)).retired(RetireReason::Idle).queued("train").part(gpus(4)),
    &["release n-1", "request node 2"])]
#[case::not_beside_machines_that_the_cluster_begins_with(
    2, cluster().beginning_with(3).node(1).retired(RetireReason::Idle).node(2).retired(RetireReason::Idle),
    &["call back n-1", "release n-2", "request node 3"])]
fn the_minimum_calls_back_nodes_that_are_about_to_leave(
    #[case] minimum: i64,
    #[case] world: World,
    #[case] expected: &[&str],
) {
    assert_eq!(told(&world.min(minimum).plan("00:02")), expected);
}

#[test]
fn what_a_cluster_begins_with_is_remembered_once_it_is_there() {
    let remembered = |world: World| world.plan("00:01").report.pool.initial_last_ordinal;
    assert_eq!(remembered(cluster().node(1)), None, "nothing to begin with");
    assert_eq!(remembered(cluster().beginning_with(2).node(1)), None);
    assert_eq!(remembered(cluster().beginning_with(2).node(1).node(2)), Some(2));
}

#[test]
fn silent_nodes_leave_on_their_timer_and_the_minimum_stays() {
    let world = cluster().min(1).node(1).not_ready_since("00:01").node(2).not_ready_since("00:01");
    assert_eq!(told(&world.plan("00:10")), ["retire n-1: Idle", "release n-1"]);
}

#[test]
fn who_leaves_for_being_silent_makes_room_for_one_that_was_about_to_leave_in_the_same_plan() {
    let world = cluster().max(1).node(1).not_ready_since("00:01").node(2).retired(RetireReason::Idle);
    let plan = world.queued("train").plan("00:10");
    assert!(told(&plan).contains(&"start team/train attempt 1 on n-2".to_owned()), "{plan}");
}

#[test]
fn no_machine_is_expected_to_have_more_than_those_that_came() {
    let world = || cluster().queued("train").part(gpus(4)).node(1).of(gpus(3)).idle_since("00:01");
    let plan = world().plan("00:02");
    assert_eq!((told(&plan), reason(&plan, "train")), (Vec::new(), WaitReason::ExceedsNodeSize));
    let comes = world().coming("00:01").plan("00:02");
    assert_eq!(reason(&comes, "train"), WaitReason::NodesComing, "only what is there was measured");
}

#[test]
fn above_the_maximum_what_is_not_ready_leaves_before_what_is_idle_for_longer() {
    let world = cluster().min(1).max(1).node(1).idle_since("00:01").node(2).not_ready_since("00:09");
    assert_eq!(told(&world.plan("00:10")), ["retire n-2: ScaleDown", "release n-2"]);
}
