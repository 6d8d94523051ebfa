#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    events::v1::Event,
};
use kube::ResourceExt as _;
use serde_json::json;
use trainyard_api::{
    Cluster, Time,
    cluster_node::{ClusterNodeStatus, NodeReason, NodeState},
    names::{labels, node_labels},
};
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb, When};
use trainyard_model::node::seen::GivenUp;

use super::*;
use crate::{
    clock::{Clock as _, TokioClock},
    provisioner::{
        conformance::eventually,
        karpenter::{
            Karpenter,
            double::{self, CrashPoint, Double},
            wire::{NodeClaim, TERMINATION_TIME},
        },
    },
};

const NAMESPACE: &str = "lab";
const CLUSTER: &str = "11111111-cluster";

/// One process: watches and controller. Dropping it is a crash.
struct Process {
    _tasks: Tasks,
}

/// A Cluster `lab/gpu` on a fake API server with Karpenter's double.
struct Lab {
    server: FakeServer,
    double: Double,
    clock: TokioClock,
    process: Option<Process>,
    _tasks: Tasks,
}

impl Lab {
    /// With one process running, and `maxNodes: 4`.
    fn new() -> Self {
        let mut lab = Self::without_process();
        lab.process = Some(lab.process("one"));
        lab
    }

    fn without_process() -> Self {
        let server = FakeServer::new();
        let mut tasks = Tasks::new(CancellationToken::new());
        let double = Double::start(&server, &mut tasks);
        let lab = Self { server, double, clock: TokioClock::default(), process: None, _tasks: tasks };
        lab.cluster(4);
        lab
    }

    fn process(&self, agent: &str) -> Process {
        self.process_until(agent, None)
    }

    fn process_until(&self, agent: &str, crash: Option<Arc<CrashPoint>>) -> Process {
        let mut tasks = Tasks::new(CancellationToken::new());
        let client = double::client_until(&self.server, agent, crash);
        let clock: SharedClock = Arc::new(self.clock);
        let metrics = Metrics::new();
        let events = Events::start(client.clone(), agent, Arc::clone(&clock), metrics.clone(), &mut tasks);
        let engines = Engines::new(Arc::new(Karpenter::new(client.clone(), Arc::clone(&clock))));
        let controller = NodeController::start(Setup {
            client,
            clock,
            engines,
            events,
            tasks: &mut tasks,
            readiness: &Readiness::default(),
            metrics: &metrics,
            concurrency: 8,
        });
        let token = tasks.token();
        tasks.spawn("node controller", controller.run(token));
        Process { _tasks: tasks }
    }

    /// The process dies between two instructions, and another one starts.
    fn crash(&mut self) {
        self.process = None;
        self.process = Some(self.process("another"));
    }

    fn cluster(&self, max: i32) {
        let cluster: Cluster = serde_json::from_value(json!({
            "metadata": {"name": "gpu", "namespace": NAMESPACE, "uid": CLUSTER},
            "spec": {"vmSize": "Standard_NC6s_v3", "scale": {"maxNodes": max}},
        }))
        .unwrap();
        self.server.put(&cluster);
    }

    /// The cluster controller wants a node with this ordinal. Returns its name.
    fn want(&self, ordinal: i64) -> String {
        let name = format!("gpu-abcdef-{ordinal}");
        let node: ClusterNode = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": format!("node-{ordinal}")},
            "spec": {
                "cluster": {"name": "gpu", "uid": CLUSTER},
                "ordinal": ordinal,
                "vmSize": {
                    "sizeName": "Standard_NC6s_v3", "vcpus": 6, "memory": "112Gi",
                    "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 1, "product": "V100"}],
                },
                "engine": {"karpenter": {
                    "nodeClassRef": double::class(),
                    "instanceType": "Standard_NC6s_v3",
                    "capacityType": "on-demand",
                    "requests": {"cpu": "5", "memory": "90Gi", "pods": "20", "nvidia.com/gpu": "1"},
                }},
                "taint": {"key": "trainyard.dev/cluster", "value": "gpu", "effect": "NoSchedule"},
            },
        }))
        .unwrap();
        self.server.put(&node);
        name
    }

    fn want_once(&self, ordinal: i64) -> String {
        let name = format!("gpu-abcdef-{ordinal}");
        if self.server.get::<ClusterNode>(NAMESPACE, &name).is_none() {
            self.want(ordinal);
        }
        name
    }

    fn release(&self, name: &str) {
        let now = Time(self.clock.now());
        self.server.edit(NAMESPACE, name, |node: &mut ClusterNode| node.spec.released = Some(now));
    }

    /// The cluster controller forgets it.
    fn forget(&self, name: &str) {
        assert!(self.server.remove::<ClusterNode>(NAMESPACE, name));
    }

    fn status(&self, name: &str) -> ClusterNodeStatus {
        self.server.get::<ClusterNode>(NAMESPACE, name).and_then(|node| node.status).unwrap_or_default()
    }

    async fn until(&self, name: &str, state: NodeState, reason: NodeReason) -> ClusterNodeStatus {
        eventually(|| async {
            let status = self.status(name);
            ensure!((status.state, status.reason) == (Some(state), Some(reason)), "{name} is {status:?}");
            Ok(status)
        })
        .await
        .unwrap()
    }

    async fn ready(&self, name: &str) -> ClusterNodeStatus {
        self.until(name, NodeState::Idle, NodeReason::Ready).await
    }

    async fn gone(&self, name: &str) {
        eventually(|| async {
            ensure!(self.status(name).gone_time.is_some(), "not gone: {:?}", self.status(name));
            Ok(())
        })
        .await
        .unwrap();
        assert!(self.double.claim(name).is_none(), "its claim is there");
    }

    fn claims(&self) -> Vec<String> {
        self.server.list::<NodeClaim>().iter().map(kube::ResourceExt::name_any).collect()
    }

    fn creations(&self) -> usize {
        self.server.count(&Matching::any().verb(Verb::Create).resource("nodeclaims"))
    }

    /// A pod of a run, bound to this node's machine.
    fn pod(&self, node: &str) {
        self.pod_in(NAMESPACE, node);
    }

    fn pod_in(&self, namespace: &str, node: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "mnist-worker-0", "namespace": namespace, "labels": {labels::RUN_UID: "run"}},
            "spec": {"containers": [], "nodeName": format!("vm-{node}")},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        self.server.put(&pod);
    }

    fn vm(&self, node: &str) -> Option<Node> {
        self.server.get("", &format!("vm-{node}"))
    }

    fn kubelet(&self, node: &str, ready: &str) {
        self.server.edit("", &format!("vm-{node}"), |node: &mut Node| {
            let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions[0].status = ready.into();
            conditions[0].message = Some("Kubelet stopped posting node status.".into());
        });
    }

    fn told(&self, reason: &str) -> usize {
        self.server.list::<Event>().iter().filter(|event| event.reason.as_deref() == Some(reason)).count()
    }
}

/// Lets that much time pass, with every task getting its turn.
async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_gets_its_machine_and_gives_it_back() {
    let lab = Lab::new();
    let name = lab.want(1);
    let status = lab.ready(&name).await;
    let vm = lab.vm(&name).unwrap();
    assert_eq!((status.node_name, status.node_uid), (Some(vm.name_any()), vm.uid()));
    assert_eq!(status.zone.as_deref(), Some("zone-a"));
    assert_eq!(status.allocatable.unwrap().accelerators["nvidia.com/gpu"], 1);

    lab.double.script(|script| _ = script.hang.insert(name.clone()));
    lab.release(&name);
    eventually(|| async {
        let claim = lab.double.claim(&name).context("gone at once")?;
        ensure!(claim.metadata.deletion_timestamp.is_some(), "not deleted yet");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(lab.vm(&name).unwrap().spec.unwrap().unschedulable, Some(true), "cordoned before it goes");
    lab.until(&name, NodeState::Leaving, NodeReason::Released).await;
    lab.double.script(|script| script.hang.clear());
    lab.gone(&name).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Gone));
    assert_eq!(lab.creations(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_rest_nothing_is_written() {
    let lab = Lab::new();
    for ordinal in 1..=3 {
        lab.ready(&lab.want(ordinal)).await;
    }
    pass(Duration::from_secs(5)).await;
    lab.server.forget_requests();
    pass(Duration::from_hours(1)).await;
    let writes: Vec<_> = lab.server.requests().into_iter().filter(|one| one.verb.is_write()).collect();
    assert!(writes.is_empty(), "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn no_machine_is_asked_for_beyond_max_nodes_and_smaller_ordinals_go_first() {
    let lab = Lab::without_process();
    lab.cluster(2);
    let names: Vec<_> = (1..=4).map(|ordinal| lab.want(ordinal)).collect();
    let _process = lab.process("one");
    lab.ready(&names[0]).await;
    lab.ready(&names[1]).await;
    pass(Duration::from_mins(2)).await;
    assert_eq!(lab.claims(), names[..2]);
    lab.until(&names[2], NodeState::Preparing, NodeReason::Pending).await;

    lab.release(&names[0]);
    lab.ready(&names[2]).await;
    pass(Duration::from_mins(2)).await;
    assert_eq!(lab.claims(), names[1..3]);
    // Raising the limit is seen without anything else happening.
    lab.cluster(3);
    lab.ready(&names[3]).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_stands_or_leaves_takes_its_place_before_one_that_is_wanted() {
    let lab = Lab::without_process();
    lab.cluster(1);
    let later = lab.want(2);
    let _process = lab.process("one");
    lab.ready(&later).await;
    let earlier = lab.want(1);
    pass(Duration::from_mins(2)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&later));

    lab.double.script(|script| _ = script.hang.insert(later.clone()));
    lab.release(&later);
    pass(Duration::from_mins(1)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&later), "it is released and still there");
    lab.double.script(|script| script.hang.clear());
    lab.gone(&later).await;
    lab.ready(&earlier).await;
    assert_eq!(lab.claims(), [earlier]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_gone_or_replaced_gets_no_machine() {
    let lab = Lab::without_process();
    lab.server.remove::<Cluster>(NAMESPACE, "gpu");
    let name = lab.want(1);
    let _process = lab.process("one");
    pass(Duration::from_mins(1)).await;
    assert_eq!(lab.creations(), 0);
    let other: Cluster = serde_json::from_value(json!({
        "metadata": {"name": "gpu", "namespace": NAMESPACE, "uid": "another"},
        "spec": {"vmSize": "x", "scale": {"maxNodes": 4}},
    }))
    .unwrap();
    lab.server.put(&other);
    pass(Duration::from_mins(1)).await;
    assert_eq!(lab.creations(), 0);
    lab.release(&name);
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn two_controllers_at_once_make_one_machine_for_each_node() {
    let lab = Lab::without_process();
    let names: Vec<_> = (1..=4).map(|ordinal| lab.want(ordinal)).collect();
    let _both = (lab.process("one"), lab.process("two"));
    for name in &names {
        lab.ready(name).await;
    }
    assert_eq!(lab.claims(), names);
    for name in &names {
        lab.release(name);
    }
    for name in &names {
        lab.gone(name).await;
    }
    assert!(lab.claims().is_empty());
}

/// The launch guard cannot stop a process that sleeps between its look and its request; what it then makes belongs to
/// nobody, is told at once, and goes after a while.
#[tokio::test(start_paused = true)]
async fn a_machine_asked_for_by_a_process_that_slept_is_a_stray_and_goes() {
    let lab = Lab::without_process();
    let name = lab.want(1);
    let late = Matching::any().verb(Verb::Create).resource("nodeclaims").agent("late");
    let gate = lab.server.pause(late, When::Before);
    let _late = lab.process("late");
    gate.reached().await;

    // Meanwhile another leader finds it unwanted, and it is forgotten.
    let _leader = lab.process("leader");
    lab.release(&name);
    lab.gone(&name).await;
    lab.forget(&name);
    gate.release();
    eventually(|| async {
        ensure!(lab.double.claim(&name).is_some(), "not made");
        ensure!(lab.told("StrayMachine") > 0, "nobody is told");
        Ok(())
    })
    .await
    .unwrap();
    pass(Duration::from_mins(14)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&name));
    pass(Duration::from_mins(2)).await;
    assert!(lab.claims().is_empty() && lab.vm(&name).is_none());
    assert!(lab.told("StrayMachineDestroyed") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_stray_with_a_live_pod_of_ours_stays_until_the_pod_is_done() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod(&name);
    lab.forget(&name);
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&name));
    lab.server.edit(NAMESPACE, "mnist-worker-0", |pod: &mut Pod| {
        pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
    });
    pass(Duration::from_secs(10)).await;
    assert!(lab.claims().is_empty());
}

/// A claim deleted before its machine joined ends at once; the cloud may finish making the machine all the same.
#[tokio::test(start_paused = true)]
async fn a_node_that_came_up_after_its_claim_was_deleted_is_found_and_destroyed() {
    let lab = Lab::new();
    lab.double.script(|script| script.never_join = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::Launched).await;
    let claim = lab.double.claim(&name).unwrap();
    lab.release(&name);
    lab.gone(&name).await;
    lab.forget(&name);
    pass(Duration::from_secs(30)).await;

    lab.double.boot(&claim, false);
    eventually(|| async {
        ensure!(lab.told("StrayMachine") == 1, "nobody is told");
        Ok(())
    })
    .await
    .unwrap();
    pass(Duration::from_mins(14)).await;
    assert!(lab.vm(&name).is_some());
    pass(Duration::from_mins(2)).await;
    assert!(lab.vm(&name).is_none(), "the leaked Node is there for ever");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_outlives_its_claim_goes_with_its_cluster_node() {
    let lab = Lab::new();
    lab.double.script(|script| script.never_join = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::Launched).await;
    let claim = lab.double.claim(&name).unwrap();
    lab.server.remove::<NodeClaim>("", &name);
    lab.double.boot(&claim, false);
    lab.until(&name, NodeState::Failed, NodeReason::StockOut).await;
    lab.release(&name);
    lab.gone(&name).await;
    assert!(lab.vm(&name).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_machine_with_a_live_pod_of_ours_is_not_destroyed() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod(&name);
    lab.release(&name);
    pass(Duration::from_hours(1)).await;
    let claim = lab.double.claim(&name).unwrap();
    assert_eq!(claim.metadata.deletion_timestamp, None);
    let status = lab.status(&name);
    assert!(status.message.as_ref().unwrap().contains("lab/mnist-worker-0"), "{status:?}");
    lab.server.remove::<Pod>(NAMESPACE, "mnist-worker-0");
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_in_another_namespace_holds_no_machine_whatever_its_labels() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod_in("elsewhere", &name);
    lab.release(&name);
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_is_destroyed_whatever_is_on_it_and_without_a_drain() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod(&name);
    lab.double.script(|script| _ = script.hang.insert(name.clone()));
    lab.kubelet(&name, "Unknown");
    pass(Duration::from_secs(59)).await;
    assert_eq!(lab.status(&name).state, Some(NodeState::Idle));
    pass(Duration::from_secs(2)).await;
    lab.until(&name, NodeState::Unusable, NodeReason::Lost).await;
    lab.release(&name);
    lab.gone(&name).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Lost), "the cause is kept for the back-off");
}

#[tokio::test(start_paused = true)]
async fn the_drain_of_an_idle_machine_is_cut_short_when_it_hangs() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.double.script(|script| _ = script.hang.insert(name.clone()));
    lab.release(&name);
    pass(Duration::from_mins(4)).await;
    let claim = lab.double.claim(&name).unwrap();
    assert!(
        claim.metadata.deletion_timestamp.is_some() && !claim.annotations().contains_key(TERMINATION_TIME)
    );
    pass(Duration::from_mins(2)).await;
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_stock_out_is_told_with_the_engines_words_and_not_tried_again() {
    let lab = Lab::new();
    let sold_out = (GivenUp::StockOut, "no capacity for Standard_NC6s_v3 in zone-a".to_owned());
    lab.double.script(|script| _ = script.refuse.insert(CLUSTER.into(), sold_out));
    let name = lab.want(1);
    let status = lab.until(&name, NodeState::Failed, NodeReason::StockOut).await;
    assert!(status.message.as_ref().unwrap().contains("in zone-a"), "{status:?}");
    assert!(status.gone_time.is_some());
    pass(Duration::from_mins(30)).await;
    assert_eq!(lab.creations(), 1);
    assert_eq!(lab.told("MachineFailed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_vanishes_without_a_word_is_a_stock_out_after_a_moment() {
    let lab = Lab::new();
    lab.double.script(|script| {
        script.silent = true;
        script.refuse.insert(CLUSTER.into(), (GivenUp::StockOut, String::new()));
    });
    let name = lab.want(1);
    lab.until(&name, NodeState::Failed, NodeReason::StockOut).await;
    assert_eq!(lab.creations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_class_is_said_and_nothing_is_asked_for_until_it_is_there() {
    let lab = Lab::without_process();
    lab.double.remove_class();
    let name = lab.want(1);
    let _process = lab.process("one");
    let status = lab.until(&name, NodeState::Preparing, NodeReason::EngineUnavailable).await;
    assert!(status.message.unwrap().contains("does not exist"));
    pass(Duration::from_mins(10)).await;
    assert_eq!(lab.creations(), 0);
    lab.double.put_class();
    lab.ready(&name).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_go_though_their_engine_is_not_installed_any_more() {
    let mut lab = Lab::new();
    let (one, two) = (lab.want(1), lab.want(2));
    lab.ready(&one).await;
    lab.ready(&two).await;
    lab.process = None;
    lab.double.uninstall();
    for name in [&one, &two] {
        lab.server.remove::<Node>("", &format!("vm-{name}"));
    }
    lab.release(&one);
    lab.crash();
    lab.gone(&one).await;
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.status(&two).reason, Some(NodeReason::Ready), "it is wanted, and nobody can tell");
    lab.release(&two);
    lab.gone(&two).await;
}

#[tokio::test(start_paused = true)]
async fn the_node_of_a_machine_goes_though_its_engine_is_not_installed_any_more() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    // Without a word: the watch is cut, and cannot be resumed.
    lab.server.cut_watches();
    lab.double.uninstall();
    lab.release(&name);
    lab.gone(&name).await;
    let left = lab.vm(&name).expect("Karpenter's finalizer holds it");
    assert!(left.metadata.deletion_timestamp.is_some(), "nobody will use it again");
}

#[tokio::test(start_paused = true)]
async fn nodes_of_an_engine_that_is_installed_again_are_told_of_again() {
    let mut lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.process = None;
    let claim = lab.double.claim(&name).unwrap();
    lab.double.uninstall();
    lab.crash();
    let new = lab.want(2);
    lab.until(&new, NodeState::Preparing, NodeReason::EngineUnavailable).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Ready));
    lab.double.install();
    lab.server.put(&claim);
    lab.ready(&new).await;
    lab.release(&name);
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn claims_that_cannot_be_listed_yet_are_not_taken_for_gone() {
    let mut lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.process = None;
    lab.server.fail(Matching::any().verb(Verb::List).resource("nodeclaims"), Fault::InternalError);
    lab.release(&name);
    lab.crash();
    pass(Duration::from_mins(10)).await;
    assert_eq!(lab.status(&name).gone_time, None);
    assert!(lab.double.claim(&name).is_some());
    lab.server.heal();
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_strangers_claim_of_our_name_is_left_alone() {
    let lab = Lab::without_process();
    let stranger: NodeClaim = serde_json::from_value(json!({
        "metadata": {"name": "gpu-abcdef-1", "labels": {node_labels::CLUSTER_NODE_UID: "somebody"}},
        "spec": {"requirements": []},
    }))
    .unwrap();
    let uid = lab.server.put(&stranger).uid();
    let name = lab.want(1);
    let _process = lab.process("one");
    lab.until(&name, NodeState::Failed, NodeReason::NameTaken).await;
    lab.release(&name);
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.double.claim(&name).unwrap().uid(), uid);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_answers_is_given_up_and_its_claim_destroyed() {
    let lab = Lab::new();
    lab.double.script(|script| script.idle = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::Requested).await;
    pass(Duration::from_mins(11)).await;
    lab.until(&name, NodeState::Failed, NodeReason::LaunchTimeout).await;
    lab.release(&name);
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_its_accelerators_waits_and_then_serves_with_one_machine() {
    let lab = Lab::new();
    lab.double.script(|script| script.no_accelerators = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::WaitingForAccelerators).await;
    pass(Duration::from_mins(6)).await;
    lab.server.edit("", &format!("vm-{name}"), |node: &mut Node| {
        let allocatable = node.status.as_mut().unwrap().allocatable.as_mut().unwrap();
        allocatable.insert("nvidia.com/gpu".into(), serde_json::from_value(json!("1")).unwrap());
    });
    lab.ready(&name).await;
    assert_eq!(lab.creations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_from_the_own_last_write_while_the_watch_lags() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    let watch = Matching::any().verb(Verb::Watch).resource("clusternodes").agent("one");
    let _silent = lab.server.pause(watch, When::Before);
    lab.server.cut_watches();
    pass(Duration::from_secs(5)).await;
    lab.server.forget_requests();
    for ready in ["Unknown", "True"] {
        lab.kubelet(&name, ready);
        pass(Duration::from_secs(2)).await;
    }
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Ready));
    let writes = Matching::writes().resource("clusternodes/status");
    assert_eq!(lab.server.count(&writes), 2, "none of them is refused");
}

#[tokio::test(start_paused = true)]
async fn a_refused_status_is_written_soon_however_often_it_was_refused() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    let writes = Matching::writes().resource("clusternodes/status");
    lab.server.fail_times(5, writes.clone(), Fault::Conflict);
    lab.server.forget_requests();
    lab.kubelet(&name, "Unknown");
    pass(Duration::from_millis(5 * 200 + 50)).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::NodeNotReady));
    assert_eq!(lab.server.count(&writes), 6);
}

#[tokio::test(start_paused = true)]
async fn first_ready_time_outlives_a_restart() {
    let mut lab = Lab::new();
    let name = lab.want(1);
    let first = lab.ready(&name).await.first_ready_time;
    pass(Duration::from_mins(3)).await;
    lab.crash();
    pass(Duration::from_mins(3)).await;
    assert_eq!(lab.status(&name).first_ready_time, first);
}

/// Two nodes come, one of them is released and goes; a third one comes. Goes on where an earlier call was left.
async fn story(lab: &Lab) -> Result<()> {
    let (one, two) = (lab.want_once(1), lab.want_once(2));
    if lab.server.get::<ClusterNode>(NAMESPACE, &one).unwrap().spec.released.is_none() {
        lab.ready(&one).await;
        lab.ready(&two).await;
        lab.release(&one);
    }
    let three = lab.want_once(3);
    lab.gone(&one).await;
    lab.ready(&three).await;
    ensure!(lab.claims() == [two.clone(), three], "{:?}", lab.claims());
    ensure!(lab.creations() >= 3, "{} machines were asked for", lab.creations());
    ensure!(lab.vm(&one).is_none() && lab.vm(&two).is_some(), "Nodes");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_changes_nothing_about_the_end() {
    let lab = Lab::new();
    story(&lab).await.unwrap();
    let writes = lab.server.count(&Matching::writes());
    assert!(writes > 8, "the story has only {writes} writes");
    drop(lab);
    for when in [When::Before, When::After] {
        for n in 1..=writes {
            let mut lab = Lab::without_process();
            let crash = Arc::new(CrashPoint::at_write(n, when));
            lab.process = Some(lab.process_until("one", Some(Arc::clone(&crash))));
            tokio::select! {
                () = crash.reached() => lab.crash(),
                _ = story(&lab) => {}
            }
            story(&lab).await.with_context(|| format!("crash at write {n}, {when:?}")).unwrap();
        }
    }
}
