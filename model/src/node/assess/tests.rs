#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use k8s_openapi::{api::apps::v1::DaemonSet, apimachinery::pkg::api::resource::Quantity};
use serde_json::json;
use trainyard_api::{
    capacity::Capacity,
    cluster_node::{
        CapacityType, Claim, ClusterIdentity, ClusterNodeSpec, Engine, KarpenterNode, VmSizeFacts,
    },
    conditions::{self, ClusterNodeCondition, ConditionStatus},
    placement::{NodeClassRef, Taint, TaintEffect, ToleratedEffect, Toleration, TolerationOperator},
    vm_size::Accelerator,
};

use super::*;
use crate::node::seen::{Allocatable, Backing, NodeTaint, Owner};

const GIB: i64 = 1 << 30;

/// A ClusterNode of a size with one accelerator, its machine and the time; each step is a change and a look.
struct Story {
    node: ClusterNode,
    machine: Option<Machine>,
    gone: bool,
    words: Option<LastWords>,
    answer: Option<Answer>,
    daemons: Vec<Arc<Daemon>>,
    held_up: Option<String>,
    now: Timestamp,
    gone_since: Timestamp,
    wake_at: Option<Timestamp>,
}

fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn new() -> Story {
    let spec = ClusterNodeSpec {
        cluster: ClusterIdentity { name: "gpu".into(), uid: "cluster-uid".into() },
        ordinal: 1,
        vm_size: VmSizeFacts {
            size_name: "Standard_NC6s_v3".into(),
            vcpus: 6,
            memory: Quantity("112Gi".into()),
            accelerators: vec![Accelerator {
                resource_name: "nvidia.com/gpu".into(),
                count: 1,
                product: "V100".into(),
            }],
        },
        engine: Engine {
            karpenter: Some(KarpenterNode {
                node_class_ref: NodeClassRef { group: "g".into(), kind: "K".into(), name: "n".into() },
                requirements: vec![],
                instance_type: "Standard_NC6s_v3".into(),
                capacity_type: CapacityType::OnDemand,
                zones: vec![],
                requests: BTreeMap::new(),
            }),
        },
        taint: Taint {
            key: "trainyard.dev/cluster".into(),
            value: "gpu".into(),
            effect: TaintEffect::NoSchedule,
        },
        tolerations: vec![],
        claims: vec![],
        idle_since: None,
        retired: None,
        released: None,
    };
    let mut node = ClusterNode::new("gpu-abcdef-1", spec);
    node.metadata.namespace = Some("lab".into());
    node.metadata.uid = Some("node-uid".into());
    node.metadata.generation = Some(1);
    Story {
        node,
        machine: None,
        gone: false,
        words: None,
        answer: None,
        daemons: vec![],
        held_up: None,
        now: start(),
        gone_since: start(),
        wake_at: None,
    }
}

fn machine() -> Machine {
    Machine {
        uid: "machine-uid".into(),
        name: "gpu-abcdef-1".into(),
        backing: Some(Backing { created: start(), node_name: None }),
        owner: Some(Owner { namespace: "lab".into(), name: "gpu-abcdef-1".into(), uid: "node-uid".into() }),
        progress: Progress::Requested,
        trouble: None,
        deleting_since: None,
        drain_skipped: false,
        provider_id: None,
        zone: None,
        node: None,
    }
}

fn taint(text: &str) -> NodeTaint {
    let (rest, effect) = text.rsplit_once(':').unwrap();
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    NodeTaint { key: key.into(), value: value.into(), effect: effect.into() }
}

fn ready_node() -> NodeFacts {
    NodeFacts {
        name: "vm-1".into(),
        uid: "vm-uid".into(),
        provider_id: Some("cloud://vm-1".into()),
        labels: BTreeMap::from([("topology.kubernetes.io/zone".into(), "z1".into())]),
        ready: true,
        not_ready_message: String::new(),
        cordoned: false,
        taints: vec![taint("trainyard.dev/cluster=gpu:NoSchedule")],
        allocatable: Allocatable {
            cpu_millis: 5800,
            memory_bytes: 110 * GIB,
            devices: BTreeMap::from([("nvidia.com/gpu".into(), 1)]),
        },
        deleting_since: None,
        created: Some(start()),
    }
}

impl Story {
    fn requested(mut self) -> Self {
        self.machine = Some(machine());
        self.look()
    }

    fn launched(self) -> Self {
        let mut story = self.requested();
        story.machine().progress = Progress::Launched;
        story.look()
    }

    /// With this Node, whatever its state.
    fn registered(self, node: NodeFacts) -> Self {
        let mut story = self.launched();
        let machine = story.machine();
        machine.progress = Progress::Registered;
        machine.provider_id = node.provider_id.clone();
        machine.zone = Some("z1".into());
        machine.node = Some(node);
        story.look()
    }

    fn ready(self) -> Self {
        self.registered(ready_node())
    }

    fn spot(mut self) -> Self {
        self.node.spec.engine.karpenter.as_mut().unwrap().capacity_type = CapacityType::Spot;
        self
    }

    fn claimed(mut self) -> Self {
        self.node.spec.claims = vec![Claim {
            run_namespace: "lab".into(),
            run_name: "mnist".into(),
            run_uid: "run-uid".into(),
            attempt: 2,
            share: Capacity::default(),
        }];
        self.look()
    }

    fn unclaimed(mut self) -> Self {
        self.node.spec.claims.clear();
        self.look()
    }

    fn released(mut self) -> Self {
        self.node.spec.released = Some(Time(self.now));
        self.look()
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().unwrap()
    }

    fn vm(&mut self) -> &mut NodeFacts {
        self.machine().node.as_mut().unwrap()
    }

    fn with_vm(mut self, change: impl FnOnce(&mut NodeFacts)) -> Self {
        change(self.vm());
        self.look()
    }

    fn with_machine(mut self, change: impl FnOnce(&mut Machine)) -> Self {
        change(self.machine());
        self.look()
    }

    fn said(mut self, cause: GivenUp, message: &str) -> Self {
        self.words = Some(LastWords {
            name: "gpu-abcdef-1".into(),
            uid: "machine-uid".into(),
            cause,
            message: message.into(),
        });
        self.look()
    }

    fn answered(mut self, answer: Answer) -> Self {
        self.answer = Some(answer);
        self.look()
    }

    fn vanished(mut self) -> Self {
        self.machine = None;
        self.gone = true;
        self.gone_since = self.now;
        self.look()
    }

    fn after(mut self, span: SignedDuration) -> Self {
        self.now += span;
        self.look()
    }

    /// One look; the status is stored as the API server would. A second look at the same must say the same.
    fn look(mut self) -> Self {
        let Assessment { status, wake_at } = self.assessed(self.now);
        if let Some(wake_at) = wake_at {
            assert!(wake_at > self.now, "a wake-up in the past: {wake_at}");
        }
        self.node.status = Some(status);
        assert_eq!(
            Some(&self.assessed(self.now).status),
            self.node.status.as_ref(),
            "the same situation, another status"
        );
        self.wake_at = wake_at;
        self
    }

    fn assessed(&self, now: Timestamp) -> Assessment {
        let presence = match (&self.machine, self.gone) {
            (Some(machine), _) => Presence::Here(machine),
            (None, true) => Presence::Gone { since: self.gone_since },
            (None, false) => Presence::NotSeen,
        };
        let situation = Situation {
            node: &self.node,
            machine: presence,
            last_words: self.words.as_ref(),
            answer: self.answer.as_ref(),
            daemons: &self.daemons,
            held_up: self.held_up.as_deref(),
        };
        assess(&situation, now)
    }

    fn status(&self) -> &ClusterNodeStatus {
        self.node.status.as_ref().unwrap()
    }

    fn is(&self, state: NodeState, reason: NodeReason) {
        let status = self.status();
        assert_eq!(
            (status.state, status.reason),
            (Some(state), Some(reason)),
            "{}",
            status.message.as_deref().unwrap_or_default()
        );
    }

    fn says(&self, words: &str) {
        let message = self.status().message.as_deref().unwrap_or_default();
        assert!(message.contains(words), "`{message}` lacks `{words}`");
    }

    fn condition(&self, kind: ClusterNodeCondition) -> ConditionStatus {
        conditions::find(&self.status().conditions, kind).unwrap().status
    }

    /// Nothing changes until the wake-up, and something does then.
    fn wakes_honestly(self) -> Self {
        let wake_at = self.wake_at.expect("a wake-up");
        let before = self.assessed(wake_at - SignedDuration::from_nanos(1));
        assert_eq!(Some(&before.status), self.node.status.as_ref(), "changed before {wake_at}");
        let then = self.assessed(wake_at);
        assert_ne!(Some(&then.status), self.node.status.as_ref(), "nothing changed at {wake_at}");
        Self { now: wake_at, ..self }.look()
    }
}

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
fn answers_that_end_a_wish_end_the_node() {
    let story = new().answered(Answer::NameTaken("NodeClaim gpu-abcdef-1 is somebody's".into()));
    story.is(NodeState::Failed, NodeReason::NameTaken);
    assert!(story.status().gone_time.is_some());
    let story = new().answered(Answer::Rejected("expireAfter: invalid".into()));
    story.is(NodeState::Failed, NodeReason::LaunchFailed);
    let story = new().answered(Answer::Blocked("class x does not exist".into()));
    story.is(NodeState::Preparing, NodeReason::EngineUnavailable);
    let mut story = story;
    story.answer = None;
    story.requested().is(NodeState::Preparing, NodeReason::Requested);
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
