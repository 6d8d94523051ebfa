#![allow(clippy::unwrap_used)]

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard_api::{cluster_node::StaticNode, names::node_labels};
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb, When};
use trainyard_model::node::seen::GivenUp;

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
    engine.watches(&mut Starting { tasks, metrics: &Metrics::new(), wake });
    eventually(|| async { Ok(engine.followed().map(|_| ())?) }).await.unwrap();
    engine
}

impl Bed {
    async fn new() -> Self {
        let server = FakeServer::new();
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
        let wanted = [Wanted { node: Arc::new(node.clone()), machine: None }];
        let mut answers = self.engine.ensure(&the_pool(), &wanted).await?;
        answers.pop().unwrap().result
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

    async fn hang_drain(&self, _: &Machine) -> Result<()> {
        unreachable!("nothing is drained")
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

#[tokio::test(start_paused = true)]
async fn a_taken_node_says_whose_it_is_and_carries_the_taint_of_the_class() {
    let bed = Bed::with(&["vm-1"]).await;
    assert_eq!(bed.taken(&node(3)).await, "vm-1");
    let taken = bed.node("vm-1");
    let ours: BTreeMap<_, _> =
        taken.labels().iter().filter(|(key, _)| key.starts_with("trainyard.")).collect();
    let mark = taken.labels()[node_labels::ADDED_TAINT].clone();
    assert_eq!(
        serde_json::to_value(ours).unwrap(),
        json!({
            "trainyard.node-restriction.kubernetes.io/cluster": "gpu",
            "trainyard.node-restriction.kubernetes.io/cluster-namespace": "lab",
            "trainyard.node-restriction.kubernetes.io/cluster-node": "gpu-abcdef-3",
            "trainyard.node-restriction.kubernetes.io/cluster-node-uid": "node-uid-3",
            "trainyard.node-restriction.kubernetes.io/cluster-uid": "cluster-uid",
            "trainyard.node-restriction.kubernetes.io/engine": "static",
            "trainyard.node-restriction.kubernetes.io/added-taint": mark,
        })
    );
    assert_eq!(
        serde_json::to_value(taken.spec.unwrap().taints).unwrap(),
        json!([
            {"key": "example.org/slow-disk", "effect": "PreferNoSchedule"},
            {"key": "trainyard.dev/cluster", "value": "gpu", "effect": "NoSchedule"},
        ])
    );
}

/// What the administrator does to a Node, and whether that was before it was taken or meanwhile.
type Deed = fn(&mut Node);

fn taint(node: &mut Node, key: &str, value: &str) {
    let taint = json!({"key": key, "value": value, "effect": "NoSchedule"});
    let spec = node.spec.as_mut().unwrap();
    spec.taints.get_or_insert_default().push(serde_json::from_value(taint).unwrap());
}

#[rstest]
#[case::nothing(|_: &mut Node| {}, |_: &mut Node| {})]
#[case::the_same_taint_before(|node: &mut Node| taint(node, "trainyard.dev/cluster", "gpu"), |_: &mut Node| {})]
#[case::a_taint_meanwhile(|_: &mut Node| {}, |node: &mut Node| taint(node, "example.org/repair", "soon"))]
#[case::a_label_meanwhile(|_: &mut Node| {}, |node: &mut Node| _ = node.labels_mut().insert("example.org/seen".into(), "yes".into()))]
#[case::a_cordon_meanwhile(|_: &mut Node| {}, |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = Some(true))]
#[tokio::test(start_paused = true)]
async fn what_the_administrator_set_stays_and_nothing_else(#[case] before: Deed, #[case] meanwhile: Deed) {
    let bed = Bed::with(&["vm-1"]).await;
    bed.server.edit("", "vm-1", before);
    let mut expected = bed.node("vm-1");
    meanwhile(&mut expected);
    bed.taken(&node(1)).await;
    bed.server.edit("", "vm-1", meanwhile);
    assert_eq!(bed.give_back(&node(1), Drain::Wait).await, ReleaseOutcome::Started);
    assert_eq!(looks(&bed.node("vm-1")), looks(&expected));
}

#[tokio::test(start_paused = true)]
async fn a_cordon_of_ours_goes_and_one_of_the_administrator_s_stays() {
    for (mark, left) in [(true, None), (false, Some(true))] {
        let bed = Bed::with(&["vm-1"]).await;
        bed.taken(&node(1)).await;
        bed.server.edit("", "vm-1", |node: &mut Node| {
            node.spec.as_mut().unwrap().unschedulable = Some(true);
            if mark {
                node.labels_mut().insert(node_labels::CORDONED.to_owned(), "true".to_owned());
            }
        });
        bed.give_back(&node(1), Drain::Wait).await;
        assert_eq!(bed.node("vm-1").spec.unwrap().unschedulable, left);
        assert!(!bed.node("vm-1").labels().contains_key(node_labels::CORDONED));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_changed_between_look_and_write_is_looked_at_again() {
    let bed = Bed::with(&["vm-1"]).await;
    let to_take = || Matching::any().verb(Verb::Patch).resource("nodes");
    let gate = bed.server.pause(to_take(), When::Before);
    let asked = node(1);
    let asking = bed.taken(&asked);
    let meanwhile = async {
        gate.reached().await;
        // A kubelet reports.
        bed.server.edit("", "vm-1", |node: &mut Node| {
            node.annotations_mut().insert("example.org/load".into(), "3".into());
        });
        gate.release();
    };
    let (taken, ()) = tokio::join!(asking, meanwhile);
    assert_eq!(taken, "vm-1");
    assert_eq!(bed.server.count(&to_take()), 2, "the first was refused");
    assert_eq!(bed.node("vm-1").annotations()["example.org/load"], "3");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_another_cluster_took_between_look_and_write_is_left_to_it() {
    let bed = Bed::with(&["vm-1"]).await;
    let gate = bed.server.pause(Matching::any().verb(Verb::Patch).resource("nodes"), When::Before);
    let asked = node(1);
    let asking = bed.ask(&asked);
    let meanwhile = async {
        gate.reached().await;
        bed.server.edit("", "vm-1", |node: &mut Node| {
            for (key, value) in [
                (node_labels::CLUSTER_UID, "another-uid"),
                (node_labels::CLUSTER, "other"),
                (node_labels::CLUSTER_NAMESPACE, "lab"),
            ] {
                node.labels_mut().insert(key.to_owned(), value.to_owned());
            }
        });
        gate.release();
    };
    let (answer, ()) = tokio::join!(asking, meanwhile);
    let Launched::NoneLeft { message } = answer.unwrap() else { panic!("taken twice") };
    assert!(message.contains("Cluster lab/other"), "{message}");
    assert_eq!(bed.node("vm-1").labels()[node_labels::CLUSTER_UID], "another-uid");
}

#[tokio::test(start_paused = true)]
async fn what_a_live_look_has_found_is_said_before_the_cache_knows() {
    let bed = Bed::with(&["vm-1"]).await;
    bed.server.fail(Matching::any().verb(Verb::Watch).resource("nodes"), Fault::InternalError);
    bed.server.cut_watches();
    bed.server.edit("", "vm-1", |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = Some(true));
    let Launched::NoneLeft { message } = bed.ask(&node(1)).await.unwrap() else { panic!("taken") };
    assert_eq!(message, "0 of 1 matching nodes are free: vm-1 is cordoned");
}

/// The answer is lost; the machine is found by the ClusterNode's UID, and not another one taken.
#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_found_again() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    bed.server.fail_nth_write(1, When::After);
    assert!(bed.ask(&node(1)).await.is_err());
    assert_eq!(bed.taken(&node(1)).await, "vm-1");
    let taken = bed.server.list::<Node>();
    let taken = taken.iter().filter(|node| marks::cluster_uid(node.labels()).is_some());
    assert_eq!(taken.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_that_take_for_one_node_one_gives_back() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    let other = {
        let mut tasks = bed.tasks.lock().await;
        started(&bed.server, "other", &mut tasks).await
    };
    let found = looks(&bed.node("vm-1"));
    // The first process has looked for a machine of the node, found none, and sleeps before it takes one.
    let gate =
        bed.server.pause(Matching::any().verb(Verb::Patch).resource("nodes").agent("engine"), When::Before);
    let asked = node(1);
    let asking = bed.ask(&asked);
    let meanwhile = async {
        gate.reached().await;
        // So that the other one chooses another one.
        bed.server.edit("", "vm-1", |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = Some(true));
        eventually(|| async {
            let counted = other.count(&the_pool(), &asked.spec).await?.context("not counted")?.counted;
            ensure!(counted.free == 1, "{counted:?}");
            Ok(())
        })
        .await
        .unwrap();
        let wanted = [Wanted { node: Arc::new(asked.clone()), machine: None }];
        let answers = other.ensure(&the_pool(), &wanted).await.unwrap();
        assert!(matches!(answers[0].result, Ok(Launched::Requested { .. })), "{answers:?}");
        bed.server.edit("", "vm-1", |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = None);
        gate.release();
    };
    let (answer, ()) = tokio::join!(asking, meanwhile);
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(looks(&bed.node("vm-1")), found, "the second machine is given back");
    assert_eq!(bed.taken(&node(1)).await, "vm-2", "and the first one found");
}

#[rstest]
#[case::any(|_: &mut Value| {}, true)]
#[case::of_a_daemon_set(
    |pod: &mut Value| pod["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}]),
    false
)]
#[case::of_the_kubelet(
    |pod: &mut Value| pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"}), false
)]
#[case::that_has_ended(|pod: &mut Value| pod["status"]["phase"] = json!("Succeeded"), false)]
#[case::of_an_earlier_run(
    |pod: &mut Value| pod["metadata"]["labels"] = json!({"trainyard.dev/run-uid": "r"}), true
)]
#[tokio::test(start_paused = true)]
async fn a_node_with_a_pod_of_others_is_passed_over(
    #[case] change: fn(&mut Value),
    #[case] is_in_the_way: bool,
) {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    bed.server.put(&stranger("web", "vm-1", change));
    let aside = bed.engine.set_aside(&the_pool(), &node(1).spec, 2).await.unwrap().unwrap();
    assert_eq!(aside.counted.free, if is_in_the_way { 1 } else { 2 });
    assert_eq!(aside.counted.message.contains("vm-1 carries pod others/web"), is_in_the_way);
    assert_eq!(aside.again_at.is_some(), is_in_the_way, "nothing tells when it goes");
    assert_eq!(bed.taken(&node(1)).await, if is_in_the_way { "vm-2" } else { "vm-1" });
}

#[tokio::test(start_paused = true)]
async fn a_node_is_taken_soon_after_the_pod_of_others_has_gone() {
    let bed = Bed::with(&["vm-1"]).await;
    bed.server.put(&stranger("web", "vm-1", |_| {}));
    let Launched::NoneLeft { message } = bed.ask(&node(1)).await.unwrap() else { panic!("taken") };
    assert_eq!(message, "0 of 1 matching nodes are free: vm-1 carries pod others/web");
    bed.server.remove::<k8s_openapi::api::core::v1::Pod>("others", "web");
    let supply = bed.engine.count(&the_pool(), &node(1).spec).await.unwrap().unwrap();
    assert_eq!(supply.counted.free, 0, "nobody has told");
    let wait = supply.again_at.unwrap().duration_since(bed.engine.clock.now());
    assert!(wait <= jiff::SignedDuration::from_secs(30), "{wait}");
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(bed.taken(&node(1)).await, "vm-1");
}

#[tokio::test(start_paused = true)]
async fn a_node_smaller_than_the_size_is_named_and_never_taken() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    bed.server.edit("", "vm-1", |node: &mut Node| {
        let status = node.status.as_mut().unwrap();
        status.allocatable.as_mut().unwrap().remove("nvidia.com/gpu");
    });
    let counted = bed.seen(|counted| counted.free == 1).await;
    assert_eq!(counted.message, "1 of 2 matching nodes are free: vm-1 has 0 of 1 nvidia.com/gpu");
    assert_eq!(counted.too_small.unwrap().nodes, 1);
    assert_eq!(bed.taken(&node(1)).await, "vm-2");
    assert!(matches!(bed.ask(&node(2)).await.unwrap(), Launched::NoneLeft { .. }));
}

#[tokio::test(start_paused = true)]
async fn smaller_machines_are_taken_before_larger_ones() {
    let bed = Bed::with(&["a-large", "b-small"]).await;
    bed.server.edit("", "a-large", |node: &mut Node| {
        let status = node.status.as_mut().unwrap();
        for amounts in [&mut status.capacity, &mut status.allocatable] {
            amounts
                .as_mut()
                .unwrap()
                .insert("nvidia.com/gpu".into(), serde_json::from_value(json!("8")).unwrap());
        }
    });
    eventually(|| async {
        let survey = bed.engine.survey(&the_pool(), &node(1).spec)?;
        ensure!(survey.fit()[0].node.name == "b-small", "not seen yet");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(bed.taken(&node(1)).await, "b-small");
    assert_eq!(bed.taken(&node(2)).await, "a-large");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_may_not_be_written_to_is_passed_over_with_the_words_of_the_refusal() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    let to_vm_1 = Matching::any().verb(Verb::Patch).resource("nodes").name("vm-1");
    bed.server.fail(to_vm_1, Fault::ForbiddenBecause("a policy protects vm-1".into()));
    assert_eq!(bed.taken(&node(1)).await, "vm-2");
    let Launched::NoneLeft { message } = bed.ask(&node(2)).await.unwrap() else { panic!("taken") };
    assert!(message.contains("vm-1 cannot be written to: "), "{message}");
    assert!(message.contains("a policy protects vm-1"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn who_has_counted_is_told_when_the_count_is_another_one_and_only_then() {
    let bed = Bed::with(&["vm-1"]).await;
    bed.recounted();
    bed.counted().await;
    // A kubelet reports, and a machine of another class comes.
    bed.server.edit("", "vm-1", |node: &mut Node| {
        node.annotations_mut().insert("example.org/load".into(), "3".into());
    });
    bed.server.put(&machine("vm-9", "hall"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bed.recounted(), [""; 0]);

    bed.server.edit("", "vm-1", |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = Some(true));
    eventually(|| async {
        ensure!(bed.recounted() == ["gpu"], "not told");
        Ok(())
    })
    .await
    .unwrap();
    bed.server.edit("", "vm-1", |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bed.recounted(), [""; 0], "it has not asked again");
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_and_not_asked_for_is_free_again() {
    let bed = Bed::with(&["vm-1"]).await;
    let other = Pool { uid: "other-uid".into(), name: "other".into(), ..the_pool() };
    bed.engine.set_aside(&other, &node(1).spec, 1).await.unwrap();
    let supply = bed.engine.count(&the_pool(), &node(1).spec).await.unwrap().unwrap();
    assert_eq!(supply.counted.message, "0 of 1 matching nodes are free: 1 is used by Cluster lab/other");
    let until = supply.again_at.unwrap().duration_since(bed.engine.clock.now());
    tokio::time::advance(until.unsigned_abs()).await;
    assert_eq!(bed.counted().await.free, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_not_given_back() {
    let bed = Bed::with(&["vm-1"]).await;
    bed.taken(&node(1)).await;
    kubelet(&bed.server, "vm-1", "Unknown");
    let outcome = bed.give_back(&node(1), Drain::Skip).await;
    assert!(matches!(&outcome, ReleaseOutcome::Refused(why) if why.contains("vm-1")), "{outcome:?}");
    assert!(marks::cluster_uid(bed.node("vm-1").labels()).is_some());
    kubelet(&bed.server, "vm-1", "True");
    assert_eq!(bed.give_back(&node(1), Drain::Skip).await, ReleaseOutcome::Started);
}

#[tokio::test(start_paused = true)]
async fn machines_of_karpenter_are_neither_taken_nor_told() {
    let bed = Bed::new().await;
    let mut made = machine("made", "lab");
    made.labels_mut().insert(node_labels::CLUSTER_UID.into(), "cluster-uid".into());
    bed.server.put(&made);
    let counted = bed.seen(|counted| counted.matching == 1).await;
    assert_eq!(counted.free, 0);
    assert!(bed.engine.observe(&the_pool()).await.unwrap().machines.is_empty());
    assert_eq!(bed.engine.look_up(&the_pool(), &node(1)).await.unwrap(), None);
}
