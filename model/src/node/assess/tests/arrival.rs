//! From the wish to a node that serves, and every way in which it does not come.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::json;
use trainyard_api::conditions::{ClusterNodeCondition, ConditionStatus};
use trainyard_api::placement::{ToleratedEffect, Toleration, TolerationOperator};

use super::super::*;
use super::story::*;
use crate::node::{pods::PodId, seen::Allocatable};

#[test]
fn a_node_comes_is_used_and_goes() {
    let story = new().look();
    story.is(NodeState::Preparing, NodeReason::Pending);
    let story = story.answered(Answer::Requested { machine_uid: "machine-uid".into() });
    story.is(NodeState::Preparing, NodeReason::Requested);
    assert_eq!(story.status().machine_uid.as_deref(), Some("machine-uid"));
    let story = story.launched();
    story.is(NodeState::Preparing, NodeReason::Launched);
    assert_eq!(story.condition(ClusterNodeCondition::Launched), ConditionStatus::True);
    assert_eq!(story.condition(ClusterNodeCondition::Registered), ConditionStatus::Unknown);
    let story = story.after(SignedDuration::from_secs(40)).ready();
    story.is(NodeState::Idle, NodeReason::Ready);
    let first_ready = story.now;
    assert_eq!(story.status().first_ready_time, Some(Time(first_ready)));
    assert_eq!(
        (story.status().node_name.as_deref(), story.status().zone.as_deref()),
        (Some("vm-1"), Some("z1"))
    );
    let story = story.after(SignedDuration::from_secs(5)).claimed();
    story.is(NodeState::Running, NodeReason::Claimed);
    story.says("lab/mnist, attempt 2");
    let story = story.unclaimed();
    story.is(NodeState::Idle, NodeReason::Ready);
    assert_eq!(story.status().first_ready_time, Some(Time(first_ready)), "written once");
    let story = story.released();
    story.is(NodeState::Leaving, NodeReason::Released);
    assert_eq!(story.condition(ClusterNodeCondition::Ready), ConditionStatus::False);
    let story = story.vanished();
    story.is(NodeState::Leaving, NodeReason::Gone);
    assert!(story.status().gone_time.is_some());
}

#[test]
fn what_other_pods_take_of_a_node_is_not_there_for_runs() {
    let mut story = new().ready();
    let all = story.status().allocatable.clone().unwrap();
    let of_kubelet = Allocatable { cpu_millis: 100, memory_bytes: GIB, pods: 1, ..Allocatable::default() };
    story.strangers = Some(Strangers { taken: of_kubelet, ..Strangers::default() });
    let story = story.look();
    story.is(NodeState::Idle, NodeReason::Ready);
    let left = story.status().allocatable.clone().unwrap();
    assert_eq!(left.cpu_millis, all.cpu_millis - 100);
    assert_eq!(left.memory_bytes, all.memory_bytes - GIB);
    assert_eq!(left.accelerators, all.accelerators);
}

#[test]
fn a_node_whose_accelerators_somebody_has_is_of_no_use_and_given_up_after_half_an_hour() {
    let mut story = new().ready();
    let devices = BTreeMap::from([("nvidia.com/gpu".to_owned(), 1)]);
    story.strangers = Some(Strangers {
        taken: Allocatable { devices, ..Allocatable::default() },
        with_devices: Some(PodId::new("dev", "notebook")),
        ..Strangers::default()
    });
    let mut story = story.look();
    story.is(NodeState::Idle, NodeReason::WaitingForAccelerators);
    story.says("0 of 1 nvidia.com/gpu are left: a pod of another namespace, which is of no run that was given this node,");
    assert_eq!(story.condition(ClusterNodeCondition::Ready), ConditionStatus::False);
    let strangers = story.strangers.take();
    let mut story = story.after(SignedDuration::from_mins(5));
    story.is(NodeState::Idle, NodeReason::Ready);
    story.strangers = strangers;
    let story = story.look().after(SignedDuration::from_mins(30));
    story.is(NodeState::Unusable, NodeReason::NotUsableInTime);
}

#[test]
fn a_node_of_which_others_have_most_is_of_no_use_and_is_not_the_measure_of_its_cluster() {
    let mut story = new().ready();
    let all = story.status().allocatable.clone();
    let greedy = Allocatable { cpu_millis: 5000, pods: 1, ..Allocatable::default() };
    story.strangers = Some(Strangers {
        taken: greedy.clone(),
        of_people: greedy,
        with_most_cpu: Some(PodId::new("lab", "greedy")),
        ..Strangers::default()
    });
    let story = story.look();
    story.is(NodeState::Idle, NodeReason::TakenByOthers);
    story.says("cpu are left: pod greedy, which is of no run that was given this node, is in the way");
    assert_eq!(story.condition(ClusterNodeCondition::Ready), ConditionStatus::False);
    assert_eq!(story.status().allocatable, all, "as it was measured when runs could have it");
    let story = story.after(SignedDuration::from_mins(30));
    story.is(NodeState::Unusable, NodeReason::NotUsableInTime);
}

#[test]
fn a_node_released_before_anything_was_asked_for_is_gone_once_a_live_read_says_so() {
    let story = new().look().released();
    story.is(NodeState::Leaving, NodeReason::Released);
    assert_eq!(story.status().gone_time, None, "not seen is not gone");
    assert!(story.vanished().status().gone_time.is_some());
}

#[test]
fn the_engines_words_tell_why_a_machine_never_came() {
    for (cause, reason) in [
        (GivenUp::StockOut, NodeReason::StockOut),
        (GivenUp::Quota, NodeReason::QuotaExceeded),
        (GivenUp::Refused, NodeReason::LaunchFailed),
    ] {
        let story = new().requested().said(cause, "no room in z1").vanished();
        story.is(NodeState::Failed, reason);
        story.says("no room in z1");
        assert!(story.status().gone_time.is_some());
    }
}

#[test]
fn words_that_come_a_moment_after_the_end_are_waited_for() {
    let story = new().requested().vanished();
    story.is(NodeState::Preparing, NodeReason::Requested);
    let story = story.said(GivenUp::Quota, "quota of family reached");
    story.is(NodeState::Failed, NodeReason::QuotaExceeded);
}

#[test]
fn a_machine_that_vanishes_without_a_word_before_it_registered_is_a_stock_out() {
    // Also when the engine called it launched: some say so before the cloud has answered.
    for story in [new().requested(), new().launched()] {
        let story = story.vanished().wakes_honestly();
        story.is(NodeState::Failed, NodeReason::StockOut);
    }
}

#[test]
fn a_machine_the_engine_gave_up_late_has_timed_out() {
    let story = new().requested().after(SignedDuration::from_mins(6)).vanished().wakes_honestly();
    story.is(NodeState::Failed, NodeReason::LaunchTimeout);
    let story = new().launched().after(SignedDuration::from_mins(16)).vanished().wakes_honestly();
    story.is(NodeState::Failed, NodeReason::RegistrationTimeout);
}

#[test]
fn each_limit_ends_the_wait_it_is_for() {
    let story = new().requested();
    assert_eq!(story.wake_at, Some(start() + limits::LAUNCH));
    let story = story.with_machine(|machine| machine.trouble = Some("Throttled: try later".into()));
    story.says("Throttled");
    let story = story.wakes_honestly();
    story.is(NodeState::Failed, NodeReason::LaunchTimeout);
    story.says("Throttled: try later");

    let story = new().launched().wakes_honestly();
    story.is(NodeState::Failed, NodeReason::RegistrationTimeout);

    let mut node = ready_node();
    node.ready = false;
    node.not_ready_message = "cni plugin not initialized".into();
    let story = new().registered(node);
    story.is(NodeState::Preparing, NodeReason::NodeNotReady);
    let story = story.wakes_honestly();
    story.is(NodeState::Unusable, NodeReason::NotUsableInTime);
    story.says("cni plugin not initialized");
}

#[test]
fn a_device_plugin_minutes_late_is_waited_for() {
    let mut node = ready_node();
    node.allocatable.devices.clear();
    let story = new().registered(node);
    story.is(NodeState::Preparing, NodeReason::WaitingForAccelerators);
    assert_eq!(story.condition(ClusterNodeCondition::AcceleratorsReady), ConditionStatus::False);
    let story = story.after(SignedDuration::from_mins(6));
    story.is(NodeState::Preparing, NodeReason::WaitingForAccelerators);
    let story = story.with_vm(|vm| _ = vm.allocatable.devices.insert("nvidia.com/gpu".into(), 1));
    story.is(NodeState::Idle, NodeReason::Ready);
    assert_eq!(story.condition(ClusterNodeCondition::AcceleratorsReady), ConditionStatus::True);
}

#[test]
fn a_device_plugin_kept_off_by_our_taint_is_named_after_two_minutes() {
    let daemon = |name: &str, pod: serde_json::Value| {
        let set: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"selector": {}, "template": {"spec": pod}},
        }))
        .unwrap();
        Arc::new(Daemon::of(&set).unwrap())
    };
    let mut story = new();
    story.daemons = vec![
        daemon("device-plugin", json!({"containers": []})),
        daemon("log-shipper", json!({"containers": [], "tolerations": [{"operator": "Exists"}]})),
        daemon("elsewhere", json!({"containers": [], "nodeSelector": {"pool": "other"}})),
    ];
    let mut node = ready_node();
    node.allocatable.devices.clear();
    let story = story.registered(node);
    story.is(NodeState::Preparing, NodeReason::WaitingForAccelerators);
    assert_eq!(story.wake_at, Some(story.now + limits::PATIENCE_WITH_ACCELERATORS));
    let story = story.wakes_honestly();
    story.is(NodeState::Preparing, NodeReason::TaintNotTolerated);
    story.says("kube-system/device-plugin:");
    story.says("{key: trainyard.dev/cluster, operator: Exists, effect: NoSchedule}");
}

#[test]
fn what_is_in_the_way_is_told_apart() {
    type Change = fn(&mut NodeFacts);
    let cases: [(Change, NodeReason, &str); 6] = [
        (|vm| vm.cordoned = true, NodeReason::Cordoned, "kubectl uncordon vm-1"),
        (
            |vm| vm.taints.push(taint("sku=gpu:NoSchedule")),
            NodeReason::TaintNotTolerated,
            "{key: sku, operator: Exists, effect: NoSchedule}",
        ),
        (
            |vm| vm.taints.push(taint("node.kubernetes.io/memory-pressure:NoSchedule")),
            NodeReason::NodeNotReady,
            "memory-pressure",
        ),
        (|vm| vm.ready = false, NodeReason::NodeNotReady, "not ready"),
        (|vm| vm.allocatable.devices.clear(), NodeReason::WaitingForAccelerators, "0 of 1 nvidia.com/gpu"),
        (
            |vm| vm.taints.push(taint("karpenter.sh/unregistered:NoExecute")),
            NodeReason::NodeNotReady,
            "registering",
        ),
    ];
    for (change, reason, words) in cases {
        let story = new().ready().with_vm(change);
        story.is(NodeState::Idle, reason);
        story.says(words);
        assert_eq!(story.condition(ClusterNodeCondition::Ready), ConditionStatus::False);
        new().ready().claimed().with_vm(change).is(NodeState::Running, reason);
    }
}

#[test]
fn taints_that_run_pods_tolerate_or_that_only_prefer_are_in_nobodys_way() {
    let mut story = new();
    story.node.spec.tolerations = vec![
        Toleration {
            key: Some("sku".into()),
            operator: TolerationOperator::Equal,
            value: Some("gpu".into()),
            effect: None,
        },
        Toleration {
            key: Some("kubernetes.azure.com/scalesetpriority".into()),
            operator: TolerationOperator::Exists,
            value: None,
            effect: Some(ToleratedEffect::NoSchedule),
        },
    ];
    let story = story.ready().with_vm(|vm| {
        vm.taints.extend([
            taint("sku=gpu:NoExecute"),
            taint("kubernetes.azure.com/scalesetpriority=spot:NoSchedule"),
            taint("busy:PreferNoSchedule"),
        ]);
    });
    story.is(NodeState::Idle, NodeReason::Ready);
    story
        .with_vm(|vm| vm.taints.push(taint("sku=cpu:NoSchedule")))
        .is(NodeState::Idle, NodeReason::TaintNotTolerated);
}

#[test]
fn answers_that_end_a_wish_end_the_node() {
    let story = new().answered(Answer::NameTaken("NodeClaim gpu-abcdef-1 is somebody's".into()));
    story.is(NodeState::Failed, NodeReason::NameTaken);
    assert!(story.status().gone_time.is_some());
    let story = new().answered(Answer::NoneLeft("0 of 1 matching nodes are free".into()));
    story.is(NodeState::Failed, NodeReason::StockOut);
    story.says("0 of 1 matching nodes are free");
    assert!(story.status().gone_time.is_some(), "nothing was asked for");
    let story = new().answered(Answer::Rejected("expireAfter: invalid".into()));
    story.is(NodeState::Failed, NodeReason::LaunchFailed);
    let story = new().answered(Answer::Blocked("class x does not exist".into()));
    story.is(NodeState::Preparing, NodeReason::EngineUnavailable);
    let mut story = story;
    story.answer = None;
    story.requested().is(NodeState::Preparing, NodeReason::Requested);
}

#[test]
fn daemons_are_taken_off_what_runs_get() {
    let set: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": "cni", "namespace": "kube-system"},
        "spec": {"selector": {}, "template": {"spec": {
            "tolerations": [{"operator": "Exists"}],
            "initContainers": [
                {"name": "big", "resources": {"requests": {"cpu": "300m", "memory": "1Gi"}}},
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
            ],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "2Gi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "100m"}}},
            ],
            "overhead": {"cpu": "10m"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "none", "operator": "Exists"}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["vm-1"]}]},
            ]}}},
        }}},
    }))
    .unwrap();
    let mut story = new();
    story.daemons = vec![Arc::new(Daemon::of(&set).unwrap())];
    let story = story.ready();
    let left = story.status().allocatable.clone().unwrap();
    assert_eq!(left.cpu_millis, 5800 - 310, "an init container asks for more than all that run after it");
    assert_eq!(left.memory_bytes, 108 * GIB);
    assert_eq!(left.accelerators, BTreeMap::from([("nvidia.com/gpu".into(), 1)]));
}
