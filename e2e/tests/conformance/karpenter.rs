//! The real Karpenter core and a real API server.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard::{
    clock::SystemClock,
    provisioner::{
        Pool, Provisioner,
        conformance::{self, World},
        karpenter::{Karpenter, wire::NodeClaim},
    },
    tasks::Tasks,
};
use trainyard_api::{cluster_node::Engine, placement::NodeClassRef};
use trainyard_e2e::controlplane::{
    ControlPlane, LaunchError, NODE_CLASS, Options, Refusal, Refusals, eventually, lose_node,
};
use trainyard_model::node::seen::{GivenUp, Machine};

use super::{NAMESPACE, started};

/// The engine on a control plane of its own: cases break the class and refuse launches.
struct RealKarpenter {
    plane: ControlPlane,
    client: Client,
    engine: Arc<Karpenter>,
    tasks: tokio::sync::Mutex<Tasks>,
}

impl RealKarpenter {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start(Options::default()).await?;
        let client = plane.client().await?;
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let account =
            Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), NAMESPACE);
        eventually("the namespace's account", Duration::from_secs(30), || async {
            Ok(account.get("default").await.map(|_| ())?)
        })
        .await?;

        let mut tasks = Tasks::new(CancellationToken::new());
        let engine =
            started(Karpenter::new(client.clone(), Arc::new(SystemClock)), client.clone(), &mut tasks)
                .await?;
        Ok(Self { plane, client, engine, tasks: tokio::sync::Mutex::new(tasks) })
    }

    fn claims(&self) -> Api<NodeClaim> {
        Api::all(self.client.clone())
    }

    fn classes(&self) -> (Api<DynamicObject>, ApiResource) {
        let kind = GroupVersionKind::gvk("karpenter.kwok.sh", "v1alpha1", "KWOKNodeClass");
        let resource = ApiResource::from_gvk_with_plural(&kind, "kwoknodeclasses");
        (Api::all_with(self.client.clone(), &resource), resource)
    }
}

#[async_trait]
impl World for RealKarpenter {
    fn engine(&self) -> Arc<dyn Provisioner> {
        Arc::clone(&self.engine) as Arc<dyn Provisioner>
    }

    async fn restarted(&self) -> Result<Arc<dyn Provisioner>> {
        let mut tasks = self.tasks.lock().await;
        Ok(started(
            Karpenter::new(self.client.clone(), Arc::new(SystemClock)),
            self.client.clone(),
            &mut tasks,
        )
        .await?)
    }

    fn block(&self, _: &Pool) -> Engine {
        conformance::karpenter_block(NodeClassRef {
            group: "karpenter.kwok.sh".into(),
            kind: "KWOKNodeClass".into(),
            name: NODE_CLASS.into(),
        })
    }

    async fn refuse(&self, pool: &Pool, cause: Option<(GivenUp, &str)>) -> Result<String> {
        let refuse = cause.map(|(_, words)| Refusal {
            id: pool.name.clone(),
            claim_prefix: Some(format!("{}-", pool.name)),
            error: LaunchError::InsufficientCapacity,
            message: words.to_owned(),
            ..Refusal::default()
        });
        self.plane.set_refusals(&Refusals { refuse: refuse.into_iter().collect(), ..Refusals::default() })?;
        Ok(cause.map(|(_, words)| words.to_owned()).unwrap_or_default())
    }

    async fn remove_behind(&self, machine: &Machine) -> Result<()> {
        self.claims().delete(&machine.name, &DeleteParams::default()).await?;
        Ok(())
    }

    async fn take_name(&self, name: &str) -> Result<String> {
        // Of a kind that this Karpenter does not know, so that it leaves the claim alone.
        let claim: NodeClaim = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "nodeClassRef": {"group": "example.com", "kind": "Nothing", "name": "nothing"},
                "requirements": [],
            },
        }))?;
        let made = self.claims().create(&PostParams::default(), &claim).await?;
        made.uid().context("no UID")
    }

    async fn stands(&self, name: &str, uid: &str) -> Result<bool> {
        let claim = self.claims().get_opt(name).await?;
        Ok(claim.is_some_and(|claim| {
            claim.uid().as_deref() == Some(uid) && claim.metadata.deletion_timestamp.is_none()
        }))
    }

    /// A pod that must not be disrupted stalls the drain for as long as it lives.
    async fn occupy(&self, machine: &Machine) -> Result<()> {
        let node = machine.node.as_ref().context("no Node")?;
        let name = format!("holds-{}", machine.name);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {"karpenter.sh/do-not-disrupt": "true"}},
            "spec": {
                "nodeName": node.name,
                "containers": [{"name": "main", "image": "x"}],
                "tolerations": [{"operator": "Exists"}],
            },
        }))?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        pods.create(&PostParams::default(), &pod).await?;
        eventually("the holding pod to run", Duration::from_secs(30), || async {
            let pod = pods.get(&name).await?;
            let phase = pod.status.and_then(|status| status.phase);
            ensure!(phase.as_deref() == Some("Running"), "{phase:?}");
            Ok(())
        })
        .await
    }

    async fn lose(&self, machine: &Machine) -> Result<()> {
        lose_node(&self.client, &machine.node.as_ref().context("no Node")?.name).await
    }

    async fn break_class(&self, _: &Pool, broken: bool) -> Result<String> {
        let (classes, resource) = self.classes();
        if broken {
            classes.delete(NODE_CLASS, &DeleteParams::default()).await?;
            eventually("the class to be gone", Duration::from_secs(30), || async {
                ensure!(classes.get_opt(NODE_CLASS).await?.is_none(), "it is there");
                Ok(())
            })
            .await?;
            return Ok(NODE_CLASS.to_owned());
        }
        let class = DynamicObject::new(NODE_CLASS, &resource)
            .data(json!({"spec": Value::Object(serde_json::Map::new())}));
        classes.create(&PostParams::default(), &class).await?;
        Ok(NODE_CLASS.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_karpenter_keeps_every_promise_of_an_engine() -> Result<()> {
    conformance::run(&RealKarpenter::start().await?).await
}
