//! Machines and pods of the local control plane: Karpenter launches them and refuses on request, kwok plays them.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use trainyard_e2e::controlplane::{
    ControlPlane, LaunchError, NODE_CLASS, Options, Refusal, Refusals, ZONES, annotations, bring_back_node,
    eventually, lose_node,
};

const LIMIT: Duration = Duration::from_mins(1);

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn claims(client: &kube::Client) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("karpenter.sh", "v1", "NodeClaim");
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, "nodeclaims"))
}

/// A claim no NodePool stands behind, for one machine of the size.
fn claim(name: &str, size: &str) -> DynamicObject {
    object(json!({
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {"name": name, "labels": {"karpenter.sh/nodepool": "standalone"}},
        "spec": {
            "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": NODE_CLASS},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [size]},
                {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
            ],
            "resources": {"requests": {"cpu": "3", "memory": "20Gi", "pods": "20", "nvidia.com/gpu": "1"}},
        },
    }))
}

fn condition(object: &DynamicObject, kind: &str) -> Option<(String, String)> {
    let found = object.data["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?;
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str().unwrap_or_default().to_owned()))
}

/// Waits for the claim's machine and returns its Node.
async fn ready_node(client: &kube::Client, name: &str) -> Result<Node> {
    eventually(&format!("the Node of claim {name}"), LIMIT, || async {
        let claim = claims(client).get(name).await?;
        ensure!(condition(&claim, "Ready").is_some_and(|c| c.0 == "True"), "claim: {}", claim.data["status"]);
        let node = claim.data["status"]["nodeName"].as_str().unwrap_or_default().to_owned();
        Ok(Api::<Node>::all(client.clone()).get(&node).await?)
    })
    .await
}

async fn delete_and_await(client: &kube::Client, name: &str) -> Result<()> {
    let api = claims(client);
    api.delete(name, &DeleteParams::default()).await?;
    gone(&api, name).await
}

async fn gone(api: &Api<DynamicObject>, name: &str) -> Result<()> {
    eventually(&format!("claim {name} to be gone"), LIMIT, || async {
        ensure!(api.get_opt(name).await?.is_none(), "it is there");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_node_claim_without_node_pool_becomes_a_ready_node_and_goes() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let client = plane.client().await?;
    let start = Instant::now();
    claims(&client).create(&PostParams::default(), &claim("whole", "Standard_ND40rs_v2")).await?;
    let node = ready_node(&client, "whole").await?;
    eprintln!("claim to ready Node: {:.2?}", start.elapsed());

    let labels = node.metadata.labels.clone().unwrap_or_default();
    assert_eq!(labels["node.kubernetes.io/instance-type"], "Standard_ND40rs_v2");
    assert!(ZONES.contains(&labels["topology.kubernetes.io/zone"].as_str()));
    let allocatable = node.status.unwrap().allocatable.unwrap();
    assert_eq!(allocatable["nvidia.com/gpu"].0, "8");
    assert_eq!(allocatable["memory"].0, "688118Mi");

    let start = Instant::now();
    delete_and_await(&client, "whole").await?;
    let node = Api::<Node>::all(client).get_opt(&node.metadata.name.unwrap()).await?;
    assert!(node.is_none());
    eprintln!("claim and Node gone: {:.2?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn the_cloud_refuses_what_it_is_told_to() -> Result<()> {
    // Alone: the rules are of the whole control plane.
    let plane = ControlPlane::start(Options::default()).await?;
    let client = plane.client().await?;
    let api = claims(&client);
    let size = "Standard_NC6s_v3";
    let refusal = |id: &str, message: &str| Refusal {
        id: id.to_owned(),
        instance_type: Some(size.to_owned()),
        message: message.to_owned(),
        ..Refusal::default()
    };

    // Stock-out: the claim is deleted, and an event in `default` says why.
    let out = Refusal { remaining: Some(1), ..refusal("out", "no NC6s_v3 left in any zone") };
    plane.set_refusals(&Refusals { refuse: vec![out], ..Refusals::default() })?;
    api.create(&PostParams::default(), &claim("refused", size)).await?;
    gone(&api, "refused").await?;
    let events = Api::<Event>::namespaced(client.clone(), "default");
    let event = eventually("the event of the refusal", LIMIT, || async {
        let of_claim = ListParams::default().fields("involvedObject.name=refused,type=Warning");
        match events.list(&of_claim).await?.items.into_iter().next() {
            Some(event) => Ok(event),
            None => bail!("no Warning about it"),
        }
    })
    .await?;
    assert_eq!(event.reason.as_deref(), Some("InsufficientCapacityError"));
    let message = event.message.unwrap_or_default();
    assert!(message.contains("no NC6s_v3 left in any zone"), "{message}");
    assert_eq!(plane.refused("out")?, 1);

    // One refusal was asked for, so the next claim is served.
    api.create(&PostParams::default(), &claim("served", size)).await?;
    ready_node(&client, "served").await?;
    assert_eq!(plane.refused("out")?, 1);

    // A zone without stock: the machine comes from the other one.
    let zone = Refusal { zone: Some(ZONES[0].to_owned()), ..refusal("zone", "zone-a is empty") };
    plane.set_refusals(&Refusals { refuse: vec![zone], ..Refusals::default() })?;
    for name in ["elsewhere-1", "elsewhere-2", "elsewhere-3"] {
        api.create(&PostParams::default(), &claim(name, size)).await?;
        let labels = ready_node(&client, name).await?.metadata.labels.unwrap();
        assert_eq!(labels["topology.kubernetes.io/zone"], ZONES[1]);
    }
    assert_eq!(plane.refused("zone")?, 0);

    // Any other error: Karpenter keeps the claim and tries again.
    let broken = Refusal {
        error: LaunchError::Other("AllocationFailed".to_owned()),
        ..refusal("broken", "try later")
    };
    plane.set_refusals(&Refusals { refuse: vec![broken], ..Refusals::default() })?;
    api.create(&PostParams::default(), &claim("tried-again", size)).await?;
    eventually("the reason on the claim", LIMIT, || async {
        let launched = condition(&api.get("tried-again").await?, "Launched");
        ensure!(launched == Some(("Unknown".to_owned(), "AllocationFailed".to_owned())), "{launched:?}");
        Ok(())
    })
    .await?;
    let delay = Duration::from_secs(1);
    plane.set_refusals(&Refusals { launch_delay: delay, ..Refusals::default() })?;
    ready_node(&client, "tried-again").await?;

    // The delay is waited before the machine exists.
    let start = Instant::now();
    api.create(&PostParams::default(), &claim("slow", size)).await?;
    ready_node(&client, "slow").await?;
    assert!(start.elapsed() >= delay);
    Ok(())
}

#[tokio::test]
async fn a_pod_ends_after_the_time_and_with_the_exit_code_of_its_annotations() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let client = plane.client().await?;
    claims(&client).create(&PostParams::default(), &claim("pods", "Standard_NC4as_T4_v3")).await?;
    let node = ready_node(&client, "pods").await?.metadata.name.unwrap();

    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    for (name, code, phase, reason) in
        [("ends-well", "0", "Succeeded", "Completed"), ("ends-badly", "3", "Failed", "Error")]
    {
        let pod: Pod = object(json!({
            "metadata": {
                "name": name,
                "annotations": {(annotations::RUN_FOR): "1s", (annotations::EXIT_CODE): code},
            },
            "spec": {
                "restartPolicy": "Never",
                "nodeSelector": {"kubernetes.io/hostname": "pods"},
                "containers": [
                    {"name": "main", "image": "main", "resources": {"limits": {"nvidia.com/gpu": 1}}},
                    {"name": "side", "image": "side"},
                ],
            },
        }));
        pods.create(&PostParams::default(), &pod).await?;
        let ended = eventually(&format!("{name} to end"), LIMIT, || async {
            let status = pods.get(name).await?.status.unwrap_or_default();
            let phase = status.phase.clone().unwrap_or_default();
            ensure!(phase == "Succeeded" || phase == "Failed", "phase {phase:?}");
            Ok(status)
        })
        .await?;
        assert_eq!(ended.phase.as_deref(), Some(phase));
        let exits: Vec<_> = ended
            .container_statuses
            .unwrap_or_default()
            .into_iter()
            .map(|c| (c.name, c.state.unwrap().terminated.unwrap()))
            .collect();
        let (main, side) = (&exits[0], &exits[1]);
        assert_eq!((main.0.as_str(), main.1.exit_code.to_string().as_str()), ("main", code));
        assert_eq!(main.1.reason.as_deref(), Some(reason));
        assert_eq!((side.0.as_str(), side.1.exit_code), ("side", 0));
        let ran =
            main.1.finished_at.as_ref().unwrap().0.duration_since(main.1.started_at.as_ref().unwrap().0);
        assert!(ran >= jiff::SignedDuration::from_secs(1), "it ran {ran}");
    }
    assert!(node.starts_with("kwok-pods-"), "{node}");
    delete_and_await(&client, "pods").await
}

#[tokio::test]
async fn annotations_for_a_role_and_for_an_attempt_win_and_a_parameter_server_does_not_end() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let client = plane.client().await?;
    claims(&client).create(&PostParams::default(), &claim("roles", "Standard_NC8as_T4_v3")).await?;
    ready_node(&client, "roles").await?;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let create = async |name: &str, role: &str, attempt: &str, more: Value| {
        let mut wanted = json!({
            (annotations::RUN_FOR): "100ms",
            (annotations::EXIT_CODE): "1,0",
            "kwok.trainyard.dev/exit-code.worker": "137",
        });
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod: Pod = object(json!({
            "metadata": {
                "name": name,
                "labels": {"trainyard.dev/role": role, "trainyard.dev/attempt": attempt},
                "annotations": wanted,
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "nodeSelector": {"kubernetes.io/hostname": "roles"},
                "initContainers": [{"name": "init", "image": "init"}],
                "containers": [{"name": "main", "image": "main"}],
            },
        }));
        pods.create(&PostParams::default(), &pod).await
    };
    let comes_to = async |name: &str, phase: &str, code: Option<i32>, reason: Option<&str>| {
        eventually(&format!("{name} to come to {phase}"), LIMIT, || async {
            let status = pods.get(name).await?.status.unwrap_or_default();
            let state = status.container_statuses.unwrap_or_default().first().and_then(|c| c.state.clone());
            let state = state.unwrap_or_default();
            let terminated = state.terminated.map(|t| (t.exit_code, t.reason.unwrap_or_default()));
            let reason_now =
                terminated.as_ref().map(|t| t.1.clone()).or(state.waiting.and_then(|w| w.reason));
            let now = (status.phase.as_deref(), terminated.as_ref().map(|t| t.0), reason_now.as_deref());
            ensure!(now == (Some(phase), code, reason), "now {now:?}");
            Ok(())
        })
        .await
    };
    create("ps-0", "ps", "1", json!({})).await?;
    create("first", "chief", "1", json!({})).await?;
    create("second", "chief", "2", json!({})).await?;
    create("third", "chief", "3", json!({})).await?;
    create("worker", "worker", "1", json!({})).await?;
    create("evicted", "chief", "1", json!({(annotations::REASON): "Evicted"})).await?;
    create("pulls", "chief", "2", json!({(annotations::WAITING): "ErrImagePull"})).await?;
    create("late", "chief", "2", json!({(annotations::START_AFTER): "1s"})).await?;
    comes_to("first", "Failed", Some(1), Some("Error")).await?;
    comes_to("second", "Succeeded", Some(0), Some("Completed")).await?;
    comes_to("third", "Succeeded", Some(0), Some("Completed")).await?;
    comes_to("worker", "Failed", Some(137), Some("OOMKilled")).await?;
    comes_to("evicted", "Failed", Some(1), Some("Evicted")).await?;
    comes_to("pulls", "Pending", None, Some("ErrImagePull")).await?;
    comes_to("late", "Succeeded", Some(0), Some("Completed")).await?;
    comes_to("ps-0", "Running", None, None).await?;
    let late = pods.get("late").await?;
    let after = late
        .status
        .unwrap()
        .start_time
        .unwrap()
        .0
        .duration_since(late.metadata.creation_timestamp.unwrap().0);
    assert!(after >= jiff::SignedDuration::from_secs(1), "it started after {after}");

    // Deleted, it takes its time to stop.
    create("slow", "chief", "2", json!({(annotations::RUN_FOR): "1h", (annotations::STOP_AFTER): "1s"}))
        .await?;
    comes_to("slow", "Running", None, None).await?;
    let start = Instant::now();
    let graceful = DeleteParams { grace_period_seconds: Some(30), ..DeleteParams::default() };
    pods.delete("slow", &graceful).await?;
    eventually("the slow pod to be gone", LIMIT, || async {
        ensure!(pods.get_opt("slow").await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    assert!(start.elapsed() >= Duration::from_secs(1), "gone after {:?}", start.elapsed());

    // The image can be had after all.
    let unset = json!({"metadata": {"annotations": {(annotations::WAITING): null}}});
    pods.patch("pulls", &PatchParams::default(), &Patch::Merge(unset)).await?;
    comes_to("pulls", "Succeeded", Some(0), Some("Completed")).await?;
    delete_and_await(&client, "roles").await
}

#[tokio::test]
async fn a_lost_node_keeps_its_pods_as_they_are_until_it_is_back() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let client = plane.client().await?;
    claims(&client).create(&PostParams::default(), &claim("cut-off", "Standard_NC6s_v3")).await?;
    let node = ready_node(&client, "cut-off").await?.metadata.name.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let pod: Pod = object(json!({
        "metadata": {"name": "on-lost-node"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": "cut-off"},
            "containers": [{"name": "main", "image": "main"}],
        },
    }));
    pods.create(&PostParams::default(), &pod).await?;
    eventually("the pod to run", LIMIT, || async {
        let phase = pods.get("on-lost-node").await?.status.and_then(|s| s.phase);
        ensure!(phase.as_deref() == Some("Running"), "{phase:?}");
        Ok(())
    })
    .await?;

    lose_node(&client, &node).await?;
    pods.delete("on-lost-node", &DeleteParams::default()).await?;
    // The taint of the controller-manager comes after what kwok would do at once, to node and pod.
    let nodes = Api::<Node>::all(client.clone());
    eventually("the taint of an unreachable node", LIMIT, || async {
        let taints = nodes.get(&node).await?.spec.and_then(|s| s.taints).unwrap_or_default();
        ensure!(taints.iter().any(|t| t.key == "node.kubernetes.io/unreachable"), "{taints:?}");
        Ok(())
    })
    .await?;
    let ready = async || -> Result<String> {
        let conditions = nodes.get(&node).await?.status.and_then(|s| s.conditions).unwrap_or_default();
        Ok(conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status).unwrap_or_default())
    };
    assert_eq!(ready().await?, "Unknown");
    assert!(pods.get("on-lost-node").await?.metadata.deletion_timestamp.is_some());

    bring_back_node(&client, &node).await?;
    eventually("the node and the end of the pod", LIMIT, || async {
        let (ready, pod) = (ready().await?, pods.get_opt("on-lost-node").await?.is_some());
        ensure!(ready == "True" && !pod, "Ready={ready}, pod there: {pod}");
        Ok(())
    })
    .await?;
    delete_and_await(&client, "cut-off").await
}
