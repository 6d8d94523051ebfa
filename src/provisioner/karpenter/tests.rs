#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use trainyard_api::ClusterNode;
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb};
use trainyard_model::node::seen::{GivenUp, Machine};

use super::{
    double::{self, Double},
    *,
};
use crate::{
    clock::TokioClock,
    provisioner::{
        RefusalCode,
        conformance::{self, World, eventually},
        static_nodes::double::kubelet,
    },
    tasks::Tasks,
    telemetry::metrics::Metrics,
};

/// Karpenter's double behind the engine.
struct Bed {
    double: Double,
    engine: Arc<Karpenter>,
    tasks: tokio::sync::Mutex<Tasks>,
}

/// An engine, its watches filled.
async fn started(client: Client, tasks: &mut Tasks) -> Arc<Karpenter> {
    let engine = Arc::new(Karpenter::new(client.clone(), Arc::new(TokioClock::default())));
    let wake = Arc::new(|_: Woken<'_>| {});
    let cluster_nodes = &conformance::cluster_nodes(client, tasks);
    engine.watches(&mut Starting { tasks, metrics: &Metrics::new(), wake, cluster_nodes });
    eventually(|| async { Ok(engine.followed().map(|_| ())?) }).await.unwrap();
    engine
}

impl Bed {
    async fn new() -> Self {
        let server = FakeServer::new();
        let mut tasks = Tasks::new(CancellationToken::new());
        let double = Double::start(&server, &mut tasks);
        let engine = started(double::client(&server, "engine"), &mut tasks).await;
        Self { double, engine, tasks: tokio::sync::Mutex::new(tasks) }
    }
}

#[async_trait]
impl World for Bed {
    fn engine(&self) -> Arc<dyn Provisioner> {
        Arc::clone(&self.engine) as Arc<dyn Provisioner>
    }

    async fn restarted(&self) -> Result<Arc<dyn Provisioner>> {
        let client = double::client(&self.double.server, "restarted");
        let mut tasks = self.tasks.lock().await;
        Ok(started(client, &mut tasks).await)
    }

    fn block(&self, _: &Pool) -> Engine {
        conformance::karpenter_block(double::class())
    }

    async fn refuse(&self, pool: &Pool, cause: Option<(GivenUp, &str)>) -> Result<String> {
        self.double.script(|script| match cause {
            Some((cause, words)) => _ = script.refuse.insert(pool.uid.clone(), (cause, words.to_owned())),
            None => _ = script.refuse.remove(&pool.uid),
        });
        Ok(cause.map(|(_, words)| words.to_owned()).unwrap_or_default())
    }

    async fn remove_behind(&self, machine: &Machine) -> Result<()> {
        assert!(self.double.server.delete::<NodeClaim>("", &machine.name));
        Ok(())
    }

    async fn take_name(&self, name: &str) -> Result<String> {
        let claim: NodeClaim =
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"requirements": []}}))?;
        self.double.server.put(&claim).uid().context("no UID")
    }

    async fn stands(&self, name: &str, uid: &str) -> Result<bool> {
        let claim = self.double.claim(name);
        Ok(claim.is_some_and(|claim| {
            claim.uid().as_deref() == Some(uid) && claim.metadata.deletion_timestamp.is_none()
        }))
    }

    async fn occupy(&self, machine: &Machine) -> Result<()> {
        self.double.script(|script| _ = script.hang.insert(machine.name.clone()));
        Ok(())
    }

    async fn lose(&self, machine: &Machine) -> Result<()> {
        let node = machine.node.as_ref().context("no Node")?;
        kubelet(&self.double.server, &node.name, "Unknown");
        Ok(())
    }

    async fn break_class(&self, _: &Pool, broken: bool) -> Result<String> {
        if broken {
            self.double.remove_class();
        } else {
            self.double.put_class();
        }
        Ok(double::class().name)
    }
}

#[tokio::test(start_paused = true)]
async fn karpenter_keeps_every_promise_of_an_engine() {
    conformance::run(&Bed::new().await).await.unwrap();
}

fn node() -> ClusterNode {
    serde_json::from_value(json!({
        "metadata": {"name": "gpu-abcdef-3", "namespace": "lab", "uid": "node-uid"},
        "spec": {
            "cluster": {"name": "gpu", "uid": "cluster-uid"},
            "ordinal": 3,
            "vmSize": {"sizeName": "Standard_NC6s_v3", "vcpus": 6, "memory": "112Gi"},
            "engine": {"karpenter": {
                "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"},
                "requirements": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}],
                "instanceType": "Standard_NC6s_v3",
                "capacityType": "spot",
                "zones": ["zone-b"],
                "requests": {"cpu": "5", "nvidia.com/gpu": "1"},
            }},
            "taint": {"key": "trainyard.dev/cluster", "value": "gpu", "effect": "NoSchedule"},
        },
    }))
    .unwrap()
}

fn the_pool() -> Pool {
    Pool { namespace: "lab".into(), name: "gpu".into(), uid: "cluster-uid".into() }
}

#[test]
fn a_claim_says_all_that_the_node_says_and_nothing_else() {
    let node = node();
    let claim = claim::build(&node, node.spec.engine.karpenter.as_ref().unwrap());
    let written = serde_json::to_value(&claim).unwrap();
    assert_eq!(
        written,
        json!({
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodeClaim",
            "metadata": {
                "name": "gpu-abcdef-3",
                "annotations": {"karpenter.sh/do-not-disrupt": "true"},
                "labels": {
                    "karpenter.sh/nodepool": "trainyard-cluster-uid",
                    "trainyard.node-restriction.kubernetes.io/cluster": "gpu",
                    "trainyard.node-restriction.kubernetes.io/cluster-namespace": "lab",
                    "trainyard.node-restriction.kubernetes.io/cluster-node": "gpu-abcdef-3",
                    "trainyard.node-restriction.kubernetes.io/cluster-node-uid": "node-uid",
                    "trainyard.node-restriction.kubernetes.io/cluster-uid": "cluster-uid",
                },
            },
            "spec": {
                "expireAfter": "Never",
                "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"},
                "requirements": [
                    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]},
                    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]},
                    {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
                    {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-b"]},
                    {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
                ],
                "resources": {"requests": {"cpu": "5", "nvidia.com/gpu": "1"}},
                "taints": [{"key": "trainyard.dev/cluster", "value": "gpu", "effect": "NoSchedule"}],
            },
        })
    );
}

#[test]
fn a_class_that_requires_an_operating_system_gets_that_one_only() {
    let mut node = node();
    let engine = node.spec.engine.karpenter.as_mut().unwrap();
    engine.requirements[0].key = "kubernetes.io/os".into();
    engine.requirements[0].values = vec!["windows".into()];
    let claim = claim::build(&node, node.spec.engine.karpenter.as_ref().unwrap());
    let os: Vec<_> = claim.spec.requirements.iter().filter(|one| one.key == "kubernetes.io/os").collect();
    assert_eq!(os.len(), 1);
    assert_eq!(os[0].values, ["windows"]);
}

#[test]
fn last_words_are_told_from_other_events() {
    let event = |reason: &str, message: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": {},
            "involvedObject": {"kind": "NodeClaim", "name": "n", "uid": "u"},
            "reason": reason,
            "message": message,
        }))
        .unwrap()
    };
    for (reason, said, cause) in [
        ("InsufficientCapacityError", "NodeClaim n event: no capacity in zone 2", Some(GivenUp::StockOut)),
        ("InsufficientCapacityError", "SubscriptionQuotaReached for family X", Some(GivenUp::Quota)),
        ("InsufficientCapacityError", "VcpuLimitExceeded: you have requested more", Some(GivenUp::Quota)),
        (
            "InsufficientCapacityError",
            "resolving nodeclass, KWOKNodeClass \"x\" not found",
            Some(GivenUp::Refused),
        ),
        ("AsyncProvisioningError", "AllocationFailure", Some(GivenUp::StockOut)),
        ("NodeClassNotReady", "NodeClass is not ready", Some(GivenUp::Refused)),
        ("SpotInterrupted", "", Some(GivenUp::Preempted)),
        ("DisruptionBlocked", "NodePool not found", None),
        ("FailedDraining", "", None),
    ] {
        assert_eq!(
            words::last_words(&event(reason, said)).map(|words| words.cause),
            cause,
            "{reason}: {said}"
        );
    }
    let words =
        words::last_words(&event("InsufficientCapacityError", "NodeClaim n event: none left")).unwrap();
    assert_eq!(words.message, "none left");
    let mut pod = event("InsufficientCapacityError", "");
    pod.involved_object.kind = Some("Pod".into());
    assert_eq!(words::last_words(&pod), None);
}

#[tokio::test(start_paused = true)]
async fn each_refusal_names_what_to_mend() {
    let bed = Bed::new().await;
    let (pool, mut node) = (the_pool(), node());
    let ask = async |node: &ClusterNode| match bed.engine.validate(&pool, &node.spec.engine).await.unwrap() {
        Validity::Usable => None,
        Validity::Refused(refusal) => Some((refusal.code, refusal.message)),
    };
    let later = || tokio::time::advance(std::time::Duration::from_mins(1));
    assert_eq!(ask(&node).await, None);

    bed.double.server.put(
        &serde_json::from_value::<double::KwokClass>(json!({
            "metadata": {"name": "default"},
            "spec": {},
        }))
        .unwrap(),
    );
    later().await;
    assert_eq!(ask(&node).await, None, "a class without conditions is usable");

    bed.double.remove_class();
    assert_eq!(ask(&node).await, None, "answered from memory for some seconds");
    later().await;
    let (code, message) = ask(&node).await.unwrap();
    assert_eq!(code, RefusalCode::ClassNotFound);
    assert!(message.contains("KWOKNodeClass.karpenter.kwok.sh default"), "{message}");

    node.spec.engine.karpenter.as_mut().unwrap().node_class_ref.group = "karpenter.azure.com".into();
    let (code, message) = ask(&node).await.unwrap();
    assert_eq!(code, RefusalCode::ClassNotFound);
    assert!(message.contains("no kind KWOKNodeClass in group karpenter.azure.com"), "{message}");
    node.spec.engine.karpenter.as_mut().unwrap().node_class_ref.group = "karpenter.kwok.sh".into();

    bed.double.put_class();
    bed.double.server.fail(Matching::any().verb(Verb::Get).resource("kwoknodeclasses"), Fault::Forbidden);
    later().await;
    let (code, message) = ask(&node).await.unwrap();
    assert_eq!(code, RefusalCode::ClassForbidden);
    assert!(message.contains("grant"), "{message}");
    bed.double.server.heal();

    let pool_of_a_person: NodePool =
        serde_json::from_value(json!({"metadata": {"name": "trainyard-cluster-uid"}, "spec": {}})).unwrap();
    bed.double.server.put(&pool_of_a_person);
    later().await;
    let (code, message) = ask(&node).await.unwrap();
    assert_eq!(code, RefusalCode::PoolNameTaken);
    assert!(message.contains("delete NodePool trainyard-cluster-uid"), "{message}");
}

#[derive(kube::CustomResource, Clone, Debug, serde::Serialize, serde::Deserialize)]
#[kube(group = "karpenter.sh", version = "v1", kind = "NodePool", plural = "nodepools", schema = "disabled")]
struct NodePoolSpec {}

#[tokio::test(start_paused = true)]
async fn a_server_without_karpenter_is_said_to_lack_it() {
    // Nothing is installed on it.
    let server = FakeServer::new();
    let engine = Karpenter::new(double::client(&server, "engine"), Arc::new(TokioClock::default()));
    let Validity::Refused(refusal) = engine.validate(&the_pool(), &node().spec.engine).await.unwrap() else {
        panic!("usable without Karpenter");
    };
    assert_eq!(refusal.code, RefusalCode::EngineUnavailable);
    assert!(engine.observe(&the_pool()).await.is_err(), "nothing can be said before the watches have listed");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_404_to_everything_is_not_one_without_karpenter() {
    let server = FakeServer::new();
    let engine = Karpenter::new(server.client("engine"), Arc::new(TokioClock::default()));
    assert!(engine.validate(&the_pool(), &node().spec.engine).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaked_is_told_whether_or_not_our_labels_reached_it() {
    let bed = Bed::new().await;
    let labels = |with_owner: bool| {
        let mut labels = BTreeMap::from([(NODE_POOL_LABEL.to_owned(), "trainyard-cluster-uid".to_owned())]);
        if with_owner {
            labels.extend(claim::labels(&node()));
        }
        labels
    };
    for (name, with_owner) in [("plain", false), ("labelled", true)] {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels(with_owner)}}))
                .unwrap();
        bed.double.server.put(&node);
    }
    let of_a_person: Node =
        serde_json::from_value(json!({"metadata": {"name": "x", "labels": {NODE_POOL_LABEL: "default"}}}))
            .unwrap();
    bed.double.server.put(&of_a_person);
    let machines = eventually(|| async {
        let machines = bed.engine.observe(&the_pool()).await?.machines;
        anyhow::ensure!(machines.len() == 2, "{machines:?}");
        Ok(machines)
    })
    .await
    .unwrap();
    assert!(machines.iter().all(|machine| machine.backing.is_none()));
    let owned: Vec<_> = machines.iter().filter(|machine| machine.owner.is_some()).collect();
    assert_eq!(owned.len(), 1);

    for machine in &machines {
        let release = Release { machine: Box::new(Doomed::of(machine)), drain: Drain::Wait };
        let answers = bed.engine.release(&the_pool(), &[release]).await;
        assert_eq!(answers[0].result.as_ref().unwrap(), &ReleaseOutcome::Started);
    }
    let left: Vec<_> = bed.double.server.list::<Node>().iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(left, ["x"], "the person's Node stays");
}
