//! What only the operator can see to be wrong is said in status at once, and heals when it is mended.

use anyhow::Result;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use trainyard_api::cluster::{Cluster, ClusterErrorCode, ProvisioningState};
use trainyard_api::conditions::{self, ConditionStatus, RunCondition};
use trainyard_api::names::API_VERSION;
use trainyard_api::provisioning_class::ProvisioningClass;
use trainyard_api::run_status::{QueueReason, RunPhase, RunReason, RunStatus};
use trainyard_api::vm_size::VmSize;
use trainyard_e2e::stories::{Story, cluster, placed_on, ready, run};

fn names(cluster: &Cluster, code: ClusterErrorCode) -> bool {
    cluster.status.as_ref().is_some_and(|status| status.errors.iter().any(|error| error.code == code))
}

/// Waits until the Cluster names that error.
async fn says(story: &Story, code: ClusterErrorCode) -> Result<Cluster> {
    story.cluster_shows("pool", &format!("to say {code}"), |cluster| names(cluster, code)).await
}

/// Waits until the Cluster is stalled for that reason; returns what it says.
async fn stalled(story: &Story, code: ClusterErrorCode) -> Result<String> {
    let cluster = story
        .cluster_shows("pool", &format!("to be stalled by {code}"), |cluster| {
            names(cluster, code) && ready(cluster) == ConditionStatus::False
        })
        .await?;
    let status = cluster.status.unwrap();
    assert_eq!(status.provisioning_state, Some(ProvisioningState::Failed));
    Ok(status.errors[0].message.clone())
}

fn accepted(status: &RunStatus) -> Option<(ConditionStatus, String)> {
    let found = conditions::find(&status.conditions, RunCondition::Accepted)?;
    Some((found.status, found.message.clone()))
}

fn classes(story: &Story) -> Api<ProvisioningClass> {
    Api::all(story.client.clone())
}

/// A class that makes machines as the default one does.
fn class(name: &str) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "ProvisioningClass",
        "metadata": {"name": name},
        "spec": {"karpenter": {"nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"}}},
    })
}

fn sizes(story: &Story) -> Api<VmSize> {
    Api::all(story.client.clone())
}

/// A size that is sold under another name.
fn size(version: &str, alias: Option<&str>) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "VmSize",
        "metadata": {"name": format!("standard-story-{version}")},
        "spec": {
            "sizeName": format!("Standard_Story_{version}"), "aliases": Vec::from_iter(alias), "family": "story",
            "vcpus": 2, "memory": "8Gi", "instanceTypes": {"karpenter": "Standard_D2s_v5"},
        },
    })
}

/// A Cluster with one warm machine loses what its machines are made by; `mend` puts it back.
async fn serves_without_and_grows_again<F>(story: &Story, code: ClusterErrorCode, mend: F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let cluster = says(story, code).await?;
    assert_eq!(ready(&cluster), ConditionStatus::True, "it has all that is asked of it");
    let warm = story.nodes_of("pool").await?.remove(0).status.unwrap().node_name.unwrap();
    story.submit(run("single").on("pool").lasting("1s")).await?;
    let done = story.run_comes_to("single", RunPhase::Completed).await?;
    assert_eq!(placed_on(&done), [warm], "machines that are there go on");

    story.submit(run("pair").on("pool").nodes(2).lasting("1s")).await?;
    story
        .run_shows("pair", "to wait for somebody to mend it", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::ClusterStalled))
        })
        .await?;
    stalled(story, code).await?;
    mend.await?;
    story.run_comes_to("pair", RunPhase::Completed).await?;
    let healed = story.cluster_rests_with("pool", 2).await?;
    assert!(healed.status.unwrap().errors.is_empty());
    Ok(())
}

/// The Cluster goes with all its machines, although what they were made by is gone.
async fn goes_without(story: &Story, code: ClusterErrorCode) -> Result<()> {
    says(story, code).await?;
    story.clusters().delete("pool", &DeleteParams::default()).await?;
    story.cluster_is_gone("pool").await?;
    story.no_machine_is_left().await
}

#[tokio::test]
async fn a_class_deleted_under_a_cluster_stops_new_machines_only_until_it_is_back() -> Result<()> {
    let story = Story::begin("class deleted").await?;
    let (name, code) = ("story-passing", ClusterErrorCode::ProvisioningClassNotFound);
    story.create(classes(&story), class(name)).await?;
    story.create_cluster(cluster("pool").in_class(name).min(1).max(2)).await?;
    story.cluster_rests_with("pool", 1).await?;
    classes(&story).delete(name, &DeleteParams::default()).await?;
    let mend = story.create(classes(&story), class(name));
    serves_without_and_grows_again(&story, code, mend).await?;
    classes(&story).delete(name, &DeleteParams::default()).await?;
    goes_without(&story, code).await
}

#[tokio::test]
async fn a_size_deleted_under_a_cluster_stops_new_machines_only_until_it_is_back() -> Result<()> {
    let story = Story::begin("size deleted").await?;
    let (name, code) = ("standard-story-v2", ClusterErrorCode::VmSizeNotFound);
    story.create(sizes(&story), size("v2", None)).await?;
    story.create_cluster(cluster("pool").of_size("Standard_Story_v2").min(1).max(2)).await?;
    story.cluster_rests_with("pool", 1).await?;
    sizes(&story).delete(name, &DeleteParams::default()).await?;
    let mend = story.create(sizes(&story), size("v2", None));
    serves_without_and_grows_again(&story, code, mend).await?;
    sizes(&story).delete(name, &DeleteParams::default()).await?;
    goes_without(&story, code).await
}

#[tokio::test]
async fn an_unknown_size_heals_when_a_size_of_that_alias_is_added() -> Result<()> {
    let story = Story::begin("unknown size").await?;
    story.create_cluster(cluster("pool").of_size("Standard_Story_v9")).await?;
    let message = stalled(&story, ClusterErrorCode::VmSizeNotFound).await?;
    assert!(message.contains("Standard_Story_v9"), "{message}");
    story.submit(run("training").on("pool").lasting("1s")).await?;
    story.run_shows("training", "to wait", |status| status.phase == Some(RunPhase::Queued)).await?;

    story.create(sizes(&story), size("v1", Some("standard_STORY_v9"))).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    let healed = story.cluster_rests_with("pool", 1).await?;
    assert!(healed.status.unwrap().errors.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_missing_class_heals_when_it_is_created() -> Result<()> {
    let story = Story::begin("missing class").await?;
    story.create_cluster(cluster("pool").in_class("story-late")).await?;
    story.submit(run("training").on("pool").lasting("1s")).await?;
    let message = stalled(&story, ClusterErrorCode::ProvisioningClassNotFound).await?;
    assert!(message.contains("story-late"), "{message}");

    story.create(classes(&story), class("story-late")).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    story.cluster_rests_with("pool", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_run_whose_cluster_is_missing_says_so_and_starts_when_it_is_there() -> Result<()> {
    let story = Story::begin("missing cluster").await?;
    story.submit(run("training").on("pool").lasting("1s")).await?;
    let waiting = story
        .run_shows("training", "to miss its Cluster", |status| {
            status.reason == Some(RunReason::ClusterNotFound)
        })
        .await?;
    let message = waiting.status.unwrap().message.unwrap();
    assert!(message.contains("pool") && message.contains("missing-cluster"), "{message}");

    story.create_cluster(cluster("pool")).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn a_run_of_more_nodes_than_the_maximum_says_so_stops_nobody_and_starts_when_it_is_raised() -> Result<()>
{
    let story = Story::begin("more than the maximum").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("a-pair").on("pool").nodes(2).lasting("1s")).await?;
    story
        .run_shows("a-pair", "to exceed the maximum", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::ExceedsMaxNodes))
        })
        .await?;
    story.submit(run("b-single").on("pool").lasting("1s")).await?;
    story.run_comes_to("b-single", RunPhase::Completed).await?;

    story.edit_cluster("pool", json!({"scale": {"maxNodes": 2}})).await?;
    story.run_comes_to("a-pair", RunPhase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn pods_that_pod_security_would_refuse_buy_no_machine() -> Result<()> {
    let story = Story::begin("pod security").await?;
    story.label_namespace(json!({"pod-security.kubernetes.io/enforce": "restricted"})).await?;
    story.create_cluster(cluster("pool")).await?;
    story.submit(run("training").on("pool").lasting("1s")).await?;
    let refused = story
        .run_shows("training", "to be refused", |status| {
            accepted(status).is_some_and(|(status, _)| status == ConditionStatus::False)
        })
        .await?
        .status
        .unwrap();
    assert_eq!((refused.phase, refused.reason), (Some(RunPhase::Queued), Some(RunReason::NotAccepted)));
    let (_, message) = accepted(&refused).unwrap();
    assert!(message.contains("restricted"), "{message}");
    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 0, "no machine was bought");

    // Mended, and the Run touched so that nobody waits ten minutes for the next look.
    story.label_namespace(json!({"pod-security.kubernetes.io/enforce": null})).await?;
    story.edit_run("training", json!({"priority": "High"})).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn a_quota_that_is_used_up_buys_no_machine() -> Result<()> {
    let story = Story::begin("quota").await?;
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
    let quotas = Api::<ResourceQuota>::namespaced(story.client.clone(), &story.namespace);
    story.create(quotas.clone(), quota).await?;
    story
        .expect("the quota to be counted", || async {
            let hard = quotas.get("none").await?.status.and_then(|status| status.hard);
            anyhow::ensure!(hard.is_some(), "not yet");
            Ok(())
        })
        .await?;
    story.create_cluster(cluster("pool")).await?;
    story.submit(run("training").on("pool").lasting("1s")).await?;
    let refused = story
        .run_shows("training", "to be refused", |status| {
            accepted(status).is_some_and(|(status, _)| status == ConditionStatus::False)
        })
        .await?;
    let (_, message) = accepted(refused.status.as_ref().unwrap()).unwrap();
    assert!(message.contains("quota"), "{message}");
    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 0, "no machine was bought");

    quotas.delete("none", &DeleteParams::default()).await?;
    story.edit_run("training", json!({"priority": "High"})).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    Ok(())
}
