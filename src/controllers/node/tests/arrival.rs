//! A node comes, serves and is told of, through crashes and lagging watches.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use serde_json::json;
use trainyard_api::ClusterNode;
use trainyard_api::cluster_node::{NodeReason, NodeState};
use trainyard_fake_apiserver::{Fault, Matching, Verb, When};

use super::world::{Lab, NAMESPACE, pass};
use crate::provisioner::conformance::eventually;
use crate::provisioner::karpenter::double::CrashPoint;

#[tokio::test(start_paused = true)]
async fn a_node_gets_its_machine_and_gives_it_back() {
    let lab = Lab::new();
    let name = lab.want(1);
    let status = lab.ready(&name).await;
    let vm = lab.vm(&name).unwrap();
    assert_eq!((status.node_name, status.node_uid), (Some(vm.name_any()), vm.uid()));
    assert_eq!(status.zone.as_deref(), Some("zone-a"));
    assert_eq!(status.allocatable.unwrap().accelerators["nvidia.com/gpu"], 1);

    lab.double.script(|script| _ = script.hang.insert(name.clone()));
    lab.release(&name);
    eventually(|| async {
        let claim = lab.double.claim(&name).context("gone at once")?;
        ensure!(claim.metadata.deletion_timestamp.is_some(), "not deleted yet");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(lab.vm(&name).unwrap().spec.unwrap().unschedulable, Some(true), "cordoned before it goes");
    lab.until(&name, NodeState::Leaving, NodeReason::Released).await;
    lab.double.script(|script| script.hang.clear());
    lab.gone(&name).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Gone));
    assert_eq!(lab.creations(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_rest_nothing_is_written() {
    let lab = Lab::new();
    for ordinal in 1..=3 {
        lab.ready(&lab.want(ordinal)).await;
    }
    pass(Duration::from_secs(5)).await;
    lab.server.forget_requests();
    pass(Duration::from_hours(1)).await;
    let writes: Vec<_> = lab.server.requests().into_iter().filter(|one| one.verb.is_write()).collect();
    assert!(writes.is_empty(), "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_its_accelerators_waits_and_then_serves_with_one_machine() {
    let lab = Lab::new();
    lab.double.script(|script| script.no_accelerators = true);
    let name = lab.want(1);
    lab.until(&name, NodeState::Preparing, NodeReason::WaitingForAccelerators).await;
    pass(Duration::from_mins(6)).await;
    lab.server.edit("", &format!("vm-{name}"), |node: &mut Node| {
        let allocatable = node.status.as_mut().unwrap().allocatable.as_mut().unwrap();
        allocatable.insert("nvidia.com/gpu".into(), serde_json::from_value(json!("1")).unwrap());
    });
    lab.ready(&name).await;
    assert_eq!(lab.creations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_from_the_own_last_write_while_the_watch_lags() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    let watch = Matching::any().verb(Verb::Watch).resource("clusternodes").agent("one");
    let _silent = lab.server.pause(watch, When::Before);
    lab.server.cut_watches();
    pass(Duration::from_secs(5)).await;
    lab.server.forget_requests();
    for ready in ["Unknown", "True"] {
        lab.kubelet(&name, ready);
        pass(Duration::from_secs(2)).await;
    }
    assert_eq!(lab.status(&name).reason, Some(NodeReason::Ready));
    let writes = Matching::writes().resource("clusternodes/status");
    assert_eq!(lab.server.count(&writes), 2, "none of them is refused");
}

#[tokio::test(start_paused = true)]
async fn a_refused_status_is_written_soon_however_often_it_was_refused() {
    let lab = Lab::new();
    let name = lab.want(1);
    lab.ready(&name).await;
    let writes = Matching::writes().resource("clusternodes/status");
    lab.server.fail_times(5, writes.clone(), Fault::Conflict);
    lab.server.forget_requests();
    lab.kubelet(&name, "Unknown");
    pass(Duration::from_millis(5 * 200 + 50)).await;
    assert_eq!(lab.status(&name).reason, Some(NodeReason::NodeNotReady));
    assert_eq!(lab.server.count(&writes), 6);
}

#[tokio::test(start_paused = true)]
async fn first_ready_time_outlives_a_restart() {
    let mut lab = Lab::new();
    let name = lab.want(1);
    let first = lab.ready(&name).await.first_ready_time;
    pass(Duration::from_mins(3)).await;
    lab.crash();
    pass(Duration::from_mins(3)).await;
    assert_eq!(lab.status(&name).first_ready_time, first);
}

/// Two nodes come, one of them is released and goes; a third one comes. Goes on where an earlier call was left.
async fn story(lab: &Lab) -> Result<()> {
    let (one, two) = (lab.want_once(1), lab.want_once(2));
    if lab.server.get::<ClusterNode>(NAMESPACE, &one).unwrap().spec.released.is_none() {
        lab.ready(&one).await;
        lab.ready(&two).await;
        lab.release(&one);
    }
    let three = lab.want_once(3);
    lab.gone(&one).await;
    lab.ready(&three).await;
    ensure!(lab.claims() == [two.clone(), three], "{:?}", lab.claims());
    ensure!(lab.creations() >= 3, "{} machines were asked for", lab.creations());
    ensure!(lab.vm(&one).is_none() && lab.vm(&two).is_some(), "Nodes");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_changes_nothing_about_the_end() {
    let lab = Lab::new();
    story(&lab).await.unwrap();
    let writes = lab.server.count(&Matching::writes());
    assert!(writes > 8, "the story has only {writes} writes");
    drop(lab);
    for when in [When::Before, When::After] {
        for n in 1..=writes {
            let mut lab = Lab::without_process();
            let crash = Arc::new(CrashPoint::at_write(n, when));
            lab.process = Some(lab.process_until("one", Some(Arc::clone(&crash))));
            tokio::select! {
                () = crash.reached() => lab.crash(),
                _ = story(&lab) => {}
            }
            story(&lab).await.with_context(|| format!("crash at write {n}, {when:?}")).unwrap();
        }
    }
}
