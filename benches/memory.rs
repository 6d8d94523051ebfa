//! What a run and a node take of memory: in a snapshot and its plan, and in what the operator keeps of them. Prints; judges
//! nothing.
//!
//! `cargo bench -p trainyard --bench memory`
//!
//! Bytes that are asked of the allocator, which itself rounds each block up (jemalloc by a tenth on average). Each figure is a difference: with many objects less with none, divided by their number. What a controller keeps is
//! what is freed when it is dropped, after everything has come to rest. The API server is in memory, too, and stays.
#![allow(clippy::disallowed_methods, missing_docs)] // A benchmark waits in real time.

#[path = "../planner/benches/pool/mod.rs"]
mod pool;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cap::Cap;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard::clock::TokioClock;
use trainyard::controllers::{experiment, run};
use trainyard::kubernetes::client::{self, Limits};
use trainyard::kubernetes::events::Events;
use trainyard::kubernetes::watch::Watch;
use trainyard::tasks::Tasks;
use trainyard::telemetry::{metrics::Metrics, readiness::Readiness};
use trainyard_api::{Cluster, ClusterNode, Run, VmSize};
use trainyard_fake_apiserver::FakeServer;
use trainyard_model::run::is_accepted;
use trainyard_model::snapshot::{node::LightNode, run::LightRun};
use trainyard_planner::plan;

use pool::State;

#[global_allocator]
static ALLOCATOR: Cap<tikv_jemallocator::Jemalloc> = Cap::new(tikv_jemallocator::Jemalloc, usize::MAX);

/// So many runs or nodes are compared with none: enough that tables which double weigh as they do on average, within a third.
const MANY: usize = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    planned();
    kept().await
}

/// Bytes allocated now.
fn allocated() -> i64 {
    ALLOCATOR.allocated() as i64
}

/// What is held by what `make` returns.
fn held<T>(make: impl FnOnce() -> T) -> (i64, T) {
    let before = allocated();
    let made = make();
    (allocated() - before, made)
}

/// Snapshots and plans of 1,000 nodes and 50,000 waiting runs.
fn planned() {
    let (nodes, queued) = (1_000, 50_000);
    println!(
        "{:<26} {:>18} {:>18} {:>18} {:>18}",
        "in the planner, bytes", "snapshot, per run", "plan, per run", "snapshot, per node", "plan, per node"
    );
    for state in State::ALL.into_iter().filter(|state| state.has_nodes()) {
        let of = |nodes, queued| -> (i64, i64) {
            let (of_snapshot, snapshot) = held(|| pool::snapshot(nodes, queued, state));
            let (of_plan, _plan) = held(|| plan(&snapshot, pool::now()));
            (of_snapshot, of_plan)
        };
        let (nothing, with_nodes, all) = (of(0, 0), of(nodes, 0), of(nodes, queued));
        println!(
            "{:<26} {:>18} {:>18} {:>18} {:>18}",
            state.words(),
            (all.0 - with_nodes.0) / queued,
            (all.1 - with_nodes.1) / queued,
            (with_nodes.0 - nothing.0) / nodes,
            (with_nodes.1 - nothing.1) / nodes,
        );
    }
}

/// A part of the operator.
type Start = fn(&mut Operator);

/// What parts of an operator are started with.
struct Operator {
    client: Client,
    metrics: Metrics,
    readiness: Readiness,
    events: Events,
    tasks: Tasks,
}

impl Operator {
    fn start(server: &FakeServer, start: Start) -> Self {
        let mut tasks = Tasks::new(CancellationToken::new());
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        let client = client::over(server.service("operator"), "default", Limits::default(), metrics.clone());
        let clock = Arc::new(TokioClock::default());
        let events = Events::start(client.clone(), "operator", clock, metrics.clone(), &mut tasks);
        let mut operator = Self { client, metrics, readiness, events, tasks };
        start(&mut operator);
        operator
    }

    fn run_controller(&mut self) {
        run::start(run::Setup {
            client: self.client.clone(),
            clock: Arc::new(TokioClock::default()),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            events: self.events.clone(),
            concurrency: 8,
            tasks: &mut self.tasks,
        });
    }

    fn experiment_controller(&mut self) {
        experiment::start(experiment::Setup {
            client: self.client.clone(),
            clock: Arc::new(TokioClock::default()),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            events: self.events.clone(),
            concurrency: 4,
            tasks: &mut self.tasks,
        });
    }

    /// As the cluster controller keeps them.
    fn light_runs(&mut self) {
        let _ = Watch::<Run>::guarded("runs", Api::all(self.client.clone()))
            .reduce(|run| LightRun::of(&run))
            .index(|run| Some(format!("{}/{}", run.cluster_namespace, run.cluster)))
            .start(&mut self.tasks, &self.readiness, &self.metrics);
    }

    /// As the cluster controller keeps them.
    fn light_nodes(&mut self) {
        let _ = Watch::<ClusterNode>::guarded("clusternodes", Api::all(self.client.clone()))
            .reduce(|node| LightNode::of(&node))
            .index(|node| Some(format!("{}/{}", node.namespace, node.cluster_name)))
            .start(&mut self.tasks, &self.readiness, &self.metrics);
    }
}

async fn kept() -> Result<()> {
    println!("\n{:<44} {:>10} {:>10}", "kept by the operator, bytes", "each", "all MiB");
    let nothing = cluster();
    let (finished, queued, nodes) = (finished_runs(), queued_runs().await?, cluster_nodes());
    let parts: [(&str, &FakeServer, Start); 7] = [
        ("finished run, run controller", &finished, Operator::run_controller),
        ("finished run, experiment controller", &finished, Operator::experiment_controller),
        ("queued run, run controller", &queued, Operator::run_controller),
        ("queued run, experiment controller", &queued, Operator::experiment_controller),
        ("queued run, cluster controller", &queued, Operator::light_runs),
        ("idle node, run controller", &nodes, Operator::run_controller),
        ("idle node, cluster controller", &nodes, Operator::light_nodes),
    ];
    for (words, server, start) in parts {
        let bytes = kept_of(server, start).await - kept_of(&nothing, start).await;
        println!("{words:<44} {:>10} {:>10.1}", bytes / MANY as i64, bytes as f64 / f64::from(1 << 20));
    }
    Ok(())
}

/// What a part of the operator frees when it is dropped.
async fn kept_of(server: &FakeServer, start: Start) -> i64 {
    let operator = Operator::start(server, start);
    settle(server).await;
    server.compact();
    server.forget_requests();
    let with = allocated();
    drop(operator);
    tokio::time::sleep(Duration::from_millis(100)).await;
    with - allocated()
}

/// Until no request has come for a second.
async fn settle(server: &FakeServer) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let requests = server.requests().len();
        if requests > 0 && requests == before {
            return;
        }
        before = requests;
    }
}

/// A server with a Cluster and nothing else.
fn cluster() -> FakeServer {
    let server = FakeServer::new();
    put::<VmSize>(
        &server,
        json!({
            "metadata": {"name": "standard-nc6s-v3"},
            "spec": {"sizeName": "Standard_NC6s_v3", "family": "NCv3", "vcpus": 8, "memory": "16Gi",
                     "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 2, "product": "V100"}]},
        }),
    );
    put::<Cluster>(
        &server,
        json!({
            "metadata": {"name": "nc6", "namespace": "ml"},
            "spec": {"vmSize": "Standard_NC6s_v3", "scale": {"maxNodes": 1000}},
        }),
    );
    server
}

/// As in the benchmark of submissions: a parameter server and three workers.
fn run_spec() -> Value {
    json!({
        "clusterRef": {"name": "nc6"}, "experiment": "mnist",
        "container": {"image": "registry.example/mnist:1"}, "command": ["python", "train.py"],
        "distribution": {"tensorflow": {"parameterServer": {"count": 1}, "worker": {"count": 2}}},
    })
}

fn finished_runs() -> FakeServer {
    let server = cluster();
    for number in 0..MANY {
        put::<Run>(
            &server,
            json!({
                "metadata": {"name": format!("mnist-{number:05}"), "namespace": "ml"}, "spec": run_spec(),
                "status": {
                    "phase": "Completed", "completionTime": "2030-01-01T02:00:00Z",
                    "attempts": [{"number": 1, "cause": "FirstStart", "podsGone": true}],
                },
            }),
        );
    }
    server
}

/// Runs that were looked at and accepted, and wait.
async fn queued_runs() -> Result<FakeServer> {
    let server = cluster();
    for number in 0..MANY {
        put::<Run>(
            &server,
            json!({"metadata": {"name": format!("mnist-{number:05}"), "namespace": "ml"}, "spec": run_spec()}),
        );
    }
    let operator = Operator::start(&server, Operator::run_controller);
    settle(&server).await;
    drop(operator);
    let looked_at: Run = server.get("ml", "mnist-00000").context("a Run that was put")?;
    ensure!(
        looked_at.status.as_ref().is_some_and(is_accepted),
        "the Run was not accepted: {:?}",
        looked_at.status
    );
    server.compact();
    Ok(server)
}

fn cluster_nodes() -> FakeServer {
    let server = cluster();
    for ordinal in 1..=MANY {
        put::<ClusterNode>(
            &server,
            json!({
                "metadata": {"name": format!("nc6-a1b2c3-{ordinal}"), "namespace": "ml"},
                "spec": {
                    "cluster": {"name": "nc6", "uid": "6f1c3a7e-0000-4000-8000-000000000001"}, "ordinal": ordinal,
                    "vmSize": {"sizeName": "Standard_NC6s_v3", "vcpus": 8, "memory": "16Gi",
                               "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 2, "product": "V100"}]},
                    "engine": {},
                    "taint": {"key": "trainyard.dev/cluster", "value": "nc6", "effect": "NoSchedule"},
                },
                "status": {
                    "state": "Idle", "nodeName": format!("vm-{ordinal}"), "nodeUID": format!("vm-{ordinal}-uid"),
                    "allocatable": {"cpuMillis": 7600, "memoryBytes": 16_000_000_000_i64, "accelerators": {"nvidia.com/gpu": 2}},
                },
            }),
        );
    }
    server
}

fn put<K>(server: &FakeServer, mut object: Value)
where
    K: kube::Resource<DynamicType = ()> + serde::Serialize + serde::de::DeserializeOwned,
{
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    let object: K = serde_json::from_value(object).expect("an object as an API server returns it");
    server.put(&object);
}
