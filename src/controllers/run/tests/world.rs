//! Everybody but the run controller: users, the cluster controller, the scheduler and the kubelets.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard_api::cluster_node::{Claim, RetireReason, Retired};
use trainyard_api::names::{Finalizer, labels};
use trainyard_api::run_status::{
    AllocatedNode, Allocation, Attempt, AttemptCause, Directive, DirectiveKind, DirectiveReason, RunPhase,
    RunReason, RunStatus,
};
use trainyard_api::{Cluster, ClusterNode, Run, Time, VmSize};
use trainyard_fake_apiserver::{FakeServer, Matching};
use trainyard_model::run::is_accepted;

use crate::clock::{Clock as _, TokioClock};
use crate::controllers::run;
use crate::kubernetes::client::{self, Limits};
use crate::kubernetes::events::Events;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

pub const NAMESPACE: &str = "ml";

/// The world, with one Cluster `nc6` of machines with two accelerators.
pub struct World {
    pub server: FakeServer,
    pub clock: TokioClock,
}

/// A running operator process. Dropped, it is as if killed.
pub struct Process {
    _tasks: Tasks,
}

impl World {
    /// A world on this server, with so many ready nodes.
    pub fn over(server: FakeServer, nodes: usize) -> Self {
        let world = Self::on(server);
        for index in 0..nodes {
            world.put_node(index);
        }
        world
    }

    fn on(server: FakeServer) -> Self {
        let world = Self { server, clock: TokioClock::default() };
        world.put::<VmSize>(&json!({
            "metadata": {"name": "standard-nc6s-v3"},
            "spec": {"sizeName": "Standard_NC6s_v3", "family": "NCv3", "vcpus": 8, "memory": "16Gi",
                     "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 2, "product": "V100"}]},
        }));
        world.put_cluster();
        world
    }

    pub fn put_cluster(&self) {
        self.put::<Cluster>(&json!({
            "metadata": {"name": "nc6", "namespace": NAMESPACE},
            "spec": {"vmSize": "Standard_NC6s_v3", "scale": {"maxNodes": 4}},
        }));
    }

    /// A world with so many ready nodes, `n0`, `n1`, ...
    pub fn with_nodes(count: usize) -> Self {
        Self::over(FakeServer::new().collecting_garbage().stopping_pods_gracefully(), count)
    }

    pub fn put_node(&self, index: usize) {
        let cluster: Cluster = self.server.get(NAMESPACE, "nc6").expect("the Cluster is there");
        self.put::<ClusterNode>(&json!({
            "metadata": {"name": format!("n{index}"), "namespace": NAMESPACE},
            "spec": {
                "cluster": {"name": "nc6", "uid": cluster.uid()}, "ordinal": index + 1,
                "vmSize": {"sizeName": "Standard_NC6s_v3", "vcpus": 8, "memory": "16Gi",
                           "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 2, "product": "V100"}]},
                "engine": {},
                "taint": {"key": "trainyard.dev/cluster", "value": "nc6", "effect": "NoSchedule"},
            },
            "status": {"state": "Idle", "nodeName": format!("vm{index}"), "nodeUID": format!("vm{index}-uid"),
                       "allocatable": {"cpuMillis": 7600, "memoryBytes": 16_000_000_000_i64, "accelerators": {"nvidia.com/gpu": 2}}},
        }));
    }

    fn put<K>(&self, object: &Value) -> K
    where
        K: kube::Resource<DynamicType = ()> + serde::Serialize + serde::de::DeserializeOwned,
    {
        let mut object = object.clone();
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        self.server.put(&serde_json::from_value::<K>(object).expect("a wire object"))
    }

    /// A user creates a Run.
    pub fn submit(&self, name: &str, spec: &Value) {
        let mut whole =
            json!({"clusterRef": {"name": "nc6"}, "container": {"image": "registry.example/mnist:1"}});
        if let (Some(whole), Some(spec)) = (whole.as_object_mut(), spec.as_object()) {
            whole.extend(spec.clone());
        }
        self.put::<Run>(&json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": whole}));
    }

    /// Starts an operator process.
    pub fn start(&self, agent: &str) -> Process {
        let mut tasks = Tasks::new(CancellationToken::new());
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        let client = client::over(self.server.service(agent), "default", Limits::default(), metrics.clone());
        let clock = Arc::new(self.clock);
        let events = Events::start(client.clone(), agent, clock.clone(), metrics.clone(), &mut tasks);
        let concurrency = 8;
        run::start(run::Setup { client, clock, metrics, readiness, events, concurrency, tasks: &mut tasks });
        Process { _tasks: tasks }
    }

    /// Lets everything that is due happen.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.settle().await;
    }

    pub fn run(&self, name: &str) -> Run {
        self.server.get(NAMESPACE, name).unwrap_or_else(|| panic!("no Run {name}"))
    }

    pub fn has_run(&self, name: &str) -> bool {
        self.server.get::<Run>(NAMESPACE, name).is_some()
    }

    pub fn status(&self, name: &str) -> RunStatus {
        self.run(name).status.unwrap_or_default()
    }

    pub fn phase(&self, name: &str) -> RunPhase {
        self.status(name).phase.unwrap_or_default()
    }

    pub fn reason(&self, name: &str) -> Option<RunReason> {
        self.status(name).reason
    }

    pub fn last_attempt(&self, name: &str) -> Attempt {
        self.status(name).attempts.last().cloned().unwrap_or_default()
    }

    pub fn cause(&self, name: &str) -> Option<AttemptCause> {
        self.last_attempt(name).cause
    }

    pub fn pods(&self) -> Vec<Pod> {
        self.server.list()
    }

    pub fn pod_names(&self) -> Vec<String> {
        self.pods().iter().map(ResourceExt::name_any).collect()
    }

    pub fn services(&self) -> Vec<Service> {
        self.server.list()
    }

    pub fn edit_run(&self, name: &str, change: impl FnOnce(&mut Run)) {
        self.server.edit(NAMESPACE, name, change);
    }

    pub fn edit_node(&self, name: &str, change: impl FnOnce(&mut ClusterNode)) {
        self.server.edit(NAMESPACE, name, change);
    }

    pub fn edit_pod(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.server.edit::<Pod>(NAMESPACE, name, |pod| {
            let mut value = serde_json::to_value(&*pod).expect("a pod is JSON");
            change(&mut value);
            *pod = serde_json::from_value(value).expect("still a pod");
        });
    }

    // The cluster controller.

    /// Claims nodes for the next attempt of a Run and allocates them.
    pub fn allocate(&self, run: &str, nodes: &[&str]) {
        let attempt = self.status(run).allocation.map_or(1, |allocation| allocation.attempt + 1);
        for node in nodes {
            self.claim(run, attempt, node);
        }
        self.commit(run, attempt, nodes);
    }

    pub fn claim(&self, run: &str, attempt: i32, node: &str) {
        let uid = self.run(run).uid().expect("a stored object has a UID");
        self.edit_node(node, |node| {
            let share =
                node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
            node.spec.claims.push(Claim {
                run_namespace: NAMESPACE.into(),
                run_name: run.into(),
                run_uid: uid,
                attempt,
                share,
            });
        });
    }

    pub fn commit(&self, run: &str, attempt: i32, nodes: &[&str]) {
        let nodes = nodes
            .iter()
            .map(|name| {
                let node: ClusterNode = self.server.get(NAMESPACE, name).expect("the node is there");
                let status = node.status.unwrap_or_default();
                AllocatedNode {
                    name: (*name).to_owned(),
                    node_name: status.node_name.unwrap_or_default(),
                    node_uid: status.node_uid.unwrap_or_default(),
                }
            })
            .collect();
        self.edit_run(run, |run| {
            run.status.get_or_insert_default().allocation =
                Some(Allocation { attempt, nodes, directive: None });
        });
    }

    pub fn direct(&self, run: &str, kind: DirectiveKind, reason: DirectiveReason) {
        self.edit_run(run, |run| {
            if let Some(allocation) = run.status.as_mut().and_then(|status| status.allocation.as_mut()) {
                allocation.directive = Some(Directive { kind, reason, message: String::new() });
            }
        });
    }

    /// Drops claims that are free, and allocates to accepted Runs that wait, as far as nodes are free.
    pub fn cluster_turn(&self) {
        let runs: Vec<Run> = self.server.list();
        for node in self.server.list::<ClusterNode>() {
            let keep = |claim: &Claim| {
                let run = runs.iter().find(|run| run.uid().as_ref() == Some(&claim.run_uid));
                run.is_some_and(|run| {
                    let status = run.status.clone().unwrap_or_default();
                    let attempt = status.attempts.iter().find(|attempt| attempt.number == claim.attempt);
                    !attempt.is_some_and(|attempt| attempt.pods_gone)
                })
            };
            if !node.spec.claims.iter().all(keep) {
                self.edit_node(&node.name_any(), |node| node.spec.claims.retain(keep));
            }
        }
        for run in runs {
            let status = run.status.clone().unwrap_or_default();
            let answered = status.attempts.last().map_or(0, |attempt| attempt.number);
            let allocated = status.allocation.as_ref().map_or(0, |allocation| allocation.attempt);
            let waits = is_accepted(&status)
                && status.phase == Some(RunPhase::Queued)
                && !run.spec.suspend
                && !run.spec.cancel
                && run.metadata.deletion_timestamp.is_none()
                && answered >= allocated
                && status.attempts.iter().all(|attempt| attempt.pods_gone);
            let free: Vec<String> = self
                .server
                .list::<ClusterNode>()
                .into_iter()
                .filter(|node| node.spec.claims.is_empty() && node.spec.retired.is_none())
                .map(|node| node.name_any())
                .take(run.spec.node_count as usize)
                .collect();
            if waits && free.len() == run.spec.node_count as usize {
                let free: Vec<&str> = free.iter().map(String::as_str).collect();
                self.allocate(&run.name_any(), &free);
            }
        }
    }

    /// A node is lost: its pods stay as they are, and its ClusterNode is retired.
    pub fn lose_node(&self, name: &str) {
        let now = self.clock.now();
        self.edit_node(name, |node| {
            node.spec.retired =
                Some(Retired { time: Time(now), reason: RetireReason::Lost, message: String::new() });
        });
    }

    // The scheduler and the kubelets.

    /// Binds pods without a gate to the node they require, starts them, and ends those that are being deleted.
    pub fn kubelet_turn(&self) {
        for pod in self.pods() {
            let name = pod.name_any();
            let value = serde_json::to_value(&pod).expect("a pod is JSON");
            let gated = value["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
            let terms =
                &value["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
            let node =
                terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0].as_str().unwrap_or_default();
            let phase = value["status"]["phase"].as_str().unwrap_or_default().to_owned();
            let is_bound = value["spec"]["nodeName"].is_string();
            if self.is_silent(node) {
                continue;
            }
            if pod.metadata.deletion_timestamp.is_some() {
                if is_bound && phase == "Running" {
                    self.exit(&name, 143);
                }
                self.server.delete::<Pod>(NAMESPACE, &name);
            } else if !gated && !is_bound {
                let node = node.to_owned();
                let since = self.clock.now().to_string();
                self.edit_pod(&name, |pod| {
                    pod["spec"]["nodeName"] = json!(node);
                    pod["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "main", "image": "i",
                        "imageID": "i", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": since}}}]});
                });
            }
        }
    }

    fn is_silent(&self, node_name: &str) -> bool {
        self.server.list::<ClusterNode>().iter().any(|node| {
            node.spec.retired.as_ref().is_some_and(|retired| retired.reason == RetireReason::Lost)
                && node.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(node_name)
        })
    }

    /// Whether a pod is on a node that is lost: nobody there will ever end it.
    pub fn is_stuck(&self, pod: &str) -> bool {
        let pod = self.pods().into_iter().find(|one| one.name_any() == pod);
        let node = pod.and_then(|pod| pod.spec?.node_name);
        node.is_some_and(|node| self.is_silent(&node))
    }

    /// A pod's main container exits.
    pub fn exit(&self, pod: &str, code: i32) {
        let now = self.clock.now().to_string();
        self.edit_pod(pod, |pod| {
            pod["status"] = json!({
                "phase": if code == 0 { "Succeeded" } else { "Failed" },
                "containerStatuses": [{"name": "main", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
                                             "startedAt": now, "finishedAt": now}}}]});
        });
    }

    /// Lets everybody take turns until nothing changes any more.
    pub async fn play(&self) {
        for _ in 0..40 {
            self.settle().await;
            let before = self.version();
            self.cluster_turn();
            self.kubelet_turn();
            self.settle().await;
            if self.version() == before {
                return;
            }
        }
        panic!(
            "no rest; Runs: {:#?}",
            self.server.list::<Run>().iter().map(|run| run.status.clone()).collect::<Vec<_>>()
        );
    }

    fn version(&self) -> u64 {
        let version = |object: &Value| {
            object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok())
        };
        let objects = self.server.objects();
        objects.iter().filter_map(version).max().unwrap_or(0) + objects.len() as u64
    }

    /// Submits a Run and plays until it runs.
    pub async fn running(&self, name: &str, spec: &Value) {
        self.submit(name, spec);
        self.play().await;
        assert_eq!(self.phase(name), RunPhase::Running, "{:#?}", self.status(name));
    }

    /// Writes by operator processes, Events not counted.
    pub fn writes(&self, agent: &str) -> Vec<String> {
        let all = self.server.requests();
        all.iter()
            .filter(|one| one.agent == agent && one.verb.is_write() && one.resource != "events")
            .map(|one| format!("{:?} {}", one.verb, one.resource))
            .collect()
    }

    pub fn count(&self, on: &Matching) -> usize {
        self.server.count(on)
    }

    pub fn assert_nothing_claimed(&self) {
        for node in self.server.list::<ClusterNode>() {
            assert!(node.spec.claims.is_empty(), "{} is claimed", node.name_any());
        }
    }

    /// What must hold of every world that has come to rest with this Run finished.
    pub fn assert_nothing_held(&self, run: &str) {
        for pod in
            self.pods().iter().filter(|pod| pod.labels().get(labels::RUN).is_some_and(|name| name == run))
        {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            assert!(phase == "Succeeded" || phase == "Failed", "{} is {phase}", pod.name_any());
            assert!(
                !pod.finalizers().iter().any(|one| one == Finalizer::RunPod.as_str()),
                "{} is held",
                pod.name_any()
            );
        }
        for node in self.server.list::<ClusterNode>() {
            assert!(
                node.spec.claims.iter().all(|claim| claim.run_name != run),
                "{} is claimed",
                node.name_any()
            );
        }
    }
}

/// One parameter server and three workers on one node.
pub fn benchmark_run() -> Value {
    json!({"distribution": {"tensorflow": {"worker": {"count": 2}, "parameterServer": {}, "chief": {"count": 0}}}})
}
