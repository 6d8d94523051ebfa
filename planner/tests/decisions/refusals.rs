//! What an engine refused: how long it is waited out, and where it counts.

use super::*;

#[rstest]
#[case::stock_out_a_minute(FailureCause::StockOut, 1, 60)]
#[case::stock_out_doubles(FailureCause::StockOut, 4, 480)]
#[case::stock_out_at_most_half_an_hour(FailureCause::StockOut, 20, 1800)]
#[case::quota_ten_minutes(FailureCause::Quota, 1, 600)]
#[case::quota_at_most_an_hour(FailureCause::Quota, 20, 3600)]
fn refusals_are_waited_out_longer_and_longer(
    #[case] cause: FailureCause,
    #[case] count: i64,
    #[case] seconds: i64,
) {
    // The entry before is as old as it can be without being forgotten.
    let known = refusal(cause, None, count - 1, "11:30");
    let mut world = cluster().node(1).coming("11:59").failed(cause, "12:00").queued("train");
    if count > 1 {
        world = world.backoff(known);
    }
    let plan = world.plan("12:00");
    let entry = &plan.report.pool.backoff[0];
    assert_eq!(entry.count, count);
    let wait = entry.until.duration_since(at("12:00")).as_secs();
    assert!((seconds * 9 / 10..=seconds * 11 / 10).contains(&wait), "{wait} s instead of about {seconds}");
    assert_eq!(plan.report.pool.health, PoolHealth::BackingOff);
}

#[test]
fn one_refused_gang_counts_as_one_refusal() {
    let world = cluster()
        .node(1)
        .coming("11:59")
        .failed(FailureCause::StockOut, "12:00")
        .node(2)
        .coming("11:59")
        .failed(FailureCause::StockOut, "12:00:05");
    let entry = world.plan("12:00:10").report.pool.backoff[0].clone();
    assert_eq!(entry.count, 1);
    // Still in sight in the next plan, and still one.
    assert_eq!(world.backoff(entry.clone()).plan("12:00:20").report.pool.backoff, [entry]);
}

#[test]
fn a_machine_that_served_and_was_lost_is_no_refusal() {
    let plan = cluster().node(1).failed(FailureCause::Lost, "12:00").queued("train").plan("12:00");
    assert_eq!(plan.report.pool.backoff, []);
    assert!(told(&plan).contains(&"request node 2".to_owned()));
}

#[test]
fn a_machine_that_comes_after_a_refusal_ends_its_memory() {
    let refused = || refusal(FailureCause::StockOut, None, 3, "12:04");
    let asked_before = cluster().backoff(refused()).node(1).idle_since("12:03").plan("12:03");
    assert_eq!(asked_before.report.pool.backoff.len(), 1);
    let mut world = cluster().backoff(refused()).node(1).idle_since("12:04");
    world.0.nodes[0].requested_at = at("12:01");
    assert_eq!(world.plan("12:04").report.pool.backoff, []);
}

#[test]
fn each_cause_is_counted_for_itself() {
    let quota = refusal(FailureCause::Quota, None, 3, "12:30");
    let world = cluster().backoff(quota).node(1).coming("11:59").failed(FailureCause::StockOut, "12:00");
    let counts = world.plan("12:00").report.pool.backoff.into_iter().map(|entry| (entry.cause, entry.count));
    assert_eq!(counts.collect::<Vec<_>>(), [(FailureCause::StockOut, 1), (FailureCause::Quota, 3)]);
}

#[test]
fn an_hour_after_its_end_a_refusal_is_forgotten() {
    let refused = refusal(FailureCause::StockOut, None, 3, "11:00");
    let known_at = |time: &str| cluster().backoff(refused.clone()).plan(time).report.pool.backoff.len();
    assert_eq!([known_at("11:59:59"), known_at("12:00")], [1, 0]);
    let counted = cluster().free_machines(1).backoff(refused.clone());
    assert_eq!(
        counted.plan("11:59").report.pool.backoff,
        [],
        "where there is a count it says what can be had"
    );
}

/// A refusal at 12:00, as it is remembered, and a machine asked for then or later in a zone.
#[rstest]
#[case::with_the_refused_one_it_proves_nothing("12:00", "a", 1)]
#[case::afterwards_it_does("12:00:01", "a", 0)]
#[case::but_not_of_another_zone("12:00:01", "b", 1)]
fn a_machine_that_comes_proves_what_can_be_had(
    #[case] requested: &str,
    #[case] zone: &str,
    #[case] left: usize,
) {
    let world = || cluster().zones(&["a", "b"]).zone("a");
    let refused = world().node(1).coming("11:59").in_zone("a").failed(FailureCause::StockOut, "12:00");
    let [entry] = &refused.plan("12:00").report.pool.backoff[..] else { panic!("one refusal") };
    assert_eq!(entry.zone, Some(Zone("a".into())));
    let mut world = world().backoff(entry.clone()).node(2).in_zone(zone);
    (world.0.nodes[0].requested_at, world.0.nodes[0].first_ready) = (at(requested), Some(at("12:03")));
    assert_eq!(world.plan("12:04").report.pool.backoff.len(), left);
}

#[test]
fn a_refusal_everywhere_is_disproved_by_a_machine_anywhere() {
    let quota = refusal(FailureCause::Quota, None, 1, "12:10");
    let mut world = cluster().zones(&["a", "b"]).zone("a").backoff(quota).node(1).in_zone("a");
    (world.0.nodes[0].requested_at, world.0.nodes[0].first_ready) = (at("12:02"), Some(at("12:03")));
    assert_eq!(world.plan("12:04").report.pool.backoff, []);
}

#[test]
fn the_end_of_one_refusal_hides_no_later_one() {
    let refused = |zone: &str, until: &str| refusal(FailureCause::StockOut, Some(zone), 1, until);
    let world = cluster().zones(&["b", "a"]).backoff(refused("a", "12:00")).backoff(refused("b", "12:05"));
    let plan = world.queued("train").plan("12:00");
    assert_eq!(told(&plan), ["request node 1 in zone a"]);
    assert_eq!(plan.wake_at, Some(at("12:05")), "then b would be asked");
}

#[test]
fn a_full_zone_does_not_close_another() {
    let refused = refusal(FailureCause::StockOut, Some("a"), 1, "12:05");
    let world = cluster().zones(&["a", "b"]).backoff(refused).queued("train");
    assert_eq!(told(&world.plan("12:00")), ["request node 1 in zone b"]);
    let bound = world.zone("a").node(1).in_zone("a").claimed_by("other").active("other", &[1]);
    assert_eq!(told(&bound.plan("12:00")), [""; 0]);
    assert_eq!(bound.plan("12:00").wake_at, Some(at("12:05")));
}

#[test]
fn a_zone_that_is_refused_binds_nobody_once_its_last_node_leaves() {
    let refused = refusal(FailureCause::StockOut, Some("a"), 1, "12:05");
    // One of three came, and is idle for long: in the plan that lets it go, the others are asked for elsewhere.
    let world = cluster().zones(&["a", "b"]).zone("a").backoff(refused).beginning_with(3);
    let world = world.node(1).in_zone("a").idle_since("11:00");
    let plan = world.plan("12:00");
    let elsewhere = [2, 3].map(|ordinal| format!("request node {ordinal} in zone b"));
    assert_eq!(told(&plan), [&["retire n-1: Idle".into(), "release n-1".into()], &elsewhere[..]].concat());
    assert_eq!(plan.report.pool.zone, Some(Zone("b".into())));
    assert_eq!(check::planning_again_changes_nothing(&world.0, at("12:00"), &plan), Ok(()));
}

/// As it is after a restart: the engine's words are not stored with the back-off.
#[test]
fn a_refusal_without_words_ends_no_sentence_with_a_colon() {
    let backoff = refusal(FailureCause::StockOut, None, 1, "00:03");
    let plan = cluster().min(1).backoff(backoff).queued("train").plan("00:02");
    let told = plan.to_string();
    assert!(told.contains("asked again at"), "{told}");
    assert!(
        told.lines()
            .all(|line| !line.trim_end().ends_with(':') && !line.contains(": ;") && !line.contains(": [")),
        "{told}"
    );
    assert!(!plan.report.pool.message.trim_end().ends_with(':'), "{}", plan.report.pool.message);
}

#[test]
fn a_refusal_is_the_reason_only_of_runs_that_lack_machines() {
    let refused = refusal(FailureCause::StockOut, None, 1, "12:05");
    let plan =
        cluster().backoff(refused).node(1).coming("11:59").queued("first").queued("second").plan("12:00");
    let reasons = ["first", "second"].map(|run| reason(&plan, run));
    assert_eq!(reasons, [WaitReason::NodesComing, WaitReason::CapacityBackoff], "{plan}");
}
