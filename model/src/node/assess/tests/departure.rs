//! Nodes that are lost, taken away, given back or left behind.

use trainyard_api::conditions::{ClusterNodeCondition, ConditionStatus};

use super::super::*;
use super::story::*;

#[test]
fn a_node_that_is_silent_for_a_minute_is_lost_and_stays_so() {
    let silent = |vm: &mut NodeFacts| {
        vm.ready = false;
        vm.not_ready_message = "Kubelet stopped posting node status.".into();
    };
    let story = new().ready().claimed().with_vm(silent);
    story.is(NodeState::Running, NodeReason::NodeNotReady);
    assert_eq!(story.wake_at, Some(story.now + limits::LOST_AFTER));
    let story = story.wakes_honestly();
    story.is(NodeState::Unusable, NodeReason::Lost);
    let story = story.with_vm(|vm| vm.ready = true);
    story.is(NodeState::Unusable, NodeReason::Lost);
    assert_eq!(story.condition(ClusterNodeCondition::Ready), ConditionStatus::False);
}

#[test]
fn a_silence_that_nobody_saw_end_is_not_added_to_the_next() {
    let silent_from = |seconds: i64| {
        move |vm: &mut NodeFacts| {
            vm.ready = false;
            vm.ready_changed = Some(start() + SignedDuration::from_secs(seconds));
        }
    };
    // Noticed at 0; nobody looks for ten minutes, in which it is Ready and falls silent again.
    let story = new().ready().with_vm(silent_from(0)).with_vm(silent_from(595));
    let story = story.after(SignedDuration::from_secs(600));
    story.is(NodeState::Idle, NodeReason::NodeNotReady);
    assert_eq!(story.wake_at, Some(start() + SignedDuration::from_secs(655)));
    story.wakes_honestly().is(NodeState::Unusable, NodeReason::Lost);

    // From False to Unknown is a change within one silence, and a clock that runs ahead is not believed.
    for changed in [40, 60, 100_000] {
        let story = new().ready().with_vm(silent_from(0)).with_vm(silent_from(changed));
        story.after(limits::LOST_AFTER).is(NodeState::Unusable, NodeReason::Lost);
    }
}

#[test]
fn a_node_that_is_back_within_the_minute_is_not_lost() {
    let story = new().ready().with_vm(|vm| vm.ready = false).after(SignedDuration::from_secs(59));
    let story = story.with_vm(|vm| vm.ready = true).after(SignedDuration::from_secs(2));
    story.is(NodeState::Idle, NodeReason::Ready);
    assert_eq!(story.status().not_ready_since, None);
    // A second silence gets its own minute.
    let story = story.with_vm(|vm| vm.ready = false).after(SignedDuration::from_secs(59));
    story.is(NodeState::Idle, NodeReason::NodeNotReady);
}

#[test]
fn a_node_that_vanishes_is_lost_or_when_spot_preempted() {
    for (story, state, reason) in [
        (new(), NodeState::Failed, NodeReason::Lost),
        (new().spot(), NodeState::Preempted, NodeReason::Preempted),
    ] {
        let gone = story.ready().claimed().with_machine(|machine| machine.node = None);
        gone.is(state, reason);
        assert_eq!(gone.status().gone_time, None, "its claim is still there");
        let gone = gone.vanished();
        gone.is(state, reason);
        assert!(gone.status().gone_time.is_some());
    }
}

#[test]
fn a_node_of_the_same_name_and_another_uid_is_another_machine() {
    new().ready().with_vm(|vm| vm.uid = "other".into()).is(NodeState::Failed, NodeReason::Lost);
}

#[test]
fn a_notice_of_the_cloud_preempts_spot_machines_only() {
    let notice =
        |vm: &mut NodeFacts| vm.taints.push(taint("aws-node-termination-handler/spot-itn:NoSchedule"));
    new().spot().ready().claimed().with_vm(notice).is(NodeState::Preempted, NodeReason::Preempted);
    new().ready().claimed().with_vm(notice).is(NodeState::Running, NodeReason::TaintNotTolerated);
    new()
        .spot()
        .ready()
        .said(GivenUp::Preempted, "spot interruption")
        .is(NodeState::Preempted, NodeReason::Preempted);
}

#[test]
fn a_preempted_machine_that_stands_there_in_silence_is_lost() {
    let notice =
        |vm: &mut NodeFacts| vm.taints.push(taint("aws-node-termination-handler/spot-itn:NoSchedule"));
    let story = new().spot().ready().claimed().with_vm(notice).after(SignedDuration::from_hours(1));
    story.is(NodeState::Preempted, NodeReason::Preempted);
    assert_eq!(story.wake_at, None, "as long as its kubelet answers, it says what becomes of its pods");
    let story = story.with_vm(|vm| vm.ready = false);
    story.is(NodeState::Preempted, NodeReason::Preempted);
    assert_eq!(story.wake_at, Some(story.now + limits::LOST_AFTER));
    let story = story.wakes_honestly();
    story.is(NodeState::Preempted, NodeReason::Lost);
    story.with_vm(|vm| vm.ready = true).is(NodeState::Preempted, NodeReason::Lost);
}

#[test]
fn a_machine_deleted_by_somebody_lets_its_run_finish_unless_it_is_spot() {
    let deleted = |machine: &mut Machine| machine.deleting_since = Some(start());
    let story = new().ready().claimed().with_machine(deleted);
    story.is(NodeState::Running, NodeReason::MachineDeleted);
    assert_eq!(
        story.condition(ClusterNodeCondition::Ready),
        ConditionStatus::False,
        "nothing new goes there"
    );
    story.unclaimed().is(NodeState::Unusable, NodeReason::MachineDeleted);
    new().spot().ready().claimed().with_machine(deleted).is(NodeState::Preempted, NodeReason::Preempted);
    new().launched().with_machine(deleted).is(NodeState::Preparing, NodeReason::MachineDeleted);
}

#[test]
fn an_idle_node_that_stays_unusable_is_given_up_and_a_claimed_one_is_not() {
    let lame = |vm: &mut NodeFacts| vm.allocatable.devices.clear();
    let idle = new().ready().with_vm(lame);
    let end = idle.now + limits::USABLE;
    let idle = idle.after(SignedDuration::from_mins(29));
    idle.is(NodeState::Idle, NodeReason::WaitingForAccelerators);
    assert_eq!(idle.wake_at, Some(end));
    idle.after(SignedDuration::from_mins(1)).is(NodeState::Unusable, NodeReason::NotUsableInTime);

    let claimed = new().ready().claimed().with_vm(lame).after(SignedDuration::from_hours(2));
    claimed.is(NodeState::Running, NodeReason::WaitingForAccelerators);
    let cordoned = new().ready().with_vm(|vm| vm.cordoned = true).after(SignedDuration::from_hours(200));
    cordoned.is(NodeState::Idle, NodeReason::Cordoned);
}

#[test]
fn a_node_left_behind_by_its_claim_is_no_machine_of_ours() {
    let story = new().requested();
    let bare = |machine: &mut Machine| {
        machine.backing = None;
        machine.uid = "vm-uid".into();
        machine.progress = Progress::Launched;
        machine.node = Some(ready_node());
    };
    let story = story.with_machine(bare);
    story.is(NodeState::Failed, NodeReason::StockOut);
    assert_eq!(story.status().gone_time, None, "it is still there and must be destroyed");
    assert_eq!(story.status().machine_uid.as_deref(), Some("machine-uid"));
}

#[test]
fn a_lost_machine_that_was_found_says_what_it_waits_for() {
    let lost = new().ready().found().with_vm(|vm| vm.ready = false).after(limits::LOST_AFTER);
    lost.is(NodeState::Unusable, NodeReason::Lost);
    lost.says("has not been Ready for 60 s");
    let mut back = lost.released();
    back.is(NodeState::Unusable, NodeReason::Lost);
    back.says("kept from further use until Node vm-1 is ready again");
    back.says("delete Node vm-1 if it does not come back");
    back.held_up = Some("pod lab/mnist-worker-0 of a run is still on its Node".into());
    let back = back.with_vm(|vm| vm.ready = true);
    back.is(NodeState::Unusable, NodeReason::Lost);
    back.says("was lost and is back; pod lab/mnist-worker-0 of a run is still on its Node");
    let gone = back.vanished();
    gone.is(NodeState::Unusable, NodeReason::Lost);
    assert!(gone.status().gone_time.is_some());
}

#[test]
fn a_machine_that_was_found_is_said_to_be_given_back() {
    new().ready().found().released().says("about to be given back");
}

#[test]
fn what_holds_up_a_release_is_said() {
    let mut story = new().ready().released();
    story.held_up = Some("pod lab/mnist-worker-0 of a run is still on its Node".into());
    let story = story.look();
    story.is(NodeState::Leaving, NodeReason::Released);
    story.says("mnist-worker-0");
}

#[test]
fn when_all_is_over_nothing_changes_any_more() {
    let story = new().requested().said(GivenUp::StockOut, "none").vanished();
    let before = story.status().clone();
    let mut story = story.after(SignedDuration::from_hours(1)).released();
    assert_eq!(*story.status(), before);
    story.machine = Some(machine());
    assert_eq!(*story.look().status(), before, "what turns up later is a stray");
}
