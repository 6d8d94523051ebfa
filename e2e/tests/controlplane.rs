//! What the local control plane promises, tried on it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use trainyard_e2e::controlplane::{
    AuditEvent, Component, ControlPlane, LaunchError, NODE_CLASS, Options, Refusal, Refusals, ZONES, binary,
    bring_back_node, eventually, folder_of, lose_node,
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
async fn two_control_planes_run_side_by_side_and_one_ends_without_the_other() -> Result<()> {
    let options = || Options::default().without(Component::Karpenter);
    let (a, b) = tokio::try_join!(ControlPlane::start(options()), ControlPlane::start(options()))?;
    eprintln!("side by side: {} | {}", a.timings(), b.timings());

    let namespace: Namespace = object(json!({"metadata": {"name": "only-in-a"}}));
    Api::<Namespace>::all(a.client().await?).create(&PostParams::default(), &namespace).await?;
    let in_b = Api::<Namespace>::all(b.client().await?);
    assert!(in_b.get_opt("only-in-a").await?.is_none());

    let folder = a.folder().to_owned();
    drop(a);
    assert!(!folder.exists(), "{} is still there", folder.display());
    assert_eq!(processes_naming(&folder), BTreeSet::new());
    assert!(in_b.get_opt("default").await?.is_some());
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
                "annotations": {"kwok.trainyard.dev/run-for": "1s", "kwok.trainyard.dev/exit-code": code},
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
        let mut annotations = json!({
            "kwok.trainyard.dev/run-for": "100ms",
            "kwok.trainyard.dev/exit-code": "1,0",
            "kwok.trainyard.dev/exit-code.worker": "137",
        });
        annotations.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod: Pod = object(json!({
            "metadata": {
                "name": name,
                "labels": {"trainyard.dev/role": role, "trainyard.dev/attempt": attempt},
                "annotations": annotations,
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
    create("evicted", "chief", "1", json!({"kwok.trainyard.dev/reason": "Evicted"})).await?;
    create("pulls", "chief", "2", json!({"kwok.trainyard.dev/waiting": "ErrImagePull"})).await?;
    create("late", "chief", "2", json!({"kwok.trainyard.dev/start-after": "1s"})).await?;
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

    // The image can be had after all.
    let unset = json!({"metadata": {"annotations": {"kwok.trainyard.dev/waiting": null}}});
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

#[tokio::test]
async fn a_start_that_fails_shows_the_log_of_the_culprit_and_leaves_nothing() -> Result<()> {
    let options =
        Options::default().without(Component::Karpenter).name(format!("wrong-{}", std::process::id()));
    let error = match ControlPlane::start(options.arg(Component::Etcd, "--no-such-flag")).await {
        Ok(_) => bail!("it started"),
        Err(error) => format!("{error:#}"),
    };
    assert!(error.contains("etcd has ended"), "{error}");
    assert!(error.contains("no-such-flag"), "{error}");
    assert!(!folder_of(&format!("wrong-{}", std::process::id())).exists());
    Ok(())
}

#[tokio::test]
async fn a_context_of_the_users_kubeconfig_serves_instead_and_nothing_is_started() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let mut external = Command::new(env!("CARGO_BIN_EXE_controlplane"))
        .args(["up", "--name", &format!("external-{}", std::process::id())])
        .env("KUBECONFIG", plane.kubeconfig_path())
        .env("TRAINYARD_E2E_CONTEXT", "local")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut path = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(external.stdout.take().unwrap()), &mut path)?;
    let kubeconfig = Kubeconfig::read_from(path.trim())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let namespaces = Api::<Namespace>::all(kube::Client::try_from(config)?);
    assert!(namespaces.get_opt("default").await?.is_some());
    let own: Vec<_> = processes_naming(Path::new(path.trim()).parent().unwrap())
        .into_iter()
        .filter(|(_, command)| !command.starts_with("sh "))
        .collect();
    assert_eq!(own, []);
    external.kill()?;
    external.wait()?;
    Ok(())
}

#[tokio::test]
async fn programs_of_kubebuilder_assets_go_before_those_built_here() -> Result<()> {
    let assets = std::env::temp_dir().join(format!("assets-{}", std::process::id()));
    fs::create_dir_all(&assets)?;
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        std::os::unix::fs::symlink(binary(program)?, assets.join(program))?;
    }
    let mut up = Command::new(env!("CARGO_BIN_EXE_controlplane"))
        .args(["up", "--no-karpenter", "--name", &format!("assets-{}", std::process::id())])
        .env("KUBEBUILDER_ASSETS", &assets)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut path = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(up.stdout.take().unwrap()), &mut path)?;
    let started = processes_naming(Path::new(path.trim()).parent().unwrap());
    up.kill()?;
    up.wait()?;
    fs::remove_dir_all(&assets)?;
    let from_assets = |program: &str| {
        let expected = assets.join(program).display().to_string();
        started.iter().any(|(_, command)| command.starts_with(&expected))
    };
    assert!(from_assets("etcd") && from_assets("kube-apiserver"), "{started:?}");
    assert!(!from_assets("kube-scheduler"));
    Ok(())
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
async fn a_component_can_be_killed_paused_and_started_again() -> Result<()> {
    let plane = ControlPlane::start(Options::default().without(Component::Karpenter)).await?;
    let namespace: Namespace = object(json!({"metadata": {"name": "survives"}}));
    Api::<Namespace>::all(plane.client().await?).create(&PostParams::default(), &namespace).await?;

    let node: Node = object(json!({"metadata": {"name": "n1", "labels": {"kwok.x-k8s.io/node": "fake"}}}));
    let nodes = Api::<Node>::all(plane.client().await?);
    nodes.create(&PostParams::default(), &node).await?;
    eventually("the node to be ready", LIMIT, || async {
        let conditions = nodes.get("n1").await?.status.and_then(|s| s.conditions).unwrap_or_default();
        ensure!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"), "{conditions:?}");
        Ok(())
    })
    .await?;

    for component in [Component::ApiServer, Component::Etcd, Component::ControllerManager, Component::Kwok] {
        let start = Instant::now();
        plane.kill(component)?;
        assert!(plane.process(component)?.ended().is_some());
        if component == Component::ApiServer {
            assert!(Api::<Namespace>::all(plane.client().await?).get("survives").await.is_err());
        }
        plane.restart(component).await?;
        eprintln!("{component} killed and back: {:.2?}", start.elapsed());
    }
    eventually("the namespace made before", LIMIT, || async {
        Ok(Api::<Namespace>::all(plane.client().await?).get("survives").await?)
    })
    .await?;

    // The new kwok plays the machine of the one that was killed, and does not wait until its lease has run out.
    let pod: Pod = object(json!({
        "metadata": {"name": "after-restart"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "main"}]},
    }));
    let pods = Api::<Pod>::namespaced(plane.client().await?, "default");
    pods.create(&PostParams::default(), &pod).await?;
    eventually("the pod to run", Duration::from_secs(20), || async {
        let phase = pods.get("after-restart").await?.status.and_then(|s| s.phase);
        ensure!(phase.as_deref() == Some("Running"), "{phase:?}");
        Ok(())
    })
    .await?;

    // Stopped, the controller-manager gives no new namespace its ServiceAccount; continued, it does.
    plane.pause(Component::ControllerManager)?;
    let client = plane.client().await?;
    let namespace: Namespace = object(json!({"metadata": {"name": "while-paused"}}));
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let accounts = Api::<ServiceAccount>::namespaced(client, "while-paused");
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", plane.process(Component::ControllerManager)?.pid()))?;
    assert!(stat.contains(") T "), "not stopped: {stat}");
    assert!(accounts.get_opt("default").await?.is_none());
    plane.resume(Component::ControllerManager)?;
    eventually("the ServiceAccount", LIMIT, || async { Ok(accounts.get("default").await?) }).await?;

    assert!(plane.rss(Component::ApiServer)? > 50 << 20);
    assert!(plane.cpu_seconds(Component::ApiServer)? > 0.1);
    Ok(())
}

#[tokio::test]
async fn a_service_account_has_its_own_rights_and_name_in_the_audit_log() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let admin = plane.client().await?;
    let params = PostParams::default();
    let account: ServiceAccount = object(json!({"metadata": {"name": "reader"}}));
    Api::<ServiceAccount>::namespaced(admin.clone(), "default").create(&params, &account).await?;
    let client = plane.service_account_client("default", "reader").await?;

    let mark = plane.audit_mark().await?;
    let namespace: Namespace = object(json!({"metadata": {"name": "audited"}}));
    let refused = Api::<Namespace>::all(client).create(&params, &namespace).await.unwrap_err();
    assert!(refused.to_string().contains("system:serviceaccount:default:reader"), "{refused}");
    Api::<Namespace>::all(admin.clone()).create(&params, &namespace).await?;
    let dry_run = PostParams { dry_run: true, ..params };
    let other: Namespace = object(json!({"metadata": {"name": "not-stored"}}));
    Api::<Namespace>::all(admin).create(&dry_run, &other).await?;
    plane.audit_mark().await?;

    let log = plane.audit_log()?;
    let namespaces = |event: &AuditEvent| event.resource == "namespaces" && event.verb == "create";
    let seen: Vec<_> =
        log.since(mark)?.into_iter().filter(namespaces).map(|e| (e.user, e.code, e.dry_run)).collect();
    let reader = "system:serviceaccount:default:reader";
    assert_eq!(
        seen,
        [(reader.to_owned(), 403, false), ("admin".to_owned(), 201, false), ("admin".to_owned(), 201, true)]
    );
    let writes = log.writes_since(mark, namespaces)?;
    assert_eq!(writes.values().sum::<usize>(), 1, "{writes:?}");
    Ok(())
}

#[tokio::test]
async fn it_listens_on_loopback_only_and_lets_nobody_in_without_credentials() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    for component in Component::ALL {
        let listening = listening_addresses(plane.process(component)?.pid());
        // Ports are written in hexadecimal behind the address, the last byte of 127.0.0.1 first.
        assert!(listening.iter().all(|a| a.starts_with("0100007F:")), "{component}: {listening:?}");
        assert!(!listening.is_empty(), "{component} listens nowhere?");
    }

    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig_path())?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info = AuthInfo::default();
    let anybody = kube::Client::try_from(config)?;
    let get = |path: &str| http::Request::get(path).body(Vec::new()).unwrap();
    assert_eq!(anybody.request_text(get("/readyz")).await?, "ok");
    for path in ["/api/v1/namespaces", "/version", "/metrics"] {
        let refused = anybody.request_text(get(path)).await.unwrap_err();
        assert!(refused.to_string().contains("Unauthorized"), "{path}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_when_the_process_that_holds_it_is_killed() -> Result<()> {
    let name = format!("killed-{}", std::process::id());
    let mut holder = Command::new(env!("CARGO_BIN_EXE_controlplane"))
        .args(["up", "--name", &name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut kubeconfig = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut kubeconfig,
    )?;
    let folder = PathBuf::from(kubeconfig.trim()).parent().unwrap().to_owned();
    // Six components and the janitor.
    let before = processes_naming(&folder);
    assert_eq!(before.len(), 7, "{before:?}");

    holder.kill()?;
    holder.wait()?;
    eventually("everything to be gone", Duration::from_secs(20), || async {
        let left = processes_naming(&folder);
        ensure!(left.is_empty() && !folder.exists(), "processes {left:?}, folder {}", folder.exists());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_folder_whose_janitor_was_killed_too_goes_with_the_next_start() -> Result<()> {
    let name = format!("orphan-{}", std::process::id());
    let exe = env!("CARGO_BIN_EXE_controlplane");
    let mut holder =
        Command::new(exe).args(["up", "--no-karpenter", "--name", &name]).stdout(Stdio::piped()).spawn()?;
    let mut kubeconfig = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut kubeconfig,
    )?;
    let folder = PathBuf::from(kubeconfig.trim()).parent().unwrap().to_owned();

    let janitor =
        processes_naming(&folder).into_iter().find(|(_, command)| command.starts_with("sh ")).unwrap();
    Command::new("kill").args(["-9", &janitor.0.to_string()]).status()?;
    holder.kill()?;
    holder.wait()?;
    eventually("the components to be gone", Duration::from_secs(20), || async {
        let left = processes_naming(&folder);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    assert!(folder.exists());

    // The same name is free again, and `down` ends what `up --detach` left running.
    let up = Command::new(exe).args(["up", "--no-karpenter", "--detach", "--name", &name]).output()?;
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let list = String::from_utf8(Command::new(exe).arg("list").output()?.stdout)?;
    assert!(list.lines().any(|line| line.starts_with(&format!("{name}\tready"))), "{list}");
    let twice = Command::new(exe).args(["up", "--name", &name]).output()?;
    assert!(String::from_utf8_lossy(&twice.stderr).contains("is running already"));
    assert!(Command::new(exe).args(["down", "--name", &name]).status()?.success());
    assert!(!folder.exists());
    assert_eq!(processes_naming(&folder), BTreeSet::new());
    Ok(())
}

/// (process id, command line) of living processes that name the folder in their arguments or environment.
fn processes_naming(folder: &Path) -> BTreeSet<(u32, String)> {
    let wanted = folder.to_str().unwrap();
    let text =
        |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\0', " ");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let command = text(entry.path().join("cmdline"));
            let named = command.contains(wanted) || text(entry.path().join("environ")).contains(wanted);
            (named && !command.is_empty()).then_some((pid, command))
        })
        .collect()
}

/// Local addresses, as /proc/net/tcp writes them, that the process listens on.
fn listening_addresses(pid: u32) -> Vec<String> {
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok()?.to_str()?.strip_prefix("socket:[").map(str::to_owned))
        .map(|inode| inode.trim_end_matches(']').to_owned())
        .collect();
    ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| {
            let table = fs::read_to_string(format!("/proc/net/{table}")).unwrap();
            table.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN.
            (fields[3] == "0A" && sockets.contains(fields[9])).then(|| fields[1].to_owned())
        })
        .collect()
}
