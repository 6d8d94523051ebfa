//! The engine among machines of an administrator, on an API server in memory.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard_api::{cluster_node::StaticNode, names::node_labels};
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb, When};
use trainyard_model::node::seen::{GivenUp, Progress};

use super::{
    double::{POOL, kubelet, looks, machine, stranger},
    *,
};
use crate::{
    clock::TokioClock,
    provisioner::{
        Doomed, Drain, Launched, ReleaseOutcome,
        conformance::{self, STOCK, World, eventually},
    },
    tasks::Tasks,
    telemetry::metrics::Metrics,
};

mod count;
mod gangs;
mod give_back;
mod take;

/// The engine among machines of an administrator.
struct Bed {
    server: FakeServer,
    engine: Arc<Static>,
    recounted: Arc<Mutex<Vec<String>>>,
    tasks: tokio::sync::Mutex<Tasks>,
}

async fn started(server: &FakeServer, agent: &str, tasks: &mut Tasks) -> Arc<Static> {
    let engine = Arc::new(Static::new(server.client(agent), Arc::new(TokioClock::default())));
    let wake = Arc::new(|_: Woken<'_>| {});
    let cluster_nodes = &conformance::cluster_nodes(server.client(agent), tasks);
    engine.watches(&mut Starting { tasks, metrics: &Metrics::new(), wake, cluster_nodes });
    eventually(|| async { Ok(engine.followed().map(|_| ())?) }).await.unwrap();
    engine
}

impl Bed {
    async fn new() -> Self {
        Self::on(FakeServer::new()).await
    }

    async fn on(server: FakeServer) -> Self {
        let mut tasks = Tasks::new(CancellationToken::new());
        let engine = started(&server, "engine", &mut tasks).await;
        let recounted = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&recounted);
        engine.on_recount(Arc::new(move |pool| {
            told.lock().unwrap_or_else(PoisonError::into_inner).push(pool.name.clone());
        }));
        Self { server, engine, recounted, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// Machines of pool `lab`, seen by the engine.
    async fn with(names: &[&str]) -> Self {
        let bed = Self::new().await;
        for name in names {
            bed.server.put(&machine(name, "lab"));
        }
        bed.seen(|counted| counted.matching == i64::try_from(names.len()).unwrap()).await;
        bed
    }

    /// The engine of another process, which is at work at the same time.
    async fn another_process(&self) -> Arc<Static> {
        let mut tasks = self.tasks.lock().await;
        started(&self.server, "other", &mut tasks).await
    }

    /// The process dies, and another one starts.
    async fn crashed(self) -> Self {
        let Self { server, engine, recounted, tasks } = self;
        drop((engine, recounted, tasks));
        Self::on(server).await
    }

    /// The cluster controller has made these ClusterNodes, and the engine has seen them.
    async fn stored(&self, nodes: &[ClusterNode]) {
        for node in nodes {
            self.server.put(node);
        }
        let names: Vec<_> = nodes.iter().map(ClusterNode::name_any).collect();
        eventually(|| async {
            let seen = self.engine.cluster_nodes.get().context("not followed")?.all();
            let are_seen = names.iter().all(|name| seen.iter().any(|node| node.name_any() == *name));
            ensure!(are_seen, "not seen yet");
            Ok(())
        })
        .await
        .unwrap();
    }

    async fn counted(&self) -> found::Counted {
        self.engine.count(&the_pool(), &node(1).spec).await.unwrap().unwrap().counted
    }

    async fn seen(&self, expected: impl Fn(&found::Counted) -> bool) -> found::Counted {
        eventually(|| async {
            let counted = self.counted().await;
            ensure!(expected(&counted), "{counted:?}");
            Ok(counted)
        })
        .await
        .unwrap()
    }

    async fn ask(&self, node: &ClusterNode) -> Result<Launched, Error> {
        ask(&self.engine, &the_pool(), node).await
    }

    /// The name of the machine that was taken for it.
    async fn taken(&self, node: &ClusterNode) -> String {
        let answer = self.ask(node).await.unwrap();
        assert!(matches!(answer, Launched::Requested { .. }), "{answer:?}");
        self.engine.look_up(&the_pool(), node).await.unwrap().unwrap().name
    }

    async fn give_back(&self, node: &ClusterNode, drain: Drain) -> ReleaseOutcome {
        let machine = self.engine.look_up(&the_pool(), node).await.unwrap().unwrap();
        let release = Release { machine: Box::new(Doomed::of(&machine)), drain };
        let mut answers = self.engine.release(&the_pool(), &[release]).await;
        answers.pop().unwrap().result.unwrap()
    }

    fn node(&self, name: &str) -> Node {
        self.server.get("", name).unwrap()
    }

    fn recounted(&self) -> Vec<String> {
        std::mem::take(&mut *self.recounted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn machines_of(&self, pool: &Pool) -> Vec<Node> {
        let mut nodes = self.server.list::<Node>();
        nodes.retain(|node| node.labels().get(POOL).is_some_and(|name| name.starts_with(&pool.name)));
        nodes
    }
}

async fn ask(engine: &Static, pool: &Pool, node: &ClusterNode) -> Result<Launched, Error> {
    let wanted = [Wanted { node: Arc::new(node.clone()), machine: None }];
    let mut answers = engine.ensure(pool, &wanted).await?;
    answers.pop().unwrap().result
}

fn the_pool() -> Pool {
    Pool { namespace: "lab".into(), name: "gpu".into(), uid: "cluster-uid".into() }
}

fn node(ordinal: i64) -> ClusterNode {
    serde_json::from_value(json!({
        "metadata": {"name": format!("gpu-abcdef-{ordinal}"), "namespace": "lab",
                     "uid": format!("node-uid-{ordinal}")},
        "spec": {
            "cluster": {"name": "gpu", "uid": "cluster-uid"},
            "ordinal": ordinal,
            "vmSize": {"sizeName": "Standard_NC6s_v3", "vcpus": 6, "memory": "112Gi",
                       "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 1, "product": "V100"}]},
            "engine": {"static": {"nodeSelector": {POOL: "lab"}}},
            "taint": {"key": "trainyard.dev/cluster", "value": "gpu", "effect": "NoSchedule"},
        },
    }))
    .unwrap()
}

#[async_trait]
impl World for Bed {
    fn engine(&self) -> Arc<dyn Provisioner> {
        Arc::clone(&self.engine) as Arc<dyn Provisioner>
    }

    async fn restarted(&self) -> Result<Arc<dyn Provisioner>> {
        let mut tasks = self.tasks.lock().await;
        Ok(started(&self.server, "restarted", &mut tasks).await)
    }

    fn block(&self, pool: &Pool) -> Engine {
        let node_selector = [(POOL.to_owned(), pool.name.clone())].into();
        Engine { static_node: Some(StaticNode { node_selector }), ..Engine::default() }
    }

    async fn stock(&self, pool: &Pool) -> Result<()> {
        for number in 0..STOCK {
            self.server.put(&machine(&format!("{}-vm-{number}", pool.name), &pool.name));
        }
        Ok(())
    }

    async fn looks(&self, pool: &Pool) -> Result<Value> {
        Ok(self.machines_of(pool).iter().map(looks).collect())
    }

    async fn refuse(&self, pool: &Pool, cause: Option<(GivenUp, &str)>) -> Result<String> {
        for node in self.machines_of(pool) {
            if marks::cluster_uid(node.labels()).is_none() {
                self.server.edit("", &node.name_any(), |node: &mut Node| {
                    node.spec.as_mut().unwrap().unschedulable = cause.map(|_| true);
                });
            }
        }
        Ok("is cordoned".to_owned())
    }

    async fn remove_behind(&self, machine: &Machine) -> Result<()> {
        assert!(self.server.delete::<Node>("", &machine.name));
        Ok(())
    }

    async fn take_name(&self, _: &str) -> Result<String> {
        unreachable!("machines that are found have names of their own")
    }

    async fn stands(&self, name: &str, uid: &str) -> Result<bool> {
        let node = self.server.get::<Node>("", name);
        Ok(node.is_some_and(|node| {
            node.uid().as_deref() == Some(uid) && marks::cluster_uid(node.labels()).is_some()
        }))
    }

    async fn occupy(&self, machine: &Machine) -> Result<()> {
        self.server.put(&stranger(&machine.name, &machine.name, |_| {}));
        Ok(())
    }

    async fn vacate(&self, machine: &Machine) -> Result<()> {
        assert!(self.server.remove::<Pod>("others", &machine.name));
        Ok(())
    }

    async fn lose(&self, machine: &Machine) -> Result<()> {
        kubelet(&self.server, &machine.name, "Unknown");
        Ok(())
    }

    async fn bring_back(&self, machine: &Machine) -> Result<()> {
        kubelet(&self.server, &machine.name, "True");
        Ok(())
    }

    async fn break_class(&self, pool: &Pool, broken: bool) -> Result<String> {
        for node in self.machines_of(pool) {
            let value = if broken { format!("{}-elsewhere", pool.name) } else { pool.name.clone() };
            self.server.edit("", &node.name_any(), |node: &mut Node| {
                node.labels_mut().insert(POOL.to_owned(), value);
            });
        }
        Ok(format!("{POOL}={}", pool.name))
    }
}

#[tokio::test(start_paused = true)]
async fn static_nodes_keep_every_promise_of_an_engine() {
    conformance::run(&Bed::new().await).await.unwrap();
}
