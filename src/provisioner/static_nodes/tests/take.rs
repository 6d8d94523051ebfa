//! Taking a Node: what is written, and who else is at it.

use super::*;

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
    assert_eq!(bed.server.count(&to_take()), 3, "the first was refused, the third is that it is kept");
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
    assert!(message.contains("Cluster other"), "{message}");
    assert_eq!(bed.node("vm-1").labels()[node_labels::CLUSTER_UID], "another-uid");
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
    let other = bed.another_process().await;
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

fn patches() -> Matching {
    Matching::any().verb(Verb::Patch).resource("nodes")
}

/// Somebody's pod that was bound before the taint was there.
fn intrude(bed: &Bed) {
    bed.server.put(&stranger("web", "vm-1", |_| {}));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_looked_at_once_more_after_it_was_taken() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    let found = looks(&bed.node("vm-1"));
    let gate = bed.server.pause(patches().name("vm-1"), When::After);
    let asked = node(1);
    let meanwhile = async {
        gate.reached().await;
        intrude(&bed);
        gate.release();
    };
    let (taken, ()) = tokio::join!(bed.taken(&asked), meanwhile);
    assert_eq!(taken, "vm-2");
    assert_eq!(looks(&bed.node("vm-1")), found);
    let counted = bed.counted().await;
    assert!(counted.message.contains("vm-1 carries pods of others"), "{}", counted.message);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_looked_at_by_the_next_process_when_one_died_before_it_could() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    let found = looks(&bed.node("vm-1"));
    let gate = bed.server.pause(patches(), When::After);
    let asked = node(1);
    tokio::select! {
        answer = bed.ask(&asked) => panic!("{answer:?}"),
        () = gate.reached() => {}
    }
    drop(gate);
    intrude(&bed);
    let bed = bed.crashed().await;
    assert_eq!(bed.taken(&asked).await, "vm-2");
    assert_eq!(looks(&bed.node("vm-1")), found);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_could_not_be_looked_at_again_is_looked_at_later() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    let gate = bed.server.pause(patches(), When::After);
    let asked = node(1);
    let meanwhile = async {
        gate.reached().await;
        intrude(&bed);
        bed.server.fail(Matching::any().verb(Verb::List).resource("pods"), Fault::InternalError);
        gate.release();
    };
    let (answer, ()) = tokio::join!(bed.ask(&asked), meanwhile);
    assert!(answer.is_err(), "{answer:?}");
    let machine = bed.engine.look_up(&the_pool(), &asked).await.unwrap().unwrap();
    assert_eq!((machine.name.as_str(), machine.progress), ("vm-1", Progress::Requested), "nobody's yet");
    bed.server.heal();
    assert_eq!(bed.taken(&asked).await, "vm-2");
}

#[rstest]
#[case::once(1)]
#[case::again_and_again(3)]
#[tokio::test(start_paused = true)]
async fn a_conflict_while_a_node_is_given_back_makes_it_nobody_s_machine(#[case] conflicts: usize) {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    let gate = bed.server.pause(patches(), When::After);
    let asked = node(1);
    let meanwhile = async {
        gate.reached().await;
        intrude(&bed);
        let mut next = bed.server.pause(patches().name("vm-1"), When::Before);
        gate.release();
        for report in 0..conflicts {
            next.reached().await;
            bed.server.edit("", "vm-1", |node: &mut Node| {
                node.annotations_mut().insert("example.org/load".into(), report.to_string());
            });
            let following = bed.server.pause(patches().name("vm-1"), When::Before);
            next.release();
            next = following;
        }
        next.release();
    };
    let (answer, ()) = tokio::join!(bed.ask(&asked), meanwhile);
    assert_eq!(answer.is_err(), conflicts >= 3, "{answer:?}");
    assert_eq!(bed.taken(&asked).await, "vm-2");
    assert_eq!(marks::cluster_uid(bed.node("vm-1").labels()), None);
}

/// Meanwhile another process has kept the Node, and a run is on it.
#[tokio::test(start_paused = true)]
async fn a_process_that_slept_before_its_second_look_gives_back_nothing() {
    let bed = Bed::with(&["vm-1", "vm-2"]).await;
    let other = bed.another_process().await;
    let gate = bed.server.pause(patches().agent("engine"), When::After);
    let asked = node(1);
    let meanwhile = async {
        gate.reached().await;
        let kept = ask(&other, &the_pool(), &asked).await.unwrap();
        assert!(matches!(kept, Launched::Requested { .. }), "{kept:?}");
        bed.server.put(&stranger("mnist-worker-0", "vm-1", |pod| {
            pod["metadata"]["labels"] = json!({"trainyard.dev/run-uid": "r"});
        }));
        gate.release();
    };
    let (taken, ()) = tokio::join!(bed.taken(&asked), meanwhile);
    assert_eq!(taken, "vm-1");
    assert!(!marks::is_being_taken(bed.node("vm-1").labels()));
    assert!(marks::cluster_uid(bed.node("vm-1").labels()).is_some());
}
