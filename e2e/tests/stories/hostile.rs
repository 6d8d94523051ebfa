//! What a user of a namespace may try who means ill, with the rights that the chart's roles give him.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use trainyard_api::cluster_node::NodeReason;
use trainyard_api::names::{API_VERSION, Finalizer, labels};
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, ClusterNode, Run};
use trainyard_e2e::installation::{checkout, kubectl};
use trainyard_e2e::stories::{Story, budgets, cluster, placed_on, run};

/// Somebody who has the built-in role in the namespace, to which the chart's roles are added.
async fn somebody(story: &Story, role: &str) -> Result<Client> {
    let name = format!("some-{role}");
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    Api::namespaced(story.client.clone(), &story.namespace).create(&PostParams::default(), &account).await?;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": story.namespace}],
    }))?;
    Api::namespaced(story.client.clone(), &story.namespace).create(&PostParams::default(), &binding).await?;
    story.stage.plane.service_account_client(&story.namespace, &name).await
}

fn is_forbidden<T>(what: &str, answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{what} was refused for another reason")),
        Ok(_) => anyhow::bail!("{what} was allowed"),
    }
}

/// Tries to write an object's status and, by merge, its spec.
async fn may_write<K>(client: &Client, namespace: &str, name: &str, status: Value) -> [kube::Result<K>; 2]
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let annotated = Patch::Merge(json!({"metadata": {"annotations": {"tried": "yes"}}}));
    [
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await,
        api.patch(name, &PatchParams::default(), &annotated).await,
    ]
}

#[tokio::test]
async fn nobody_writes_what_the_operator_decides() -> Result<()> {
    let story = Story::begin("rights").await?;
    let space = story.namespace.clone();
    story.create_cluster(cluster("pool").idle_seconds(600)).await?;
    story.submit(run("training").on("pool")).await?;
    story.run_comes_to("training", RunPhase::Running).await?;
    let node = story.nodes_of("pool").await?.pop().context("it has a node")?.name_any();
    let phase = json!({"status": {"phase": "Completed"}});

    for role in ["view", "edit", "admin"] {
        let client = somebody(&story, role).await?;
        let runs = Api::<Run>::namespaced(client.clone(), &space);
        runs.get("training").await.with_context(|| format!("{role} may see runs"))?;

        let [status, metadata] =
            may_write::<ClusterNode>(&client, &space, &node, json!({"status": {"state": "Idle"}})).await;
        is_forbidden("the status of a ClusterNode", status)?;
        is_forbidden("a ClusterNode", metadata)?;
        let made: ClusterNode = serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "ClusterNode", "metadata": {"name": "forged"},
            "spec": {"cluster": {"name": "pool", "uid": "u"}, "ordinal": 9, "engine": {},
                     "vmSize": {"sizeName": "S", "vcpus": 1, "memory": "1Gi"},
                     "taint": {"key": "k", "effect": "NoSchedule"}},
        }))?;
        let nodes = Api::<ClusterNode>::namespaced(client.clone(), &space);
        is_forbidden("a forged ClusterNode", nodes.create(&PostParams::default(), &made).await)?;

        let [status, metadata] = may_write::<Run>(&client, &space, "training", phase.clone()).await;
        is_forbidden("the status of a Run", status)?;
        ensure!(metadata.is_ok() == (role != "view"), "{role} and the metadata of a Run: {metadata:?}");
        let [status, metadata] =
            may_write::<Cluster>(&client, &space, "pool", json!({"status": {"lastNodeOrdinal": 99}})).await;
        is_forbidden("the status of a Cluster", status)?;
        ensure!(metadata.is_ok() == (role == "admin"), "{role} and a Cluster: {metadata:?}");

        // Machines of the engine, and Nodes, are no namespace's.
        let machines = Api::<k8s_openapi::api::core::v1::Node>::all(client.clone());
        is_forbidden("Nodes", machines.list(&kube::api::ListParams::default()).await)?;
    }
    // Deleting a machine's ClusterNode asks for another machine, after the runs on it.
    let admin = story.stage.plane.service_account_client(&space, "some-admin").await?;
    let nodes = Api::<ClusterNode>::namespaced(admin, &space);
    nodes.delete(&node, &DeleteParams::default()).await.context("an admin may delete a ClusterNode")?;
    let training = story.runs().get("training").await?.status.context("it has a status")?;
    assert_eq!(training.phase, Some(RunPhase::Running));
    Ok(())
}

/// A pod as trainyard makes it for worker 0, as far as a user can know: name, labels, and the Run as its owner.
fn forged_pod(name: &str, run: &Run, attempt: i32) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {
                labels::RUN: run.name_any(), labels::RUN_UID: run.uid(), labels::ATTEMPT: attempt.to_string(),
                labels::ROLE: "worker", labels::INDEX: "0",
            },
            "annotations": {"kwok.trainyard.dev/run-for": "1s", "kwok.trainyard.dev/exit-code": "0"},
            "ownerReferences": [{"apiVersion": API_VERSION, "kind": "Run", "name": run.name_any(), "uid": run.uid(),
                                 "controller": true}],
        },
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.example/true:1"}]},
    }))?)
}

#[tokio::test]
async fn a_pod_that_is_made_by_hand_is_no_result_of_a_run() -> Result<()> {
    let story = Story::begin("forged results").await?;
    let user = somebody(&story, "edit").await?;
    let pods = Api::<Pod>::namespaced(user.clone(), &story.namespace);
    story.create_cluster(cluster("pool").min(1).max(1)).await?;
    story.cluster_rests_with("pool", 1).await?;

    // His Run waits behind another one; meanwhile he makes its pods himself, with the name of the first attempt and of the second.
    story.submit(run("holder").on("pool")).await?;
    story.run_comes_to("holder", RunPhase::Running).await?;
    Api::<Run>::namespaced(user.clone(), &story.namespace)
        .create(
            &PostParams::default(),
            &serde_json::from_value(json!({
                "apiVersion": API_VERSION, "kind": "Run", "metadata": {"name": "training"},
                "spec": {"clusterRef": {"name": "pool"}, "container": {"image": "registry.example/train:1"}},
            }))?,
        )
        .await?;
    story
        .run_shows("training", "to wait", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason.is_some())
        })
        .await?;
    let training = story.runs().get("training").await?;
    for (name, attempt) in [("training-worker-0", 1), ("training-worker-0-a2", 2)] {
        pods.create(&PostParams::default(), &forged_pod(name, &training, attempt)?).await?;
    }
    story
        .expect("the forged pods to be gone", || async {
            let left = story.pods_of("training").await?;
            ensure!(left.is_empty(), "{left:?} are left");
            Ok(())
        })
        .await?;
    let status = story.runs().get("training").await?.status.context("it has a status")?;
    assert_eq!((status.phase, status.attempts.len()), (Some(RunPhase::Queued), 0));

    story.cancel("holder").await?;
    story.run_comes_to("training", RunPhase::Running).await?;
    story.cancel("training").await?;
    story.run_comes_to("training", RunPhase::Canceled).await?;
    Ok(())
}

#[tokio::test]
async fn who_takes_the_finalizers_off_leaves_no_machine_and_no_pod_behind() -> Result<()> {
    let story = Story::begin("finalizers").await?;
    let user = somebody(&story, "admin").await?;
    story.create_cluster(cluster("pool").idle_seconds(600)).await?;
    story.submit(run("training").on("pool").nodes(2)).await?;
    story.run_comes_to("training", RunPhase::Running).await?;

    let unheld = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let runs = Api::<Run>::namespaced(user.clone(), &story.namespace);
    let clusters = Api::<Cluster>::namespaced(user.clone(), &story.namespace);
    runs.delete("training", &DeleteParams::default()).await?;
    clusters.delete("pool", &DeleteParams::default()).await?;
    for _ in 0..3 {
        // Whoever is gone already needs it no more.
        let _ = runs.patch("training", &PatchParams::default(), &unheld).await;
        let _ = clusters.patch("pool", &PatchParams::default(), &unheld).await;
    }
    story.run_is_gone("training").await?;
    story.cluster_is_gone("pool").await?;
    story.no_machine_is_left().await?;
    story
        .expect("no pod to be left", || async {
            let left = story.pods().list(&kube::api::ListParams::default()).await?.items;
            let held: Vec<_> = left
                .iter()
                .map(|pod| (pod.name_any(), pod.finalizers().contains(&Finalizer::RunPod.to_string())))
                .collect();
            ensure!(held.is_empty(), "{held:?} are left");
            Ok(())
        })
        .await
}

/// A pod that has a GPU of that machine, past the scheduler, and says that it is of a run.
fn greedy_pod(node: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": "miner", "labels": {labels::RUN_UID: "any"}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.example/miner:1",
                 "resources": {"limits": {"nvidia.com/gpu": 1}}}]},
    }))?)
}

#[tokio::test]
async fn a_pod_with_a_runs_label_costs_another_team_no_retries() -> Result<()> {
    let owner = Story::begin("burnt retries").await?;
    let guest = owner.elsewhere("guest").await?;
    let user = somebody(&guest, "edit").await?;
    owner.create_cluster(cluster("pool").of_size("Standard_NC6s_v3").min(2).max(2)).await?;
    owner.cluster_rests_with("pool", 2).await?;
    owner.submit(run("small").on("pool").taking(json!({"cpu": 1, "memory": "1Gi"}))).await?;
    let node = placed_on(&owner.run_comes_to("small", RunPhase::Running).await?).pop().context("a node")?;

    // Of all machines the next run would get the one that was used last.
    let pods = Api::<Pod>::namespaced(user, &guest.namespace);
    pods.create(&PostParams::default(), &greedy_pod(&node)?).await?;
    owner.cancel("small").await?;
    owner.run_comes_to("small", RunPhase::Canceled).await?;
    let reason_of = async || {
        let nodes = owner.nodes_of("pool").await?;
        let status = nodes.into_iter().filter_map(|one| one.status);
        let mut status = status.filter(|status| status.node_name.as_ref() == Some(&node));
        let status = status.next().context("it is the Cluster's")?;
        anyhow::Ok((status.reason, status.message.unwrap_or_default()))
    };
    owner
        .expect("the machine to say what is in the way", || async {
            let (reason, message) = reason_of().await?;
            ensure!(reason == Some(NodeReason::WaitingForAccelerators), "{reason:?}: {message}");
            let is_discreet = message.contains("a pod of another namespace") && !message.contains("miner");
            ensure!(is_discreet, "{message}");
            Ok(())
        })
        .await?;
    owner.submit(run("training").on("pool")).await?;
    let training = owner.run_comes_to("training", RunPhase::Running).await?;
    ensure!(placed_on(&training) != [node.clone()], "it is on the other one");
    assert_eq!(budgets(&training), (0, 0));

    pods.delete("miner", &DeleteParams::default().grace_period(0)).await?;
    owner
        .expect("the machine to be ready for runs", || async {
            let (reason, message) = reason_of().await?;
            ensure!(reason == Some(NodeReason::Ready), "{reason:?}: {message}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn an_administrator_may_keep_peoples_pods_off_machines_altogether() -> Result<()> {
    let story = Story::begin("guarded").await?;
    let user = somebody(&story, "edit").await?;
    story.label_namespace(json!({"trainyard.dev/machines-are-for-runs": "true"})).await?;
    let policy = checkout().join("deploy/policies/pods-go-where-the-scheduler-puts-them.yaml");
    kubectl(&story.stage.plane, &["apply", "-f", &policy.display().to_string()])?;

    story.create_cluster(cluster("pool").min(1).max(1)).await?;
    story.cluster_rests_with("pool", 1).await?;
    let node = story.machines().await?.pop().context("a machine")?.name_any();
    let rehearsal = PostParams { dry_run: true, ..PostParams::default() };
    let pods = Api::<Pod>::namespaced(user, &story.namespace);
    let mut tolerant = greedy_pod(&node)?;
    if let Some(spec) = &mut tolerant.spec {
        spec.node_name = None;
        spec.tolerations = Some(vec![serde_json::from_value(json!({"operator": "Exists"}))?]);
    }
    for (pod, told) in [(greedy_pod(&node)?, "spec.nodeName passes"), (tolerant, "tolerations must name")] {
        story
            .expect("the policy to count", || async {
                match pods.create(&rehearsal, &pod).await {
                    Err(kube::Error::Api(status)) if status.message.contains(told) => Ok(()),
                    answer => anyhow::bail!("{answer:?}"),
                }
            })
            .await?;
    }
    let mut plain = greedy_pod(&node)?;
    plain.spec.iter_mut().for_each(|spec| spec.node_name = None);
    pods.create(&rehearsal, &plain).await.context("others are taken as they were")?;
    story.submit(run("training").on("pool").lasting("1s")).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn what_a_user_does_to_pods_changes_no_result_and_holds_no_machine() -> Result<()> {
    let story = Story::begin("tampering").await?;
    let guest = story.elsewhere("guest").await?;
    let pods = Api::<Pod>::namespaced(somebody(&story, "edit").await?, &story.namespace);
    let guests = Api::<Pod>::namespaced(somebody(&guest, "edit").await?, &guest.namespace);
    let (create, patch) = (PostParams::default(), PatchParams::default());
    // With a gate of his own, so that the scheduler puts none on a machine of another story.
    let plain = |name: &str, labels: Value| {
        serde_json::from_value::<Pod>(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"schedulingGates": [{"name": FOREIGN}],
                     "containers": [{"name": "main", "image": "registry.example/true:1"}]},
        }))
    };
    story.create_cluster(cluster("pool").max(1).idle_seconds(2)).await?;

    // A pod of a name that a Run needs is let be, and the Run says what is in the way.
    pods.create(&create, &plain("blocked-worker-0", json!({}))?).await?;
    story.submit(run("blocked").on("pool")).await?;
    story
        .run_shows("blocked", "to name the pod in its way", |status| {
            status.message.as_ref().is_some_and(|message| message.contains("blocked-worker-0"))
        })
        .await?;
    let foreign = pods.get("blocked-worker-0").await?;
    ensure!(foreign.finalizers().is_empty() && foreign.owner_references().is_empty(), "it was adopted");
    story.cancel("blocked").await?;

    // A pod for an attempt to come is deleted, and the attempt that runs goes on.
    story.submit(run("training").on("pool")).await?;
    let training = story.run_comes_to("training", RunPhase::Running).await?;
    let node = placed_on(&training).pop().context("it has a node")?;
    let uid = training.uid().context("it has a UID")?;
    pods.create(&create, &plain("training-worker-0-a7", json!({labels::RUN_UID: uid}))?).await?;
    story
        .expect("the forged pod to be gone", || async {
            let forged = story.pods().get_opt("training-worker-0-a7").await?;
            ensure!(forged.is_none(), "it is there");
            Ok(())
        })
        .await?;
    assert_eq!(story.runs().get("training").await?.status.map(|status| status.attempts.len()), Some(1));

    // A pod that runs and is disowned is stopped before its machine has the next attempt.
    let disowned = Patch::Merge(json!({"metadata": {"labels": null, "ownerReferences": null}}));
    pods.patch("training-worker-0", &patch, &disowned).await?;
    story
        .run_shows("training", "to run a second time", |status| {
            status.attempts.len() == 2 && status.phase == Some(RunPhase::Running)
        })
        .await?;
    ensure!(pods.get_opt("training-worker-0").await?.is_none(), "the first attempt's pod runs on");

    // In another namespace its labels hold nothing, and they outlive it.
    let mut elsewhere = plain("training-worker-0", json!({labels::RUN: "training", labels::RUN_UID: uid}))?;
    elsewhere.spec.iter_mut().for_each(|spec| {
        spec.scheduling_gates = None;
        spec.node_name = Some(node.clone());
    });
    guests.create(&create, &elsewhere).await?;
    story.cancel("training").await?;
    story.run_comes_to("training", RunPhase::Canceled).await?;

    // A pod that somebody holds keeps its machine from nobody.
    story.submit(run("held").on("pool")).await?;
    story
        .expect("a pod of held", || async {
            let mine = json!([FOREIGN, Finalizer::RunPod.to_string()]);
            let held = Patch::Merge(json!({"metadata": {"finalizers": mine}}));
            Ok(pods.patch("held-worker-0", &patch, &held).await?)
        })
        .await?;
    pods.delete("held-worker-0", &DeleteParams::default()).await?;
    story.cancel("held").await?;
    story.run_comes_to("held", RunPhase::Canceled).await?;
    story.submit(run("next").on("pool").lasting("1s")).await?;
    story.run_comes_to("next", RunPhase::Completed).await?;
    let held = pods.get("held-worker-0").await?;
    assert_eq!(held.finalizers(), [FOREIGN]);

    story.cluster_rests_with("pool", 0).await?;
    story.no_machine_is_left().await
}

/// A finalizer, and a gate, that nobody takes off.
const FOREIGN: &str = "example.org/mine";
