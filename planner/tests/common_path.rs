//! The path of every day: nodes come for a run, it starts on them, they are given back.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "`decisions` uses all of it")]
mod fixture;

use fixture::{at, cluster, node_name, run_id, whole};
use trainyard_planner::{Action, DropBasis, RetireReason, WaitReason};

#[test]
fn an_empty_cluster_rests() {
    let plan = cluster().plan("12:00");
    assert_eq!(plan.all_actions().count(), 0);
    assert_eq!(plan.wake_at, None);
}

#[test]
fn nodes_are_asked_for_a_whole_gang_at_once() {
    let plan = cluster().queued("train").nodes(2).plan("12:00");
    assert_eq!(plan.actions, []);
    assert_eq!(
        plan.afterwards,
        [Action::RequestNode { ordinal: 1, zone: None }, Action::RequestNode { ordinal: 2, zone: None }]
    );
    assert_eq!(plan.report.pool.last_ordinal, 2);
    assert_eq!(plan.report.runs[0].reason(), WaitReason::NodesComing);
    assert_eq!(plan.report.runs[0].gang_since, Some(at("12:00")));
}

#[test]
fn a_run_starts_when_its_nodes_are_ready() {
    let plan = cluster().node(1).node(2).queued("train").nodes(2).plan("00:01");
    assert_eq!(
        plan.actions,
        [Action::Allocate {
            run: run_id("train"),
            attempt: 1,
            nodes: vec![node_name(1), node_name(2)],
            shares: vec![whole(), whole()],
        }]
    );
}

#[test]
fn an_idle_node_is_kept_until_its_time_is_over() {
    let world = cluster().node(1).idle_since("12:00");
    let before = world.plan("12:01:59");
    assert_eq!(before.all_actions().count(), 0);
    assert_eq!(before.wake_at, Some(at("12:02")));
    assert_eq!(
        world.plan("12:02").actions,
        [
            Action::Retire { node: node_name(1), reason: RetireReason::Idle },
            Action::Release { node: node_name(1) }
        ]
    );
}

#[test]
fn a_finished_run_hands_its_node_to_the_next_in_one_plan() {
    let plan = cluster().node(1).claimed_by("done").ended("done", 1).queued("next").plan("12:00");
    assert_eq!(
        plan.actions,
        [
            Action::DropClaim {
                node: node_name(1),
                run: run_id("done"),
                attempt: 1,
                basis: DropBasis::PodsGone
            },
            Action::Allocate {
                run: run_id("next"),
                attempt: 1,
                nodes: vec![node_name(1)],
                shares: vec![whole()]
            }
        ]
    );
}

#[test]
fn a_gone_node_is_forgotten_and_a_deleted_cluster_with_it() {
    let plan = cluster().deleting().node(1).released().gone().plan("12:00");
    assert_eq!(plan.afterwards, [Action::Forget { node: node_name(1) }, Action::ReleaseFinalizer]);
}
