//! What may ask for a machine, and how many.

use std::time::Duration;

use serde_json::json;
use trainyard_api::Cluster;
use trainyard_api::cluster_node::{NodeReason, NodeState};

use super::world::{Lab, NAMESPACE, pass};

#[tokio::test(start_paused = true)]
async fn no_machine_is_asked_for_beyond_max_nodes_and_smaller_ordinals_go_first() {
    let lab = Lab::without_process();
    lab.cluster(2);
    let names: Vec<_> = (1..=4).map(|ordinal| lab.want(ordinal)).collect();
    let _process = lab.process("one");
    lab.ready(&names[0]).await;
    lab.ready(&names[1]).await;
    pass(Duration::from_mins(2)).await;
    assert_eq!(lab.claims(), names[..2]);
    lab.until(&names[2], NodeState::Preparing, NodeReason::Pending).await;

    lab.release(&names[0]);
    lab.ready(&names[2]).await;
    pass(Duration::from_mins(2)).await;
    assert_eq!(lab.claims(), names[1..3]);
    // Raising the limit is seen without anything else happening.
    lab.cluster(3);
    lab.ready(&names[3]).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_stands_or_leaves_takes_its_place_before_one_that_is_wanted() {
    let lab = Lab::without_process();
    lab.cluster(1);
    let later = lab.want(2);
    let _process = lab.process("one");
    lab.ready(&later).await;
    let earlier = lab.want(1);
    pass(Duration::from_mins(2)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&later));

    lab.double.script(|script| _ = script.hang.insert(later.clone()));
    lab.release(&later);
    pass(Duration::from_mins(1)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&later), "it is released and still there");
    lab.double.script(|script| script.hang.clear());
    lab.gone(&later).await;
    lab.ready(&earlier).await;
    assert_eq!(lab.claims(), [earlier]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_gone_or_replaced_gets_no_machine() {
    let lab = Lab::without_process();
    lab.server.remove::<Cluster>(NAMESPACE, "gpu");
    let name = lab.want(1);
    let _process = lab.process("one");
    pass(Duration::from_mins(1)).await;
    assert_eq!(lab.creations(), 0);
    let other: Cluster = serde_json::from_value(json!({
        "metadata": {"name": "gpu", "namespace": NAMESPACE, "uid": "another"},
        "spec": {"vmSize": "x", "scale": {"maxNodes": 4}},
    }))
    .unwrap();
    lab.server.put(&other);
    pass(Duration::from_mins(1)).await;
    assert_eq!(lab.creations(), 0);
    lab.release(&name);
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn two_controllers_at_once_make_one_machine_for_each_node() {
    let lab = Lab::without_process();
    let names: Vec<_> = (1..=4).map(|ordinal| lab.want(ordinal)).collect();
    let _both = (lab.process("one"), lab.process("two"));
    for name in &names {
        lab.ready(name).await;
    }
    assert_eq!(lab.claims(), names);
    for name in &names {
        lab.release(name);
    }
    for name in &names {
        lab.gone(name).await;
    }
    assert!(lab.claims().is_empty());
}
