//! Counting Nodes: what is passed over and said of them, what is set aside, who is told.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_live_look_has_found_is_said_before_the_cache_knows() {
    let bed = Bed::with(&["vm-1"]).await;
    bed.server.fail(Matching::any().verb(Verb::Watch).resource("nodes"), Fault::InternalError);
    bed.server.cut_watches();
    bed.server.edit("", "vm-1", |node: &mut Node| node.spec.as_mut().unwrap().unschedulable = Some(true));
    let Launched::NoneLeft { message } = bed.ask(&node(1)).await.unwrap() else { panic!("taken") };
    assert_eq!(message, "0 of 1 matching nodes are free: vm-1 is cordoned");
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
    assert_eq!(aside.counted.message.contains("vm-1 carries pods of others"), is_in_the_way);
    assert_eq!(aside.again_at.is_some(), is_in_the_way, "nothing tells when it goes");
    assert_eq!(bed.taken(&node(1)).await, if is_in_the_way { "vm-2" } else { "vm-1" });
}

#[tokio::test(start_paused = true)]
async fn a_node_is_taken_soon_after_the_pod_of_others_has_gone() {
    let bed = Bed::with(&["vm-1"]).await;
    bed.server.put(&stranger("web", "vm-1", |_| {}));
    let Launched::NoneLeft { message } = bed.ask(&node(1)).await.unwrap() else { panic!("taken") };
    assert_eq!(message, "0 of 1 matching nodes are free: vm-1 carries pods of others");
    bed.server.remove::<Pod>("others", "web");
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
    assert_eq!(supply.counted.message, "0 of 1 matching nodes are free: 1 is used by Cluster other");
    let until = supply.again_at.unwrap().duration_since(bed.engine.clock.now());
    tokio::time::advance(until.unsigned_abs()).await;
    assert_eq!(bed.counted().await.free, 1);
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
#[tokio::test(start_paused = true)]
async fn one_that_may_not_be_written_to_is_not_counted_on_for_ten_minutes() {
    let bed = Bed::with(&["vm-1"]).await;
    let writes = Matching::any().verb(Verb::Patch).resource("nodes");
    bed.server.fail(writes.clone(), Fault::ForbiddenBecause("a policy protects it".into()));
    assert!(matches!(bed.ask(&node(1)).await.unwrap(), Launched::NoneLeft { .. }));
    tokio::time::advance(Duration::from_mins(9)).await;
    assert_eq!(bed.counted().await.free, 0);
    assert!(matches!(bed.ask(&node(2)).await.unwrap(), Launched::NoneLeft { .. }));
    assert_eq!(bed.server.count(&writes), 1, "it was not tried again");
    bed.server.heal();
    tokio::time::advance(Duration::from_mins(2)).await;
    assert_eq!(bed.taken(&node(3)).await, "vm-1");
}
