//! Static nodes: machines that kwok plays, as an administrator would have put them there.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard::{
    clock::SystemClock,
    provisioner::{
        Pool, Provisioner,
        conformance::{self, STOCK, World},
        static_nodes::{Static, marks},
    },
    tasks::Tasks,
};
use trainyard_api::cluster_node::{Engine, StaticNode};
use trainyard_e2e::controlplane::{ControlPlane, add_machine, bring_back_node, eventually, lose_node};
use trainyard_e2e::installation::install_crds;
use trainyard_model::node::seen::{GivenUp, Machine};

/// The label that the classes of the cases select by.
const POOL: &str = "example.org/conformance";

/// The engine, in a control plane that it shares with others: every pool has machines of its own.
struct Hall {
    client: Client,
    engine: Arc<Static>,
    tasks: tokio::sync::Mutex<Tasks>,
}

impl Hall {
    async fn open() -> Result<Self> {
        let plane = ControlPlane::shared().await?;
        // The engine follows ClusterNodes, too.
        install_crds(plane)?;
        let client = plane.client().await?;
        let mut tasks = Tasks::new(CancellationToken::new());
        let engine = Static::new(client.clone(), Arc::new(SystemClock));
        let engine = super::started(engine, client.clone(), &mut tasks).await?;
        Ok(Self { client, engine, tasks: tokio::sync::Mutex::new(tasks) })
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// The machines of a pool, also while its class selects none of them.
    async fn of(&self, pool: &Pool) -> Result<Vec<Node>> {
        let these = ListParams::default().labels(&format!("{POOL} in ({0},{0}-elsewhere)", pool.name));
        Ok(self.nodes().list(&these).await?.items)
    }

    async fn change(&self, name: &str, change: Value) -> Result<()> {
        self.nodes().patch(name, &PatchParams::default(), &Patch::Merge(change)).await?;
        Ok(())
    }
}

#[async_trait]
impl World for Hall {
    fn engine(&self) -> Arc<dyn Provisioner> {
        Arc::clone(&self.engine) as Arc<dyn Provisioner>
    }

    async fn restarted(&self) -> Result<Arc<dyn Provisioner>> {
        let mut tasks = self.tasks.lock().await;
        let engine = Static::new(self.client.clone(), Arc::new(SystemClock));
        Ok(super::started(engine, self.client.clone(), &mut tasks).await?)
    }

    fn block(&self, pool: &Pool) -> Engine {
        let node_selector = [(POOL.to_owned(), pool.name.clone())].into();
        Engine { static_node: Some(StaticNode { node_selector }), ..Engine::default() }
    }

    async fn stock(&self, pool: &Pool) -> Result<()> {
        for number in 0..STOCK {
            let labels = json!({POOL: pool.name, "topology.kubernetes.io/zone": "hall-1"});
            let amounts = json!({"cpu": "6", "memory": "110Gi", "pods": "110", "nvidia.com/gpu": "1"});
            add_machine(&self.client, &format!("{}-vm-{number}", pool.name), &labels, &amounts).await?;
        }
        Ok(())
    }

    /// What an administrator can set. kwok, as a kubelet, keeps the rest.
    async fn looks(&self, pool: &Pool) -> Result<Value> {
        let nodes = self.of(pool).await?;
        Ok(nodes.iter().map(|node| json!({"labels": node.labels(), "spec": node.spec})).collect())
    }

    async fn refuse(&self, pool: &Pool, cause: Option<(GivenUp, &str)>) -> Result<String> {
        for node in self.of(pool).await? {
            if marks::cluster_uid(node.labels()).is_none() {
                let cordon = json!({"spec": {"unschedulable": cause.map(|_| true)}});
                self.change(&node.name_any(), cordon).await?;
            }
        }
        Ok("is cordoned".to_owned())
    }

    async fn remove_behind(&self, machine: &Machine) -> Result<()> {
        self.nodes().delete(&machine.name, &DeleteParams::default()).await?;
        Ok(())
    }

    async fn take_name(&self, _: &str) -> Result<String> {
        unreachable!("machines that are found have names of their own")
    }

    async fn stands(&self, name: &str, uid: &str) -> Result<bool> {
        let node = self.nodes().get_opt(name).await?;
        Ok(node.is_some_and(|node| {
            node.uid().as_deref() == Some(uid) && marks::cluster_uid(node.labels()).is_some()
        }))
    }

    async fn occupy(&self, machine: &Machine) -> Result<()> {
        let pod = json!({
            "metadata": {"name": machine.name},
            "spec": {"nodeName": machine.name, "containers": [{"name": "main", "image": "x"}],
                     "tolerations": [{"operator": "Exists"}]},
        });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        eventually("the pod to run", Duration::from_secs(30), || async {
            let phase = self.pods().get(&machine.name).await?.status.and_then(|status| status.phase);
            ensure!(phase.as_deref() == Some("Running"), "{phase:?}");
            Ok(())
        })
        .await
    }

    async fn vacate(&self, machine: &Machine) -> Result<()> {
        self.pods().delete(&machine.name, &DeleteParams::default()).await?;
        Ok(())
    }

    async fn lose(&self, machine: &Machine) -> Result<()> {
        lose_node(&self.client, &machine.name).await
    }

    async fn bring_back(&self, machine: &Machine) -> Result<()> {
        bring_back_node(&self.client, &machine.name).await
    }

    async fn break_class(&self, pool: &Pool, broken: bool) -> Result<String> {
        for node in self.of(pool).await? {
            let value = if broken { format!("{}-elsewhere", pool.name) } else { pool.name.clone() };
            self.change(&node.name_any(), json!({"metadata": {"labels": {POOL: value}}})).await?;
        }
        Ok(format!("{POOL}={}", pool.name))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_nodes_keep_every_promise_of_an_engine() -> Result<()> {
    conformance::run(&Hall::open().await?).await
}
