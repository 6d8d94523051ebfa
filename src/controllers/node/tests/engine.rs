//! What engines refuse, forget, or are not there for.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use serde_json::json;
use trainyard_api::cluster_node::{NodeReason, NodeState};
use trainyard_api::names::node_labels;
use trainyard_fake_apiserver::{Fault, Matching, Verb};
use trainyard_model::node::seen::GivenUp;

use super::world::{CLUSTER, Lab, pass};
use crate::provisioner::karpenter::wire::NodeClaim;

#[tokio::test(start_paused = true)]
async fn a_stock_out_is_told_with_the_engines_words_and_not_tried_again() {
    let lab = Lab::new();
    let sold_out = (GivenUp::StockOut, "no capacity for Standard_NC6s_v3 in zone-a".to_owned());
    lab.double.script(|script| _ = script.refuse.insert(CLUSTER.into(), sold_out));
    let name = lab.want(1);
    let status = lab.until(&name, NodeState::Failed, NodeReason::StockOut).await;
    assert!(status.message.as_ref().unwrap().contains("in zone-a"), "{status:?}");
    assert!(status.gone_time.is_some());
    pass(Duration::from_mins(30)).await;
    assert_eq!(lab.creations(), 1);
    assert_eq!(lab.told("MachineFailed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_vanishes_without_a_word_is_a_stock_out_after_a_moment() {
    let lab = Lab::new();
    lab.double.script(|script| {
        script.silent = true;
        script.refuse.insert(CLUSTER.into(), (GivenUp::StockOut, String::new()));
    });
    let name = lab.want(1);
    lab.until(&name, NodeState::Failed, NodeReason::StockOut).await;
    assert_eq!(lab.creations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_class_is_said_and_nothing_is_asked_for_until_it_is_there() {
    let lab = Lab::without_process();
    lab.double.remove_class();
    let name = lab.want(1);
    let _process = lab.process("one");
    let status = lab.until(&name, NodeState::Preparing, NodeReason::EngineUnavailable).await;
    assert!(status.message.unwrap().contains("does not exist"));
    pass(Duration::from_mins(10)).await;
    assert_eq!(lab.creations(), 0);
    lab.double.put_class();
    lab.ready(&name).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_go_though_their_engine_is_not_installed_any_more() {
    let mut lab = Lab::new();
    let (one, two) = (lab.want(1), lab.want(2));
    lab.ready(&one).await;
    lab.ready(&two).await;
    lab.process = None;
    lab.double.uninstall();
    for name in [&one, &two] {
        lab.server.remove::<Node>("", &format!("vm-{name}"));
    }
    lab.release(&one);
    lab.crash();
    lab.gone(&one).await;
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.status(&two).reason, Some(NodeReason::Ready), "it is wanted, and nobody can tell");
    lab.release(&two);
    lab.gone(&two).await;
}

#[tokio::test(start_paused = true)]
async fn the_node_of_a_machine_goes_though_its_engine_is_not_installed_any_more() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    // Without a word: the watch is cut, and cannot be resumed.
    lab.server.cut_watches();
    lab.double.uninstall();
    lab.release(&name);
    lab.gone(&name).await;
    let left = lab.vm(&name).expect("Karpenter's finalizer holds it");
    assert!(left.metadata.deletion_timestamp.is_some(), "nobody will use it again");
}

#[tokio::test(start_paused = true)]
async fn nodes_of_an_engine_that_is_installed_again_are_told_of_again() {
    let mut lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.process = None;
    let claim = lab.double.claim(&name).unwrap();
    lab.double.uninstall();
    lab.crash();
    let new = lab.want(2);
    lab.until(&new, NodeState::Preparing, NodeReason::EngineUnavailable).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Ready));
    lab.double.install();
    lab.server.put(&claim);
    lab.ready(&new).await;
    lab.release(&name);
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn claims_that_cannot_be_listed_yet_are_not_taken_for_gone() {
    let mut lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.process = None;
    lab.server.fail(Matching::any().verb(Verb::List).resource("nodeclaims"), Fault::InternalError);
    lab.release(&name);
    lab.crash();
    pass(Duration::from_mins(10)).await;
    assert_eq!(lab.status(&name).gone_time, None);
    assert!(lab.double.claim(&name).is_some());
    lab.server.heal();
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_strangers_claim_of_our_name_is_left_alone() {
    let lab = Lab::without_process();
    let stranger: NodeClaim = serde_json::from_value(json!({
        "metadata": {"name": "gpu-abcdef-1", "labels": {node_labels::CLUSTER_NODE_UID: "somebody"}},
        "spec": {"requirements": []},
    }))
    .unwrap();
    let uid = lab.server.put(&stranger).uid();
    let name = lab.want(1);
    let _process = lab.process("one");
    lab.until(&name, NodeState::Failed, NodeReason::NameTaken).await;
    lab.release(&name);
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.double.claim(&name).unwrap().uid(), uid);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_answers_is_given_up_and_its_claim_destroyed() {
    let lab = Lab::new();
    lab.double.script(|script| script.idle = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::Requested).await;
    pass(Duration::from_mins(11)).await;
    lab.until(&name, NodeState::Failed, NodeReason::LaunchTimeout).await;
    lab.release(&name);
    lab.gone(&name).await;
}
