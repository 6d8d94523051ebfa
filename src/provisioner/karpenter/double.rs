//! A double of Karpenter for tests: it answers NodeClaims on a fake API server as the real core does, in the order in
//! which the real core writes, and does what a test asks of it.
//!
//! What it copies: the finalizer; Launched and then Registered; labels and taints copied to the Node at registration; a
//! refused launch deletes the claim first and writes its Event after; a claim deleted before Registered ends at once; a
//! deletion after that waits for a hanging drain until the termination time is
//! annotated.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::{
    api::core::v1::{Event, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, ResourceExt as _, client::Body};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::Service;
use trainyard_api::{names::node_labels, placement::NodeClassRef};
use trainyard_fake_apiserver::{FakeServer, FakeService, When};
use trainyard_model::node::seen::GivenUp;

use super::wire::{ClaimCondition, NodeClaim, TERMINATION_TIME};
use crate::{
    kubernetes::{client, read::Selection, watch::Watch},
    tasks::Tasks,
    telemetry::{metrics::Metrics, readiness::Readiness},
};

/// Stands for the kinds being served.
type Installed = CustomResourceDefinition;
const INSTALLED: &str = "nodeclaims.karpenter.sh";

const FINALIZER: &str = "karpenter.sh/termination";

/// The class that the double knows.
pub fn class() -> NodeClassRef {
    NodeClassRef { group: "karpenter.kwok.sh".into(), kind: "KWOKNodeClass".into(), name: "default".into() }
}

/// What a test asks of the double.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one fault, and any may be had with any other")]
pub struct Script {
    /// Clusters (by UID) whose launches are refused, and how.
    pub refuse: BTreeMap<String, (GivenUp, String)>,
    /// Write no Event about a refusal.
    pub silent: bool,
    /// Claims are left as they are.
    pub idle: bool,
    /// Machines are launched and never join.
    pub never_join: bool,
    /// Nodes come without their accelerators.
    pub no_accelerators: bool,
    /// Claims (by name) whose drain does not end by itself.
    pub hang: BTreeSet<String>,
}

/// The double, running.
#[derive(Clone)]
pub struct Double {
    pub server: FakeServer,
    script: Arc<Mutex<Script>>,
    changed: Arc<Notify>,
}

impl Double {
    /// Starts it on this server, and puts its class there.
    pub fn start(server: &FakeServer, tasks: &mut Tasks) -> Self {
        let double =
            Self { server: server.clone(), script: Arc::default(), changed: Arc::new(Notify::new()) };
        double.put_class();
        double.install();
        let claims = Api::<NodeClaim>::all(server.client("karpenter"));
        let nodes = Api::<Node>::all(server.client("karpenter"));
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        let wake = Arc::clone(&double.changed);
        Watch::new("double-claims", claims)
            .annotations(&[TERMINATION_TIME])
            .whole()
            .notify(move |_| wake.notify_one())
            .start(tasks, &readiness, &metrics);
        let wake = Arc::clone(&double.changed);
        Watch::new("double-nodes", nodes)
            .select(Selection::all())
            .whole()
            .notify(move |_| wake.notify_one())
            .start(tasks, &readiness, &metrics);
        let (acting, token) = (double.clone(), tasks.token());
        tasks.spawn("double", async move { acting.act(token).await });
        double
    }

    /// Changes the script; the double looks again.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    /// The class exists, without conditions.
    pub fn put_class(&self) {
        let class = class();
        self.server.put(
            &serde_json::from_value::<KwokClass>(json!({"metadata": {"name": class.name}, "spec": {}}))
                .unwrap(),
        );
    }

    /// The class does not exist.
    pub fn remove_class(&self) {
        self.server.remove::<KwokClass>("", &class().name);
    }

    /// Karpenter's kinds are served.
    pub fn install(&self) {
        let kind = json!({"metadata": {"name": INSTALLED}, "spec": {
            "group": "karpenter.sh", "names": {"plural": "nodeclaims", "kind": "NodeClaim"}, "scope": "Cluster",
            "versions": [],
        }});
        self.server.put(&serde_json::from_value::<Installed>(kind).unwrap());
    }

    /// Karpenter's kinds are removed, and all objects with them.
    pub fn uninstall(&self) {
        for claim in self.server.list::<NodeClaim>() {
            self.server.remove::<NodeClaim>("", &claim.name_any());
        }
        self.server.remove::<Installed>("", INSTALLED);
        self.server.cut_watches();
    }

    /// The claim of this name.
    pub fn claim(&self, name: &str) -> Option<NodeClaim> {
        self.server.get("", name)
    }

    async fn act(&self, token: CancellationToken) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = self.changed.notified() => {}
            }
            // The real one lets some time pass between its writes; others get a turn here.
            tokio::task::yield_now().await;
            for claim in self.server.list::<NodeClaim>() {
                if claim.labels().contains_key(node_labels::CLUSTER_UID) {
                    self.step(&claim);
                }
            }
        }
    }

    fn step(&self, claim: &NodeClaim) {
        let script = self.lock();
        if script.idle {
            return;
        }
        let status = claim.status.clone().unwrap_or_default();
        if claim.metadata.deletion_timestamp.is_some() {
            self.finalize(claim, &script, status.is("Registered"));
            return;
        }
        if !claim.finalizers().iter().any(|one| one == FINALIZER) {
            self.edit(claim, |claim| claim.finalizers_mut().push(FINALIZER.to_owned()));
        } else if !status.is("Launched") {
            let cluster = &claim.labels()[node_labels::CLUSTER_UID];
            match script.refuse.get(cluster) {
                Some((cause, words)) => self.give_up(claim, *cause, words, script.silent),
                None => self.launch(claim, script.no_accelerators, script.never_join),
            }
        } else if !status.is("Registered")
            && let Some(node) = self.node_of(claim)
        {
            self.register(claim, &node);
        }
    }

    fn give_up(&self, claim: &NodeClaim, cause: GivenUp, words: &str, silent: bool) {
        self.server.remove::<NodeClaim>("", &claim.name_any());
        if silent || cause == GivenUp::Refused {
            return;
        }
        let event: Event = serde_json::from_value(json!({
            "metadata": {"name": format!("{}.refused", claim.name_any()), "namespace": "default"},
            "involvedObject": {
                "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": claim.name_any(), "uid": claim.uid(),
            },
            "type": "Warning",
            "reason": "InsufficientCapacityError",
            "message": format!("NodeClaim {} event: {words}", claim.name_any()),
        }))
        .unwrap();
        self.server.put(&event);
    }

    fn launch(&self, claim: &NodeClaim, no_accelerators: bool, never_join: bool) {
        let name = claim.name_any();
        self.edit(claim, |claim| {
            let status = claim.status.get_or_insert_default();
            status.provider_id = Some(format!("double://{name}"));
            set(&mut status.conditions, "Launched", "True", "Launched");
            claim.labels_mut().insert("topology.kubernetes.io/zone".into(), "zone-a".into());
        });
        if !never_join {
            self.boot(claim, no_accelerators);
        }
    }

    /// The machine joins: its Node is there, and Karpenter has not looked yet. Called by a test for a claim that is gone,
    /// this is a leak.
    pub fn boot(&self, claim: &NodeClaim, no_accelerators: bool) {
        let name = claim.name_any();
        let mut allocatable: BTreeMap<_, _> = claim.spec.resources.clone().unwrap_or_default().requests;
        allocatable.retain(|name, _| !(no_accelerators && name.contains('/')));
        let mut labels = claim.labels().clone();
        labels.insert("topology.kubernetes.io/zone".into(), "zone-a".into());
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": format!("vm-{name}"), "labels": labels},
            "spec": {
                "providerID": format!("double://{name}"),
                "taints": [{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}],
            },
            "status": {
                "allocatable": allocatable,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap();
        self.server.put(&node);
    }

    fn register(&self, claim: &NodeClaim, node: &Node) {
        self.server.edit("", &node.name_any(), |node: &mut Node| {
            node.finalizers_mut().push(FINALIZER.to_owned());
            node.spec.get_or_insert_default().taints = Some(claim.spec.taints.clone());
        });
        let name = node.name_any();
        self.edit(claim, |claim| {
            let status = claim.status.get_or_insert_default();
            status.node_name = Some(name);
            set(&mut status.conditions, "Registered", "True", "Registered");
        });
    }

    fn finalize(&self, claim: &NodeClaim, script: &Script, is_registered: bool) {
        let name = claim.name_any();
        if is_registered && let Some(node) = self.node_of(claim) {
            if node.metadata.deletion_timestamp.is_none() {
                self.server.delete::<Node>("", &node.name_any());
                return;
            }
            let is_hanging =
                script.hang.contains(&name) && !claim.annotations().contains_key(TERMINATION_TIME);
            if !is_hanging {
                self.server.remove::<Node>("", &node.name_any());
            }
            return;
        }
        self.server.remove::<NodeClaim>("", &name);
        if let Some(node) = self.node_of(claim) {
            self.server.remove::<Node>("", &node.name_any());
        }
    }

    fn node_of(&self, claim: &NodeClaim) -> Option<Node> {
        self.server.get("", &format!("vm-{}", claim.name_any()))
    }

    fn edit(&self, claim: &NodeClaim, change: impl FnOnce(&mut NodeClaim)) {
        self.server.edit("", &claim.name_any(), change);
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set(conditions: &mut Vec<ClaimCondition>, kind: &str, status: &str, reason: &str) {
    conditions.retain(|condition| condition.r#type != kind);
    conditions.push(ClaimCondition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        last_transition_time: None,
    });
}

/// A provider's class, so that the fake server can hold one.
#[derive(kube::CustomResource, Clone, Debug, serde::Serialize, serde::Deserialize)]
#[kube(
    group = "karpenter.kwok.sh",
    version = "v1alpha1",
    kind = "KwokClass",
    plural = "kwoknodeclasses",
    schema = "disabled"
)]
pub struct KwokClassSpec {
    #[serde(default)]
    delay: Option<String>,
}

/// A client under this agent, through the operator's own layers, whose server also tells which types it serves.
pub fn client(server: &FakeServer, agent: &str) -> Client {
    client_until(server, agent, None)
}

/// The same, for a process that dies at a write.
pub fn client_until(server: &FakeServer, agent: &str, crash: Option<Arc<CrashPoint>>) -> Client {
    let service = Discovering { inner: server.service(agent), server: server.clone(), crash };
    client::over(service, "default", client::Limits::default(), Metrics::new())
}

/// Answers discovery, which the fake server does not know, and for a kind that is not installed.
#[derive(Clone)]
struct Discovering {
    inner: FakeService,
    server: FakeServer,
    crash: Option<Arc<CrashPoint>>,
}

/// The instruction at which a process dies: its nth write, which never returns to it.
pub struct CrashPoint {
    left: Mutex<usize>,
    when: When,
    reached: Notify,
}

impl CrashPoint {
    /// Before the server acts on the nth write (counted from 1), or after.
    pub fn at_write(n: usize, when: When) -> Self {
        Self { left: Mutex::new(n), when, reached: Notify::new() }
    }

    /// Waits until the process has come to it.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    fn is_this(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.wrapping_sub(1);
        *left == 0
    }
}

type Answer = <FakeService as Service<Request<Body>>>::Response;

impl Service<Request<Body>> for Discovering {
    type Response = Answer;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, tower::BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), tower::BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_write = request.method() != http::Method::GET;
        if let Some(crash) = self.crash.clone().filter(|crash| is_write && crash.is_this()) {
            let acting = self.inner.call(request);
            return Box::pin(async move {
                if crash.when == When::After {
                    let _ = acting.await;
                }
                crash.reached.notify_one();
                std::future::pending().await
            });
        }
        let path = request.uri().path();
        if path.starts_with("/apis/karpenter.sh/") && self.server.get::<Installed>("", INSTALLED).is_none() {
            return Box::pin(async {
                let body = Full::new(bytes::Bytes::from("404 page not found\n"));
                let body = body.map_err(|never| match never {}).boxed_unsync();
                Ok(Response::builder().status(404).body(body)?)
            });
        }
        if path == "/apis" {
            // Every API server has the list of groups.
            let mut groups =
                vec![json!({"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]})];
            if self.server.get::<Installed>("", INSTALLED).is_some() {
                let version = json!({"groupVersion": "karpenter.sh/v1", "version": "v1"});
                groups.push(json!({"name": "karpenter.sh", "versions": [version]}));
            }
            let body = Full::new(bytes::Bytes::from(json!({"groups": groups}).to_string()));
            return Box::pin(async {
                Ok(Response::new(body.map_err(|never| match never {}).boxed_unsync()))
            });
        }
        let Some(found) = discovery(path) else { return self.inner.call(request) };
        Box::pin(async move {
            let body = Full::new(bytes::Bytes::from(found.to_string()));
            Ok(Response::new(body.map_err(|never| match never {}).boxed_unsync()))
        })
    }
}

fn discovery(path: &str) -> Option<Value> {
    let types = |group_version: &str, types: &[(&str, &str)]| {
        let of = |(plural, kind): &(&str, &str)| json!({"name": plural, "kind": kind, "namespaced": false, "singularName": "", "verbs": ["get"]});
        json!({"groupVersion": group_version, "resources": types.iter().map(of).collect::<Vec<_>>()})
    };
    let version = json!({"groupVersion": "karpenter.kwok.sh/v1alpha1", "version": "v1alpha1"});
    match path {
        "/apis/karpenter.sh/v1" => {
            Some(types("karpenter.sh/v1", &[("nodeclaims", "NodeClaim"), ("nodepools", "NodePool")]))
        }
        "/apis/karpenter.kwok.sh" => {
            Some(json!({"name": "karpenter.kwok.sh", "versions": [version], "preferredVersion": version}))
        }
        "/apis/karpenter.kwok.sh/v1alpha1" => {
            Some(types("karpenter.kwok.sh/v1alpha1", &[("kwoknodeclasses", "KWOKNodeClass")]))
        }
        _ => None,
    }
}
