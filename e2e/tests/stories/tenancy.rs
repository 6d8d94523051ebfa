//! Clusters that namespaces share, and what administrators grant.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use trainyard_api::cluster::{Cluster, ClusterErrorCode};
use trainyard_api::conditions::ConditionStatus;
use trainyard_api::names::{API_VERSION, labels};
use trainyard_api::provisioning_class::ProvisioningClass;
use trainyard_api::run_status::{QueueReason, RunPhase, RunReason};
use trainyard_e2e::stories::{Story, cluster, placed_on, ready, run};

async fn refused(story: &Story, name: &str) -> Result<String> {
    let refused = story
        .run_shows(name, "to be refused", |status| status.reason == Some(RunReason::ClusterNotAllowed))
        .await?;
    Ok(refused.status.and_then(|status| status.message).unwrap_or_default())
}

#[tokio::test]
async fn a_run_uses_another_teams_cluster_as_long_as_it_is_let_in() -> Result<()> {
    let owner = Story::begin("shared cluster").await?;
    let guest = owner.elsewhere("guest").await?;
    let there = owner.namespace.clone();

    // Whether there is such a Cluster is not told to whom it does not let in.
    guest.submit(run("first").on_shared(&there, "pool").lasting("1s")).await?;
    let before = refused(&guest, "first").await?;
    owner.create_cluster(cluster("pool").idle_seconds(2)).await?;
    owner.cluster_rests_with("pool", 0).await?;
    assert_eq!(refused(&guest, "first").await?, before);
    assert!(before.contains("spec.allowedNamespaces must select that namespace"), "{before}");

    owner.edit_cluster("pool", json!({"allowedNamespaces": {"matchLabels": {"team": "guest"}}})).await?;
    guest.label_namespace(json!({"team": "guest"})).await?;
    let first = guest.run_comes_to("first", RunPhase::Completed).await?;
    let machines = owner.nodes_of("pool").await?;
    let first_on = placed_on(&first);
    ensure!(
        machines.iter().any(|node| node.status.as_ref().and_then(|status| status.node_name.as_ref()) == first_on.first()),
        "it ran on the owner's machine: {first_on:?}"
    );

    // Runs of both share one queue; when the door closes, what runs goes on and what waits is refused.
    owner.edit_cluster("pool", json!({"scale": {"maxNodes": 1}})).await?;
    guest.submit(run("long").on_shared(&there, "pool")).await?;
    guest.run_comes_to("long", RunPhase::Running).await?;
    guest.submit(run("waiting").on_shared(&there, "pool")).await?;
    guest
        .run_shows("waiting", "to wait", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NodesBusy))
        })
        .await?;
    owner.edit_cluster("pool", json!({"allowedNamespaces": null})).await?;
    refused(&guest, "waiting").await?;
    let long = guest.runs().get("long").await?.status.context("it has a status")?;
    assert_eq!(long.phase, Some(RunPhase::Running));
    let own = run("own").on("pool").lasting("1s");
    owner.submit(own).await?;
    guest.cancel("long").await?;
    owner.run_comes_to("own", RunPhase::Completed).await?;
    assert_eq!(guest.nodes_claimed_by("waiting").await?, 0);
    owner.cluster_rests_with("pool", 0).await?;
    owner.no_machine_is_left().await
}

#[tokio::test]
async fn a_pod_that_only_looks_like_a_runs_holds_no_other_teams_machine() -> Result<()> {
    let owner = Story::begin("forged pods").await?;
    let guest = owner.elsewhere("guest").await?;
    guest.label_namespace(json!({"team": "guest"})).await?;
    owner.create_cluster(cluster("pool").idle_seconds(2)).await?;
    owner.edit_cluster("pool", json!({"allowedNamespaces": {"matchLabels": {"team": "guest"}}})).await?;
    guest.submit(run("real").on_shared(&owner.namespace, "pool")).await?;
    let real = guest.run_comes_to("real", RunPhase::Running).await?;
    let node = placed_on(&real).pop().context("it has a node")?;

    // The user copies his own run's labels to a pod of his and puts it on that machine. It outlives the run.
    let forged: Pod = serde_json::from_value(json!({
        "metadata": {"name": "forged", "labels": {labels::RUN: "real", labels::RUN_UID: real.metadata.uid}},
        "spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}],
                 "containers": [{"name": "main", "image": "registry.example/miner:1"}]},
    }))?;
    guest.pods().create(&kube::api::PostParams::default(), &forged).await?;
    guest.cancel("real").await?;
    guest.run_comes_to("real", RunPhase::Canceled).await?;
    owner.cluster_rests_with("pool", 0).await?;
    owner.no_machine_is_left().await
}

async fn create_class(story: &Story, name: &str, grants: Value) -> Result<Api<ProvisioningClass>> {
    let mut class = json!({
        "apiVersion": API_VERSION, "kind": "ProvisioningClass",
        "metadata": {"name": name},
        "spec": {"karpenter": {"nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"}}},
    });
    let spec = class["spec"].as_object_mut().context("a spec")?;
    spec.extend(grants.as_object().cloned().unwrap_or_default());
    let classes = Api::<ProvisioningClass>::all(story.client.clone());
    story.create(classes.clone(), class).await?;
    Ok(classes)
}

fn names(cluster: &Cluster, code: ClusterErrorCode) -> bool {
    cluster.status.as_ref().is_some_and(|status| status.errors.iter().any(|error| error.code == code))
}

async fn stalls(story: &Story, name: &str, code: ClusterErrorCode) -> Result<String> {
    let stalled = story
        .cluster_shows(name, &format!("to be stalled by {code}"), |cluster| {
            names(cluster, code) && ready(cluster) == ConditionStatus::False
        })
        .await?;
    Ok(stalled.status.map(|status| status.errors[0].message.clone()).unwrap_or_default())
}

#[tokio::test]
async fn a_class_is_for_whom_and_for_what_its_administrator_says() -> Result<()> {
    let story = Story::begin("grants").await?;
    let grants =
        json!({"allowedNamespaces": {"matchLabels": {"gpu": "yes"}}, "allowedSizes": ["Standard_D4s_v5"]});
    create_class(&story, "granted", grants).await?;
    story.create_cluster(cluster("pool").in_class("granted").idle_seconds(2)).await?;
    let message = stalls(&story, "pool", ClusterErrorCode::NamespaceNotAllowed).await?;
    assert!(message.contains("ProvisioningClass granted is not for namespace grants"), "{message}");
    story.submit(run("training").on("pool").lasting("1s")).await?;

    story.label_namespace(json!({"gpu": "yes"})).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;

    story.create_cluster(cluster("large").in_class("granted").of_size("Standard_D8s_v5")).await?;
    let message = stalls(&story, "large", ClusterErrorCode::VmSizeNotAllowed).await?;
    assert!(message.contains("is for Standard_D4s_v5 only"), "{message}");
    assert_eq!(story.nodes_of("large").await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_class_grants_so_many_nodes_and_no_more() -> Result<()> {
    let story = Story::begin("node limits").await?;
    let grants = json!({"maxNodesPerCluster": 2, "maxNodesPerNamespace": 3});
    let classes = create_class(&story, "limited", grants).await?;
    story.create_cluster(cluster("one").in_class("limited").max(4).idle_seconds(600)).await?;
    story.create_cluster(cluster("two").in_class("limited").max(4).idle_seconds(2)).await?;

    // More than one Cluster may have: said at once, and nobody else is held up by it.
    story.submit(run("huge").on("one").nodes(3)).await?;
    let waiting = story
        .run_shows("huge", "to say that the class grants less", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::ClusterStalled))
        })
        .await?;
    let message =
        waiting.status.and_then(|status| status.queue).and_then(|queue| queue.message).unwrap_or_default();
    assert!(
        message.contains("NodeLimitReached") && message.contains("grants 2 nodes to one Cluster"),
        "{message}"
    );
    story.submit(run("pair").on("one").nodes(2)).await?;
    story.run_comes_to("pair", RunPhase::Running).await?;

    // One is left of what the namespace may have, whichever Cluster asks.
    story.submit(run("other").on("two").nodes(2)).await?;
    story
        .run_shows("other", "to say that the namespace has too many", |status| {
            let said = status.queue.as_ref().and_then(|queue| queue.message.clone()).unwrap_or_default();
            said.contains("grants 3 nodes to all Clusters of a namespace, and the others have 2 of them")
        })
        .await?;
    story.submit(run("small").on("two").lasting("1s")).await?;
    story.run_comes_to("small", RunPhase::Completed).await?;
    assert_eq!(story.machines().await?.len(), 3);

    // A minimum beyond the grant is what keeps a Cluster from being as asked.
    story.edit_cluster("one", json!({"scale": {"minNodes": 3}})).await?;
    let message = stalls(&story, "one", ClusterErrorCode::NodeLimitReached).await?;
    assert!(message.contains("an administrator can raise that"), "{message}");

    // The administrator takes it back: what is there stays, and nothing more comes.
    let less = Patch::Merge(json!({"spec": {"maxNodesPerCluster": 1}}));
    classes.patch("limited", &PatchParams::default(), &less).await?;
    let pair = story.runs().get("pair").await?.status.context("it has a status")?;
    assert_eq!(pair.phase, Some(RunPhase::Running));
    let more = Patch::Merge(json!({"spec": {"maxNodesPerCluster": 3, "maxNodesPerNamespace": 5}}));
    classes.patch("limited", &PatchParams::default(), &more).await?;
    story.run_comes_to("other", RunPhase::Running).await?;
    assert_eq!(story.machines().await?.len(), 5);
    story.cluster_shows("one", "to be as asked", |one| ready(one) == ConditionStatus::True).await?;
    let all = story.cluster_nodes().list(&ListParams::default()).await?.items;
    ensure!(all.iter().filter(|node| node.spec.cluster.name == "one").count() == 3);
    Ok(())
}
