//! Machines that were there before: taken, lost, kept from use, given back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use trainyard_api::{
    ClusterNode,
    cluster_node::{NodeReason, NodeState},
    names::{labels, node_labels},
};
use trainyard_fake_apiserver::{Matching, Verb, When};

use super::world::{Lab, NAMESPACE, pass};
use crate::provisioner::{
    EngineKind, Pool,
    conformance::eventually,
    static_nodes::{
        double::{POOL, kubelet, looks, machine, stranger},
        marks,
    },
};

/// A lab whose administrator has put these machines there.
fn lab_with(machines: &[&str]) -> Lab {
    let lab = Lab::new();
    for name in machines {
        lab.server.put(&machine(name, "lab"));
    }
    lab
}

impl Lab {
    fn want_found(&self, ordinal: i64) -> String {
        self.want_of(&json!({"static": {"nodeSelector": {POOL: "lab"}}}), ordinal)
    }

    fn looks(&self, name: &str) -> Value {
        looks(&self.server.get::<Node>("", name).unwrap())
    }

    /// The machines that were taken, by the ClusterNodes they name.
    fn taken(&self) -> Vec<(String, String)> {
        let nodes = self.server.list::<Node>();
        let taken = nodes.iter().filter(|node| marks::cluster_uid(node.labels()).is_some());
        taken.map(|node| (node.name_any(), node.labels()[node_labels::CLUSTER_NODE].clone())).collect()
    }

    fn node_writes(&self) -> usize {
        self.server.count(&Matching::writes().resource("nodes"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_taken_serves_and_is_given_back_as_it_was() {
    let lab = lab_with(&["vm-a"]);
    let found = lab.looks("vm-a");
    let name = lab.want_found(1);
    let status = lab.ready(&name).await;
    assert_eq!(status.node_name.as_deref(), Some("vm-a"));
    assert_eq!(status.machine_uid, status.node_uid);
    assert_eq!(status.zone.as_deref(), Some("hall-1"));
    assert_eq!(lab.taken(), [("vm-a".to_owned(), name.clone())]);
    lab.release(&name);
    lab.gone(&name).await;
    assert_eq!(lab.looks("vm-a"), found);
    assert_eq!(lab.node_writes(), 4, "taken, kept, cordoned, given back");
    lab.forget(&name);

    // And it serves the next one.
    let next = lab.want_found(2);
    lab.ready(&next).await;
    assert_eq!(lab.taken(), [("vm-a".to_owned(), next)]);
}

#[tokio::test(start_paused = true)]
async fn a_cordon_of_the_administrator_outlives_the_node() {
    let lab = lab_with(&["vm-a"]);
    let name = lab.want_found(1);
    lab.ready(&name).await;
    lab.server.edit("", "vm-a", |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = Some(true));
    lab.until(&name, NodeState::Idle, NodeReason::Cordoned).await;
    lab.release(&name);
    lab.gone(&name).await;
    assert_eq!(lab.looks("vm-a")["spec"]["unschedulable"], true);
}

#[tokio::test(start_paused = true)]
async fn with_no_machine_free_the_node_fails_at_once_and_says_what_there_is() {
    let lab = lab_with(&["vm-a"]);
    let first = lab.want_found(1);
    lab.ready(&first).await;
    let second = lab.want_found(2);
    let status = lab.until(&second, NodeState::Failed, NodeReason::StockOut).await;
    assert_eq!(status.message.as_deref(), Some("0 of 1 matching nodes are free: 1 is used by this Cluster"));
    assert!(status.gone_time.is_some());
    let before = lab.node_writes();
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.node_writes(), before);
}

#[tokio::test(start_paused = true)]
async fn a_machine_taken_by_a_process_that_died_before_it_wrote_that_down_is_found_again() {
    let mut lab = lab_with(&["vm-a", "vm-b"]);
    // It has taken a machine, and its status is never written.
    let status = Matching::any().verb(Verb::Patch).resource("clusternodes/status");
    let gate = lab.server.pause(status, When::Before);
    let name = lab.want_found(1);
    gate.reached().await;
    assert_eq!(lab.taken(), [("vm-a".to_owned(), name.clone())]);
    lab.crash();
    drop(gate);
    let status = lab.ready(&name).await;
    assert_eq!(status.node_name.as_deref(), Some("vm-a"));
    assert_eq!(lab.taken().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_taken_by_a_process_that_died_before_its_second_look_is_looked_at_before_it_serves() {
    let mut lab = lab_with(&["vm-a", "vm-b"]);
    let found = lab.looks("vm-a");
    let gate = lab.server.pause(Matching::any().verb(Verb::Patch).resource("nodes"), When::After);
    let name = lab.want_found(1);
    gate.reached().await;
    lab.server.put(&stranger("web", "vm-a", |_| {}));
    lab.crash();
    drop(gate);
    let status = lab.ready(&name).await;
    assert_eq!(status.node_name.as_deref(), Some("vm-b"));
    assert_eq!(lab.taken(), [("vm-b".to_owned(), name)]);
    assert_eq!(lab.looks("vm-a"), found);
}

#[tokio::test(start_paused = true)]
async fn a_machine_taken_and_not_looked_at_again_is_given_back_with_its_node() {
    let mut lab = lab_with(&["vm-a"]);
    let found = lab.looks("vm-a");
    let gate = lab.server.pause(Matching::any().verb(Verb::Patch).resource("nodes"), When::After);
    let name = lab.want_found(1);
    gate.reached().await;
    lab.process = None;
    drop(gate);
    lab.release(&name);
    lab.crash();
    lab.gone(&name).await;
    assert_eq!(lab.looks("vm-a"), found);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_a_node_awaits_is_told_when_it_awaits_it_no_more() {
    let lab = lab_with(&["vm-a"]);
    // It may have no machine for now.
    lab.cluster(0);
    let name = lab.want_found(1);
    let node = lab.server.get::<ClusterNode>(NAMESPACE, &name).unwrap();
    let other = Pool { namespace: NAMESPACE.into(), name: "other".into(), uid: "other".into() };
    let engine = lab.engine(EngineKind::Static);
    let free = async || -> anyhow::Result<i64> {
        let supply = engine.count(&other, &node.spec).await?;
        Ok(supply.context("not counted")?.counted.free)
    };
    eventually(|| async {
        ensure!(free().await? == 0, "its ClusterNode is not seen");
        Ok(())
    })
    .await
    .unwrap();
    lab.recounted();
    lab.release(&name);
    eventually(|| async {
        ensure!(lab.recounted() == ["other"], "not told");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(free().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_is_kept_until_it_is_back_and_empty() {
    let lab = lab_with(&["vm-a"]);
    let found = lab.looks("vm-a");
    let name = lab.want_found(1);
    lab.ready(&name).await;
    lab.pod("a");
    kubelet(&lab.server, "vm-a", "Unknown");
    pass(Duration::from_secs(61)).await;
    lab.until(&name, NodeState::Unusable, NodeReason::Lost).await;
    lab.release(&name);
    pass(Duration::from_hours(1)).await;
    let status = lab.status(&name);
    assert!(status.message.as_ref().unwrap().contains("until Node vm-a is ready again"), "{status:?}");
    assert_eq!(status.gone_time, None);
    assert_eq!(lab.taken().len(), 1);
    let quiet = (lab.server.requests().len(), lab.node_writes());
    pass(Duration::from_mins(1)).await;
    let asked = lab.server.requests().split_off(quiet.0);
    let asked: Vec<_> = asked.iter().filter(|request| request.verb != Verb::Watch).collect();
    assert!(asked.is_empty(), "it is waited for, not asked about: {asked:?}");

    // Back, with the pod it had.
    kubelet(&lab.server, "vm-a", "True");
    pass(Duration::from_mins(1)).await;
    let status = lab.status(&name);
    assert!(status.message.as_ref().unwrap().contains("is back; pod lab/mnist-worker-0"), "{status:?}");
    assert_eq!(lab.taken().len(), 1);
    assert_eq!(lab.looks("vm-a")["spec"]["unschedulable"], true, "nothing more goes there");

    lab.server.remove::<Pod>(NAMESPACE, "mnist-worker-0");
    lab.gone(&name).await;
    assert_eq!(lab.looks("vm-a"), found);
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Lost));
}

/// Its Run may be over, allocated elsewhere or gone by then, and vouches for nothing.
#[tokio::test(start_paused = true)]
async fn a_lost_machine_is_not_given_back_under_a_pod_of_another_namespace() {
    let lab = lab_with(&["vm-a"]);
    let name = lab.want_found(1);
    lab.ready(&name).await;
    kubelet(&lab.server, "vm-a", "Unknown");
    pass(Duration::from_secs(61)).await;
    lab.until(&name, NodeState::Unusable, NodeReason::Lost).await;
    let pod = stranger("left-over", "vm-a", |pod| pod["metadata"]["labels"] = json!({labels::RUN_UID: "r"}));
    lab.server.put(&pod);
    lab.release(&name);
    kubelet(&lab.server, "vm-a", "True");
    pass(Duration::from_mins(5)).await;
    assert_eq!(lab.taken().len(), 1);
    assert_eq!(lab.looks("vm-a")["spec"]["unschedulable"], true);
    lab.server.remove::<Pod>("others", "left-over");
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_whose_node_is_deleted_is_gone() {
    let lab = lab_with(&["vm-a"]);
    let name = lab.want_found(1);
    lab.ready(&name).await;
    kubelet(&lab.server, "vm-a", "Unknown");
    pass(Duration::from_secs(61)).await;
    lab.release(&name);
    pass(Duration::from_mins(1)).await;
    assert_eq!(lab.status(&name).gone_time, None);
    lab.server.remove::<Node>("", "vm-a");
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_cluster_node_is_gone_is_given_back_after_a_while() {
    let lab = lab_with(&["vm-a"]);
    let found = lab.looks("vm-a");
    let name = lab.want_found(1);
    lab.ready(&name).await;
    lab.forget(&name);
    eventually(|| async {
        ensure!(lab.told("StrayMachine") == 1, "nobody is told");
        Ok(())
    })
    .await
    .unwrap();
    pass(Duration::from_mins(14)).await;
    assert_eq!(lab.taken().len(), 1);
    pass(Duration::from_mins(2)).await;
    assert_eq!(lab.looks("vm-a"), found);
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_whose_cluster_node_is_gone_is_kept_until_it_is_back() {
    let lab = lab_with(&["vm-a"]);
    let found = lab.looks("vm-a");
    let name = lab.want_found(1);
    lab.ready(&name).await;
    kubelet(&lab.server, "vm-a", "Unknown");
    lab.forget(&name);
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.taken().len(), 1);
    kubelet(&lab.server, "vm-a", "True");
    pass(Duration::from_secs(10)).await;
    assert_eq!(lab.looks("vm-a"), found);
}

/// What two processes that died in the same instant can leave: two machines for one ClusterNode.
#[tokio::test(start_paused = true)]
async fn of_two_machines_that_name_one_cluster_node_the_other_one_is_given_back() {
    let lab = lab_with(&["vm-a", "vm-b"]);
    let found = lab.looks("vm-b");
    let name = lab.want_found(1);
    lab.ready(&name).await;
    let node = lab.server.get::<ClusterNode>(NAMESPACE, &name).unwrap();
    let fields = marks::taken(&lab.server.get("", "vm-b").unwrap(), &node);
    let nodes = Api::<Node>::all(lab.server.client("other"));
    nodes.patch("vm-b", &PatchParams::default(), &Patch::Merge(fields)).await.unwrap();
    assert_eq!(lab.taken().len(), 2);
    pass(Duration::from_mins(16)).await;
    assert_eq!(lab.taken(), [("vm-a".to_owned(), name.clone())]);
    assert_eq!(lab.looks("vm-b"), found);
    let status = lab.ready(&name).await;
    assert_eq!(status.node_name.as_deref(), Some("vm-a"));
}
