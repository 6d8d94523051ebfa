//! One story: its namespace, and what its people do there.

use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::Instant;
use trainyard_api::cluster::Cluster;
use trainyard_api::cluster_node::ClusterNode;
use trainyard_api::experiment::Experiment;
use trainyard_api::names::{labels, node_labels};
use trainyard_api::run::Run;

use super::draft::{ClusterDraft, RunDraft};
use super::stage::Stage;

/// The stage that stories share.
static SHARED: OnceCell<Arc<Stage>> = OnceCell::const_new();
/// Held by the story that has a stage of its own: one such stage at a time is as much as a small machine bears.
static APART: Mutex<()> = Mutex::const_new(());

/// One story while it is told.
pub struct Story {
    /// Where it plays; dropped before the turn ends.
    pub stage: Arc<Stage>,
    /// The administrator.
    pub client: Client,
    /// Its namespace.
    pub namespace: String,
    title: String,
    began: Option<Instant>,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Story {
    /// Begins a story that others may be told beside. The namespace is the title with dashes.
    pub async fn begin(title: &str) -> Result<Self> {
        let build = || async { anyhow::Ok(Arc::new(Stage::build().await?)) };
        let stage = Arc::clone(SHARED.get_or_try_init(build).await?);
        Self::on_stage(stage, title, None).await
    }

    /// Begins a story on a control plane of its own.
    pub async fn begin_apart(title: &str) -> Result<Self> {
        let turn = APART.lock().await;
        let stage = Arc::new(Stage::build().await?);
        Self::on_stage(stage, title, Some(turn)).await
    }

    async fn on_stage(stage: Arc<Stage>, title: &str, turn: Option<MutexGuard<'static, ()>>) -> Result<Self> {
        let story = Self {
            client: stage.plane.client().await?,
            stage,
            namespace: title.replace(' ', "-"),
            title: title.to_owned(),
            began: Some(Instant::now()),
            _turn: turn,
        };
        story.create_namespace().await?;
        Ok(story)
    }

    /// The same people in a second namespace, `<first>-<name>`.
    pub async fn elsewhere(&self, name: &str) -> Result<Self> {
        let story = Self {
            stage: Arc::clone(&self.stage),
            client: self.client.clone(),
            namespace: format!("{}-{name}", self.namespace),
            title: String::new(),
            began: None,
            _turn: None,
        };
        story.create_namespace().await?;
        Ok(story)
    }

    async fn create_namespace(&self) -> Result<()> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": self.namespace}}))?;
        Api::<Namespace>::all(self.client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("creating namespace {}", self.namespace))?;
        Ok(())
    }

    /// Labels the namespace; `null` takes a label off.
    pub async fn label_namespace(&self, labels: Value) -> Result<()> {
        Api::<Namespace>::all(self.client.clone())
            .patch(
                &self.namespace,
                &PatchParams::default(),
                &Patch::Merge(json!({"metadata": {"labels": labels}})),
            )
            .await?;
        Ok(())
    }

    /// Deletes the namespace with everything in it.
    pub async fn delete_namespace(&self) -> Result<()> {
        Api::<Namespace>::all(self.client.clone()).delete(&self.namespace, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Its Clusters.
    pub fn clusters(&self) -> Api<Cluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Its Runs.
    pub fn runs(&self) -> Api<Run> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Its Experiments.
    pub fn experiments(&self) -> Api<Experiment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Its `ClusterNodes`.
    pub fn cluster_nodes(&self) -> Api<ClusterNode> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Its pods.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Somebody creates a Cluster.
    pub async fn create_cluster(&self, draft: ClusterDraft) -> Result<()> {
        self.clusters().create(&PostParams::default(), &serde_json::from_value(draft.object())?).await?;
        Ok(())
    }

    /// Somebody submits a Run.
    pub async fn submit(&self, draft: RunDraft) -> Result<()> {
        self.runs().create(&PostParams::default(), &serde_json::from_value(draft.object())?).await?;
        Ok(())
    }

    /// Somebody says which finished Runs of an Experiment are kept.
    pub async fn keep_runs(&self, experiment: &str, retention: Value) -> Result<()> {
        let patch = json!({
            "apiVersion": trainyard_api::names::API_VERSION,
            "kind": "Experiment",
            "metadata": {"name": experiment},
            "spec": {"retention": retention},
        });
        let parameters = PatchParams::apply("somebody").force();
        self.experiments().patch(experiment, &parameters, &Patch::Apply(patch)).await?;
        Ok(())
    }

    /// Somebody edits a Cluster's spec.
    pub async fn edit_cluster(&self, name: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.clusters().patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Somebody edits a Run's spec.
    pub async fn edit_run(&self, name: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.runs().patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Somebody cancels a Run.
    pub async fn cancel(&self, name: &str) -> Result<()> {
        self.edit_run(name, json!({"cancel": true})).await
    }

    /// Creates any object of the cluster or of this namespace.
    pub async fn create<K>(&self, api: Api<K>, object: Value) -> Result<()>
    where
        K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    }

    /// The Nodes of this namespace's Clusters.
    pub async fn machines(&self) -> Result<Vec<Node>> {
        let ours =
            ListParams::default().labels(&format!("{}={}", node_labels::CLUSTER_NAMESPACE, self.namespace));
        Ok(Api::<Node>::all(self.client.clone()).list(&ours).await?.items)
    }

    /// Names of the pods of a Run that there are.
    pub async fn pods_of(&self, run: &str) -> Result<Vec<String>> {
        let ours = ListParams::default().labels(&format!("{}={run}", labels::RUN));
        Ok(self.pods().list(&ours).await?.iter().map(kube::ResourceExt::name_any).collect())
    }

    /// Reasons and notes of the Events about an object of that name, in the order in which they were told.
    pub async fn events_about(&self, name: &str) -> Result<Vec<(String, String)>> {
        let about = ListParams::default().fields(&format!("regarding.name={name}"));
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = api.list(&about).await?.items;
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        let told = events
            .into_iter()
            .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()));
        Ok(told.collect())
    }

    /// What the namespace holds, for messages.
    pub(super) async fn inventory(&self) -> String {
        let mut lines = Vec::new();
        let all = ListParams::default();
        for cluster in self.clusters().list(&all).await.map(|list| list.items).unwrap_or_default() {
            let status = serde_json::to_string(&cluster.status).unwrap_or_default();
            lines.push(format!("Cluster {}: {status}", cluster.name_any()));
        }
        for node in self.cluster_nodes().list(&all).await.map(|list| list.items).unwrap_or_default() {
            let claims: Vec<_> = node
                .spec
                .claims
                .iter()
                .map(|claim| format!("{}/{}", claim.run_name, claim.attempt))
                .collect();
            let status = node.status.clone().unwrap_or_default();
            lines.push(format!(
                "ClusterNode {}: claims {claims:?} retired {:?} released {:?} deleted {:?} state {:?} {:?} {:?}",
                node.name_any(),
                node.spec.retired,
                node.spec.released,
                node.metadata.deletion_timestamp,
                status.state,
                status.reason,
                status.message
            ));
        }
        for run in self.runs().list(&all).await.map(|list| list.items).unwrap_or_default() {
            let status = serde_json::to_string(&run.status).unwrap_or_default();
            lines.push(format!(
                "Run {} (deleted {:?}): {status}",
                run.name_any(),
                run.metadata.deletion_timestamp
            ));
        }
        for pod in self.pods().list(&all).await.map(|list| list.items).unwrap_or_default() {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            lines.push(format!(
                "Pod {}: {phase:?} deleted {:?} finalizers {:?} node {:?}",
                pod.name_any(),
                pod.metadata.deletion_timestamp,
                pod.metadata.finalizers,
                pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
            ));
        }
        lines.join("\n")
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            eprintln!("{:.1} s  {}", began.elapsed().as_secs_f64(), self.title);
            // Whatever a story is about, in it the operator tries nothing that its roles forbid.
            if !std::thread::panicking()
                && let Err(error) = self.stage.nothing_was_forbidden()
            {
                panic!("{error:#}");
            }
        }
    }
}
