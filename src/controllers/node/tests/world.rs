//! One Cluster on an API server in memory, with Karpenter's double and as many processes as a test needs.

use std::{sync::Mutex, time::Duration};

use anyhow::ensure;
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    events::v1::Event,
};
use serde_json::{Value, json};
use trainyard_api::{
    Cluster, Time,
    cluster_node::{ClusterNodeStatus, NodeReason, NodeState},
    names::labels,
};
use trainyard_fake_apiserver::{FakeServer, Matching, Verb};

use super::super::*;
use crate::{
    clock::{Clock as _, TokioClock},
    provisioner::{
        EngineKind, Engines, Pool, Provisioner, Recount,
        conformance::eventually,
        karpenter::{
            Karpenter,
            double::{self, CrashPoint, Double},
            wire::NodeClaim,
        },
        static_nodes::Static,
    },
};

pub(super) const NAMESPACE: &str = "lab";
pub(super) const CLUSTER: &str = "11111111-cluster";

/// One process: watches and controller. Dropping it is a crash.
pub(super) struct Process {
    engines: Engines,
    _tasks: Tasks,
}

/// A Cluster `lab/gpu` on a fake API server with Karpenter's double.
pub(super) struct Lab {
    pub(super) server: FakeServer,
    pub(super) double: Double,
    pub(super) clock: TokioClock,
    pub(super) process: Option<Process>,
    recounted: Arc<Mutex<Vec<String>>>,
    _tasks: Tasks,
}

impl Lab {
    /// With one process running, and `maxNodes: 4`.
    pub(super) fn new() -> Self {
        let mut lab = Self::without_process();
        lab.process = Some(lab.process("one"));
        lab
    }

    pub(super) fn without_process() -> Self {
        let server = FakeServer::new();
        let mut tasks = Tasks::new(CancellationToken::new());
        let double = Double::start(&server, &mut tasks);
        let (clock, recounted) = (TokioClock::default(), Arc::default());
        let lab = Self { server, double, clock, process: None, recounted, _tasks: tasks };
        lab.cluster(4);
        lab
    }

    pub(super) fn process(&self, agent: &str) -> Process {
        self.process_until(agent, None)
    }

    pub(super) fn process_until(&self, agent: &str, crash: Option<Arc<CrashPoint>>) -> Process {
        let mut tasks = Tasks::new(CancellationToken::new());
        let client = double::client_until(&self.server, agent, crash);
        let clock: SharedClock = Arc::new(self.clock);
        let metrics = Metrics::new();
        let events = Events::start(client.clone(), agent, Arc::clone(&clock), metrics.clone(), &mut tasks);
        let karpenter: Arc<dyn Provisioner> = Arc::new(Karpenter::new(client.clone(), Arc::clone(&clock)));
        let found: Arc<dyn Provisioner> = Arc::new(Static::new(client.clone(), Arc::clone(&clock)));
        let engines = Engines::new([(EngineKind::Karpenter, karpenter), (EngineKind::Static, found)]);
        let told = Arc::clone(&self.recounted);
        engines.on_recount(
            &(Arc::new(move |pool: &Pool| told.lock().unwrap().push(pool.name.clone())) as Recount),
        );
        let controller = NodeController::start(Setup {
            client,
            clock,
            engines: engines.clone(),
            events,
            tasks: &mut tasks,
            readiness: &Readiness::default(),
            metrics: &metrics,
            concurrency: 8,
        });
        let token = tasks.token();
        tasks.spawn("node controller", controller.run(token));
        Process { engines, _tasks: tasks }
    }

    /// The process dies between two instructions, and another one starts.
    pub(super) fn crash(&mut self) {
        self.process = None;
        self.process = Some(self.process("another"));
    }

    /// An engine of the process that runs.
    pub(super) fn engine(&self, kind: EngineKind) -> Arc<dyn Provisioner> {
        Arc::clone(self.process.as_ref().unwrap().engines.get(kind).unwrap())
    }

    /// The Clusters that were told of another count, since this was last asked.
    pub(super) fn recounted(&self) -> Vec<String> {
        std::mem::take(&mut *self.recounted.lock().unwrap())
    }

    pub(super) fn cluster(&self, max: i32) {
        let cluster: Cluster = serde_json::from_value(json!({
            "metadata": {"name": "gpu", "namespace": NAMESPACE, "uid": CLUSTER},
            "spec": {"vmSize": "Standard_NC6s_v3", "scale": {"maxNodes": max}},
        }))
        .unwrap();
        self.server.put(&cluster);
    }

    /// The cluster controller wants a node with this ordinal. Returns its name.
    pub(super) fn want(&self, ordinal: i64) -> String {
        let engine = json!({"karpenter": {
            "nodeClassRef": double::class(),
            "instanceType": "Standard_NC6s_v3",
            "capacityType": "on-demand",
            "requests": {"cpu": "5", "memory": "90Gi", "pods": "20", "nvidia.com/gpu": "1"},
        }});
        self.want_of(&engine, ordinal)
    }

    /// The same, from the engine with this block.
    pub(super) fn want_of(&self, engine: &Value, ordinal: i64) -> String {
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
                "engine": engine,
                "taint": {"key": "trainyard.dev/cluster", "value": "gpu", "effect": "NoSchedule"},
            },
        }))
        .unwrap();
        self.server.put(&node);
        name
    }

    pub(super) fn want_once(&self, ordinal: i64) -> String {
        let name = format!("gpu-abcdef-{ordinal}");
        if self.server.get::<ClusterNode>(NAMESPACE, &name).is_none() {
            self.want(ordinal);
        }
        name
    }

    pub(super) fn release(&self, name: &str) {
        let now = Time(self.clock.now());
        self.server.edit(NAMESPACE, name, |node: &mut ClusterNode| node.spec.released = Some(now));
    }

    /// The cluster controller forgets it.
    pub(super) fn forget(&self, name: &str) {
        assert!(self.server.remove::<ClusterNode>(NAMESPACE, name));
    }

    pub(super) fn status(&self, name: &str) -> ClusterNodeStatus {
        self.server.get::<ClusterNode>(NAMESPACE, name).and_then(|node| node.status).unwrap_or_default()
    }

    pub(super) async fn until(&self, name: &str, state: NodeState, reason: NodeReason) -> ClusterNodeStatus {
        eventually(|| async {
            let status = self.status(name);
            ensure!((status.state, status.reason) == (Some(state), Some(reason)), "{name} is {status:?}");
            Ok(status)
        })
        .await
        .unwrap()
    }

    pub(super) async fn ready(&self, name: &str) -> ClusterNodeStatus {
        self.until(name, NodeState::Idle, NodeReason::Ready).await
    }

    pub(super) async fn gone(&self, name: &str) {
        eventually(|| async {
            ensure!(self.status(name).gone_time.is_some(), "not gone: {:?}", self.status(name));
            Ok(())
        })
        .await
        .unwrap();
        assert!(self.double.claim(name).is_none(), "its claim is there");
    }

    pub(super) fn claims(&self) -> Vec<String> {
        self.server.list::<NodeClaim>().iter().map(kube::ResourceExt::name_any).collect()
    }

    pub(super) fn creations(&self) -> usize {
        self.server.count(&Matching::any().verb(Verb::Create).resource("nodeclaims"))
    }

    /// A pod of a run, bound to this node's machine.
    pub(super) fn pod(&self, node: &str) {
        self.pod_in(NAMESPACE, node);
    }

    pub(super) fn pod_in(&self, namespace: &str, node: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "mnist-worker-0", "namespace": namespace, "labels": {labels::RUN_UID: "run"}},
            "spec": {"containers": [], "nodeName": format!("vm-{node}")},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        self.server.put(&pod);
    }

    pub(super) fn vm(&self, node: &str) -> Option<Node> {
        self.server.get("", &format!("vm-{node}"))
    }

    pub(super) fn kubelet(&self, node: &str, ready: &str) {
        self.server.edit("", &format!("vm-{node}"), |node: &mut Node| {
            let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions[0].status = ready.into();
            conditions[0].message = Some("Kubelet stopped posting node status.".into());
        });
    }

    pub(super) fn told(&self, reason: &str) -> usize {
        self.server.list::<Event>().iter().filter(|event| event.reason.as_deref() == Some(reason)).count()
    }
}

/// Lets that much time pass, with every task getting its turn.
pub(super) async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}
