//! Everybody but the cluster controller: users, machines, and the run controller.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard_api::cluster_node::{Engine, NodeReason, NodeState};
use trainyard_api::conditions::{self, ClusterNodeCondition, Condition, ConditionStatus, RunCondition};
use trainyard_api::run::Priority;
use trainyard_api::run_status::{Attempt, AttemptCause, DirectiveReason, RunPhase, RunStatus};
use trainyard_api::{Cluster, ClusterNode, ProvisioningClass, Run, Time, VmSize};
use trainyard_fake_apiserver::FakeServer;

use super::oracle;
use crate::clock::{Clock as _, TokioClock};
use crate::controllers::cluster;
use crate::kubernetes::client::{self, Limits};
use crate::kubernetes::events::Events;
use crate::provisioner::{
    Capabilities, EngineKind, Engines, Error, Launch, Observed, Origin, Pool, Provisioner, Release, Released,
    Removal, Starting, Validity, Wanted,
};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

pub const NAMESPACE: &str = "ml";
pub const CLUSTER: &str = "nc6";

/// The world, with one Cluster `nc6`.
pub struct World {
    pub server: FakeServer,
    /// Where Events are written: a server of their own, so that a story's writes are those that matter.
    pub told: FakeServer,
    pub clock: TokioClock,
    /// How many turns an attempt takes.
    pub work: i64,
    max_nodes: i32,
}

/// A running operator process. Dropped, it is as if killed.
pub struct Process {
    _tasks: Tasks,
}

impl World {
    /// With a Cluster of at most 4 machines.
    pub fn new() -> Self {
        Self::with_max_nodes(4)
    }

    pub fn with_max_nodes(max_nodes: i32) -> Self {
        let server = FakeServer::new().collecting_garbage();
        let told = FakeServer::new();
        let world = Self { server, told, clock: TokioClock::default(), work: 2, max_nodes };
        world.put::<VmSize>(&json!({
            "metadata": {"name": "standard-nc6s-v3"},
            "spec": {"sizeName": "Standard_NC6s_v3", "family": "NCv3", "vcpus": 6, "memory": "112Gi",
                     "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 1, "product": "V100"}]},
        }));
        world.put::<ProvisioningClass>(&json!({
            "metadata": {"name": "cloud", "annotations": {"trainyard.dev/is-default-class": "true"}},
            "spec": {"karpenter": {"nodeClassRef": {"group": "karpenter.test.sh", "kind": "TestNodeClass", "name": "gpu"}},
                     "taint": {"key": "trainyard.dev/cluster", "effect": "NoSchedule"}},
        }));
        world.put_cluster();
        world
    }

    pub fn put_cluster(&self) {
        self.put::<Cluster>(&json!({
            "metadata": {"name": CLUSTER, "namespace": NAMESPACE},
            "spec": {"vmSize": "Standard_NC6s_v3", "scale": {"maxNodes": self.max_nodes, "idleSecondsBeforeScaleDown": 20}},
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
    pub fn submit(&self, name: &str, node_count: i32) {
        self.put::<Run>(&json!({
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"clusterRef": {"name": CLUSTER}, "nodeCount": node_count, "command": ["train"],
                     "container": {"image": "registry.example/mnist:1"}},
        }));
    }

    /// A user creates a Run that goes before all others.
    pub fn submit_urgent(&self, name: &str, node_count: i32) {
        self.submit(name, node_count);
        self.edit_run(name, |run| run.spec.priority = Priority::High);
    }

    /// Starts an operator process, of which only the cluster controller matters here.
    pub fn start(&self, agent: &str) -> Process {
        self.start_with(agent, Arc::new(UsableEngine))
    }

    /// The same, with this engine behind its class.
    pub fn start_with(&self, agent: &str, engine: Arc<dyn Provisioner>) -> Process {
        let mut tasks = Tasks::new(CancellationToken::new());
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        // A process that is paused does not count the time either.
        let limits = Limits { request_time: Duration::from_hours(24), ..Limits::default() };
        let client = client::over(self.server.service(agent), "default", limits, metrics.clone());
        let engines = Engines::new([(EngineKind::Karpenter, engine)]);
        let told_by = self.told.client(agent);
        let events = Events::start(told_by, agent, Arc::new(self.clock), metrics.clone(), &mut tasks);
        cluster::start(cluster::Setup {
            client,
            clock: Arc::new(self.clock),
            metrics,
            readiness,
            engines,
            events,
            concurrency: 4,
            tasks: &mut tasks,
        });
        Process { _tasks: tasks }
    }

    /// Lets everything that is due happen.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }

    /// One turn of everybody: some time for the controllers, then machines and runs.
    pub async fn turn(&self) {
        tokio::time::sleep(Duration::from_millis(600)).await;
        self.machines_turn();
        self.runs_turn();
        self.settle().await;
    }

    /// Turns until all Runs are over; the oracle looks at everything that was written.
    pub async fn until_done(&self) {
        for _ in 0..300 {
            self.turn().await;
            if self.is_over() {
                return;
            }
        }
        panic!("not all Runs come to an end: {}", self.shown());
    }

    /// Whether all Runs are over.
    pub fn is_over(&self) -> bool {
        self.runs().iter().all(|run| phase(run).is_terminal())
    }

    /// So many turns.
    pub async fn turns(&self, count: usize) {
        for _ in 0..count {
            self.turn().await;
        }
    }

    /// Turns, with the idle time passing, until no node is left, although this Run waits.
    pub async fn until_empty_but(&self, waits: &str) {
        for _ in 0..60 {
            self.turn().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            if self.nodes().is_empty() {
                assert_eq!(self.status(waits).phase, Some(RunPhase::Queued), "{}", self.shown());
                oracle::check(&self.server);
                return;
            }
        }
        panic!("nodes are left behind: {}", self.shown());
    }

    /// Turns, with the idle time passing, until no node is left.
    pub async fn until_empty(&self) {
        for _ in 0..120 {
            self.turn().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            if self.nodes().is_empty() {
                self.turn().await;
                oracle::check(&self.server);
                return;
            }
        }
        panic!("nodes are left behind: {}", self.shown());
    }

    pub fn runs(&self) -> Vec<Run> {
        self.server.list()
    }

    pub fn nodes(&self) -> Vec<ClusterNode> {
        self.server.list()
    }

    pub fn run(&self, name: &str) -> Run {
        self.server.get(NAMESPACE, name).unwrap_or_else(|| panic!("no Run {name}"))
    }

    pub fn status(&self, name: &str) -> RunStatus {
        self.run(name).status.unwrap_or_default()
    }

    pub fn cluster(&self) -> Cluster {
        self.server.get(NAMESPACE, CLUSTER).expect("the Cluster is there")
    }

    pub fn edit_run(&self, name: &str, change: impl FnOnce(&mut Run)) {
        self.server.edit(NAMESPACE, name, change);
    }

    pub fn edit_node(&self, name: &str, change: impl FnOnce(&mut ClusterNode)) {
        self.server.edit(NAMESPACE, name, change);
    }

    /// All that is there, for a failed assertion.
    pub fn shown(&self) -> String {
        let brief = |object: Value| json!({"name": object["metadata"]["name"], "spec": object["spec"], "status": object["status"]});
        let mut all = Vec::new();
        for object in self.server.objects() {
            if ["Run", "ClusterNode", "Cluster"].iter().any(|kind| object["kind"] == *kind) {
                all.push(brief(object));
            }
        }
        format!("{:#}", Value::Array(all))
    }

    /// Every Run ended well, and none took more attempts than `most`.
    pub fn assert_all_completed(&self, most: usize) {
        for run in self.runs() {
            let status = run.status.clone().unwrap_or_default();
            assert_eq!(status.phase, Some(RunPhase::Completed), "{}: {}", run.name_any(), self.shown());
            let started = status.attempts.iter().filter(|attempt| attempt.launched.is_some()).count();
            assert_eq!(started, 1, "{} was started {started} times", run.name_any());
            assert!(status.attempts.len() <= most, "{}: {:#?}", run.name_any(), status.attempts);
        }
    }

    // Machines, as the node controller tells of them.

    pub fn machines_turn(&self) {
        let now = self.clock.now();
        for node in self.nodes() {
            let name = node.name_any();
            let status = node.status.clone().unwrap_or_default();
            if status.gone_time.is_some() {
                continue;
            }
            if node.spec.released.is_some() {
                self.edit_node(&name, |node| {
                    let status = node.status.get_or_insert_default();
                    (status.state, status.reason) = (Some(NodeState::Leaving), Some(NodeReason::Gone));
                    status.gone_time = Some(Time(now));
                });
            } else if status.first_ready_time.is_none() {
                self.edit_node(&name, |node| {
                    let allocatable = serde_json::from_value(json!(
                        {"cpuMillis": 5600, "memoryBytes": 110_000_000_000_i64, "accelerators": {"nvidia.com/gpu": 1}}
                    ));
                    let status = node.status.get_or_insert_default();
                    (status.state, status.reason) = (Some(NodeState::Idle), Some(NodeReason::Ready));
                    status.node_name = Some(format!("vm-{name}"));
                    status.node_uid = Some(format!("uid-of-vm-{name}"));
                    status.allocatable = Some(allocatable.expect("a capacity"));
                    status.first_ready_time = Some(Time(now));
                    conditions::set(
                        &mut status.conditions,
                        Condition::new(ClusterNodeCondition::Ready, ConditionStatus::True, "Ready", "", now),
                    );
                });
            }
        }
    }

    /// A machine vanishes.
    pub fn lose_machine(&self, name: &str) {
        let now = self.clock.now();
        self.edit_node(name, |node| {
            let status = node.status.get_or_insert_default();
            (status.state, status.reason) = (Some(NodeState::Failed), Some(NodeReason::Lost));
            status.gone_time = Some(Time(now));
            conditions::set(
                &mut status.conditions,
                Condition::new(ClusterNodeCondition::Ready, ConditionStatus::False, "Lost", "", now),
            );
        });
    }

    // The run controller: answers, starts, ends and frees, one step a turn.

    pub fn runs_turn(&self) {
        for run in self.runs() {
            if phase(&run).is_terminal() {
                continue;
            }
            let (now, nodes, work) = (self.clock.now(), self.nodes(), self.work);
            let before = run.status.clone();
            let mut run_after = run.clone();
            step(&mut run_after, &nodes, now, work);
            if run_after.status != before {
                self.edit_run(&run.name_any(), |run| run.status = run_after.status);
            }
        }
    }
}

pub fn phase(run: &Run) -> RunPhase {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

fn step(run: &mut Run, nodes: &[ClusterNode], now: jiff::Timestamp, work: i64) {
    let uid = run.uid().unwrap_or_default();
    let (suspend, cancel) = (run.spec.suspend, run.spec.cancel);
    let deleting = run.metadata.deletion_timestamp.is_some();
    let status = run.status.get_or_insert_default();
    if conditions::find(&status.conditions, RunCondition::Accepted).is_none() {
        conditions::set(
            &mut status.conditions,
            Condition::new(RunCondition::Accepted, ConditionStatus::True, "DryRun", "", now),
        );
        status.phase = Some(RunPhase::Queued);
        return;
    }
    if cancel && status.cancel_requested_time.is_none() {
        status.cancel_requested_time = Some(Time(now));
    }
    let unwanted = suspend || cancel || deleting;
    let allocation = status.allocation.clone().unwrap_or_default();
    let directive = allocation.directive.as_ref();
    let answered = status.attempts.last().map_or(0, |attempt| attempt.number);
    if allocation.attempt > answered {
        let mut attempt = Attempt { number: allocation.attempt, ..Attempt::default() };
        attempt.node_count = allocation.nodes.len() as i32;
        if unwanted || directive.is_some() {
            end(&mut attempt, AttemptCause::NotStarted, now);
        } else {
            status.phase = Some(RunPhase::Preparing);
        }
        status.attempts.push(attempt);
        return;
    }
    let claimed = allocation.nodes.iter().all(|allocated| {
        let claims =
            nodes.iter().filter(|node| node.name_any() == allocated.name).flat_map(|node| &node.spec.claims);
        claims.into_iter().any(|claim| claim.run_uid == uid && claim.attempt == allocation.attempt)
    });
    match status.attempts.last_mut() {
        Some(attempt) if attempt.end_time.is_some() && !attempt.pods_gone => {
            attempt.pods_gone = true;
            status.phase = Some(match attempt.cause {
                Some(AttemptCause::Succeeded) => RunPhase::Completed,
                Some(AttemptCause::ClusterDeleted) => RunPhase::Failed,
                _ if cancel => RunPhase::Canceled,
                _ if suspend => RunPhase::Suspended,
                _ => RunPhase::Queued,
            });
        }
        Some(attempt) if attempt.end_time.is_none() => match (&attempt.launched, directive) {
            (_, Some(directive)) => {
                let cause = match directive.reason {
                    DirectiveReason::Withdrawn => AttemptCause::NotStarted,
                    DirectiveReason::ClusterDeleted => AttemptCause::ClusterDeleted,
                    _ => AttemptCause::Infrastructure,
                };
                end(attempt, cause, now);
            }
            (None, None) if unwanted => end(attempt, AttemptCause::NotStarted, now),
            (Some(_), None) if unwanted => end(attempt, AttemptCause::Suspended, now),
            (None, None) if claimed => {
                attempt.launched = Some(Time(now));
                status.phase = Some(RunPhase::Running);
            }
            (Some(launched), None) if now.duration_since(launched.0).as_millis() > i128::from(work) * 660 => {
                end(attempt, AttemptCause::Succeeded, now);
                status.phase = Some(RunPhase::Finalizing);
            }
            (None | Some(_), None) => {}
        },
        _ if cancel => status.phase = Some(RunPhase::Canceled),
        _ if suspend => status.phase = Some(RunPhase::Suspended),
        _ => status.phase = Some(RunPhase::Queued),
    }
}

fn end(attempt: &mut Attempt, cause: AttemptCause, now: jiff::Timestamp) {
    attempt.cause = Some(cause);
    attempt.end_time = Some(Time(now));
}

/// An engine of which the cluster controller asks only whether it is usable: it is.
pub struct UsableEngine;

#[async_trait]
impl Provisioner for UsableEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities { removal: Removal::Exact, drains: false, tells: &[], origin: Origin::Made, spot: false }
    }

    fn watches(&self, _: &mut Starting<'_>) {}

    async fn validate(&self, _: &Pool, _: &Engine) -> Result<Validity, Error> {
        Ok(Validity::Usable)
    }

    async fn observe(&self, _: &Pool) -> Result<Observed, Error> {
        Ok(Observed::default())
    }

    async fn look_up(
        &self,
        _: &Pool,
        _: &ClusterNode,
    ) -> Result<Option<trainyard_model::node::seen::Machine>, Error> {
        Ok(None)
    }

    async fn ensure(&self, _: &Pool, _: &[Wanted]) -> Result<Vec<Launch>, Error> {
        Ok(Vec::new())
    }

    async fn release(&self, _: &Pool, _: &[Release]) -> Vec<Released> {
        Vec::new()
    }
}
