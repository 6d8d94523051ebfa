//! How machines go: released, lost, stray, and what holds them.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use trainyard_api::cluster_node::{NodeReason, NodeState};
use trainyard_fake_apiserver::{Matching, Verb, When};

use super::world::{Lab, NAMESPACE, pass};
use crate::provisioner::conformance::eventually;
use crate::provisioner::karpenter::wire::{NodeClaim, TERMINATION_TIME};

/// The launch guard cannot stop a process that sleeps between its look and its request; what it then makes belongs to
/// nobody, is told at once, and goes after a while.
#[tokio::test(start_paused = true)]
async fn a_machine_asked_for_by_a_process_that_slept_is_a_stray_and_goes() {
    let lab = Lab::without_process();
    let name = lab.want(1);
    let late = Matching::any().verb(Verb::Create).resource("nodeclaims").agent("late");
    let gate = lab.server.pause(late, When::Before);
    let _late = lab.process("late");
    gate.reached().await;

    // Meanwhile another leader finds it unwanted, and it is forgotten.
    let _leader = lab.process("leader");
    lab.release(&name);
    lab.gone(&name).await;
    lab.forget(&name);
    gate.release();
    eventually(|| async {
        ensure!(lab.double.claim(&name).is_some(), "not made");
        ensure!(lab.told("StrayMachine") > 0, "nobody is told");
        Ok(())
    })
    .await
    .unwrap();
    pass(Duration::from_mins(14)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&name));
    pass(Duration::from_mins(2)).await;
    assert!(lab.claims().is_empty() && lab.vm(&name).is_none());
    assert!(lab.told("StrayMachineDestroyed") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_stray_with_a_live_pod_of_ours_stays_until_the_pod_is_done() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod(&name);
    lab.forget(&name);
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.claims(), std::slice::from_ref(&name));
    lab.server.edit(NAMESPACE, "mnist-worker-0", |pod: &mut Pod| {
        pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
    });
    pass(Duration::from_secs(10)).await;
    assert!(lab.claims().is_empty());
}

/// A claim deleted before its machine joined ends at once; the cloud may finish making the machine all the same.
#[tokio::test(start_paused = true)]
async fn a_node_that_came_up_after_its_claim_was_deleted_is_found_and_destroyed() {
    let lab = Lab::new();
    lab.double.script(|script| script.never_join = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::Launched).await;
    let claim = lab.double.claim(&name).unwrap();
    lab.release(&name);
    lab.gone(&name).await;
    lab.forget(&name);
    pass(Duration::from_secs(30)).await;

    lab.double.boot(&claim, false);
    eventually(|| async {
        ensure!(lab.told("StrayMachine") == 1, "nobody is told");
        Ok(())
    })
    .await
    .unwrap();
    pass(Duration::from_mins(14)).await;
    assert!(lab.vm(&name).is_some());
    pass(Duration::from_mins(2)).await;
    assert!(lab.vm(&name).is_none(), "the leaked Node is there for ever");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_outlives_its_claim_goes_with_its_cluster_node() {
    let lab = Lab::new();
    lab.double.script(|script| script.never_join = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::Launched).await;
    let claim = lab.double.claim(&name).unwrap();
    lab.server.remove::<NodeClaim>("", &name);
    lab.double.boot(&claim, false);
    lab.until(&name, NodeState::Failed, NodeReason::StockOut).await;
    lab.release(&name);
    lab.gone(&name).await;
    assert!(lab.vm(&name).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_machine_with_a_live_pod_of_ours_is_not_destroyed() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod(&name);
    lab.release(&name);
    pass(Duration::from_hours(1)).await;
    let claim = lab.double.claim(&name).unwrap();
    assert_eq!(claim.metadata.deletion_timestamp, None);
    let status = lab.status(&name);
    assert!(status.message.as_ref().unwrap().contains("lab/mnist-worker-0"), "{status:?}");
    lab.server.remove::<Pod>(NAMESPACE, "mnist-worker-0");
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_in_another_namespace_holds_no_machine_whatever_its_labels() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod_in("elsewhere", &name);
    lab.release(&name);
    lab.gone(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_is_destroyed_whatever_is_on_it_and_without_a_drain() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.pod(&name);
    lab.double.script(|script| _ = script.hang.insert(name.clone()));
    lab.kubelet(&name, "Unknown");
    pass(Duration::from_secs(59)).await;
    assert_eq!(lab.status(&name).state, Some(NodeState::Idle));
    pass(Duration::from_secs(2)).await;
    lab.until(&name, NodeState::Unusable, NodeReason::Lost).await;
    lab.release(&name);
    lab.gone(&name).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Lost), "the cause is kept for the back-off");
}

#[tokio::test(start_paused = true)]
async fn the_drain_of_an_idle_machine_is_cut_short_when_it_hangs() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    lab.double.script(|script| _ = script.hang.insert(name.clone()));
    lab.release(&name);
    pass(Duration::from_mins(4)).await;
    let claim = lab.double.claim(&name).unwrap();
    assert!(
        claim.metadata.deletion_timestamp.is_some() && !claim.annotations().contains_key(TERMINATION_TIME)
    );
    pass(Duration::from_mins(2)).await;
    lab.gone(&name).await;
}
