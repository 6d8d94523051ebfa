//! What a gang awaits: no other Cluster gets it, whichever process is at work.

use super::*;

fn other_pool() -> Pool {
    Pool { uid: "other-uid".into(), name: "other".into(), ..the_pool() }
}

fn node_of_other(ordinal: i64) -> ClusterNode {
    let mut node = node(ordinal);
    node.metadata.name = Some(format!("other-abcdef-{ordinal}"));
    node.metadata.uid = Some(format!("other-node-uid-{ordinal}"));
    (node.spec.cluster.name, node.spec.cluster.uid) = (other_pool().name, other_pool().uid);
    node
}

impl Bed {
    async fn free_for_other(&self) -> i64 {
        let supply = self.engine.count(&other_pool(), &node_of_other(1).spec).await.unwrap().unwrap();
        supply.counted.free
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_gang_awaits_stays_its_own_while_one_is_taken_after_the_other() {
    let bed = Bed::with(&["vm-1", "vm-2", "vm-3", "vm-4"]).await;
    let gang = [1, 2, 3].map(node);
    bed.engine.set_aside(&the_pool(), &gang[0].spec, 3).await.unwrap();
    assert_eq!(bed.free_for_other().await, 1);
    bed.stored(&gang).await;
    assert_eq!(bed.free_for_other().await, 1, "set aside and awaited is no more than awaited");
    for node in &gang {
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(bed.free_for_other().await, 1);
        bed.taken(node).await;
    }
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(bed.free_for_other().await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_rest_of_a_gang_awaits_no_other_cluster_gets_from_a_process_that_has_just_started() {
    let bed = Bed::with(&["vm-1", "vm-2", "vm-3", "vm-4"]).await;
    let gang = [1, 2, 3, 4].map(node);
    bed.engine.set_aside(&the_pool(), &gang[0].spec, 4).await.unwrap();
    bed.stored(&gang).await;
    for node in &gang[..2] {
        bed.taken(node).await;
    }
    let bed = bed.crashed().await;
    let others = node_of_other(1);
    let supply = bed.engine.set_aside(&other_pool(), &others.spec, 1).await.unwrap().unwrap();
    assert_eq!(
        supply.counted.message, "0 of 4 matching nodes are free: 4 are used by Cluster gpu",
        "it would not be asked for"
    );
    // Nor is one taken for a ClusterNode that is there already.
    tokio::time::advance(Duration::from_secs(2)).await;
    bed.stored(std::slice::from_ref(&others)).await;
    let answer = ask(&bed.engine, &other_pool(), &others).await.unwrap();
    assert!(matches!(answer, Launched::NoneLeft { .. }), "{answer:?}");
    for node in &gang[2..] {
        bed.taken(node).await;
    }
}

/// Somebody has cordoned one meanwhile, so that it is one too few.
#[tokio::test(start_paused = true)]
async fn of_two_gangs_that_await_more_than_there_is_the_one_asked_for_first_gets_all() {
    let bed = Bed::with(&["vm-1", "vm-2", "vm-3"]).await;
    let (first, second) = ([1, 2].map(node), [1, 2].map(node_of_other));
    bed.stored(&first).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    bed.stored(&second).await;
    let mut answers = Vec::new();
    for node in &second {
        answers.push(ask(&bed.engine, &other_pool(), node).await.unwrap());
    }
    assert!(matches!(&answers[..], [Launched::Requested { .. }, Launched::NoneLeft { .. }]), "{answers:?}");
    for node in &first {
        bed.taken(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_awaited_elsewhere_is_nobody_s_loss() {
    let bed = Bed::with(&["vm-1"]).await;
    let mut elsewhere = [1, 2].map(node);
    for node in &mut elsewhere {
        let block = node.spec.engine.static_node.as_mut().unwrap();
        block.node_selector.insert(POOL.to_owned(), "hall".to_owned());
    }
    bed.stored(&elsewhere).await;
    assert_eq!(bed.free_for_other().await, 1);
}

#[rstest]
#[case::released(|node: &mut ClusterNode| {
    node.spec.released = serde_json::from_value(json!("2030-01-01T00:00:00Z")).unwrap();
})]
#[case::failed(|node: &mut ClusterNode| {
    node.status = serde_json::from_value(json!({"state": "Failed", "reason": "StockOut"})).unwrap();
})]
#[tokio::test(start_paused = true)]
async fn what_is_awaited_no_more_is_free_and_who_has_counted_is_told(#[case] change: fn(&mut ClusterNode)) {
    let bed = Bed::with(&["vm-1"]).await;
    let awaiting = node(1);
    bed.engine.set_aside(&the_pool(), &awaiting.spec, 1).await.unwrap();
    bed.stored(std::slice::from_ref(&awaiting)).await;
    assert_eq!(bed.free_for_other().await, 0);
    bed.recounted();
    let mut after = awaiting.clone();
    change(&mut after);
    bed.server.put(&after);
    eventually(|| async {
        let seen = bed.engine.cluster_nodes.get().unwrap().all();
        ensure!(seen[0].spec == after.spec && seen[0].status == after.status, "not seen yet");
        Ok(())
    })
    .await
    .unwrap();
    bed.engine.cluster_node_changed(Some(&awaiting), Some(&after));
    assert_eq!(bed.recounted(), ["other"]);
    assert_eq!(bed.free_for_other().await, 1);
    // Of one that has got its machine, its Node tells.
    let mut served = awaiting.clone();
    served.status = serde_json::from_value(json!({"machineUID": "vm-1"})).unwrap();
    bed.engine.cluster_node_changed(Some(&awaiting), Some(&served));
    assert_eq!(bed.recounted(), [""; 0]);
}
