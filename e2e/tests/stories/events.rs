//! Every Event that docs/events.md explains is told on a real control plane, about what it says and in its words.

use anyhow::{Context as _, Result, ensure};
use futures::try_join;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;
use trainyard_api::ProvisioningClass;
use trainyard_api::cluster::ClusterErrorCode;
use trainyard_api::cluster_node::{ClusterNode, NodeState};
use trainyard_api::distribution::RoleName;
use trainyard_api::names::event::{EventReason, EventReason as Reason, EventSubject};
use trainyard_api::names::{API_VERSION, annotations, labels, node_labels};
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_e2e::controlplane::Refusal;
use trainyard_e2e::stories::{Story, cluster, run};

/// What the first story below leads to: a reason, how the name of what it is about begins, and words of the note.
const TOLD_AT_ONCE: [(EventReason, &str, &str); 19] = [
    (Reason::Waiting, "unwanted", "ExceedsMaxNodes: needs 2 nodes"),
    (Reason::Held, "unlucky", "its machines were not complete within gangTimeout"),
    (Reason::NodesAllocated, "good", "attempt 1 gets pool-"),
    (Reason::NotAccepted, "nobodys", "serviceaccount \"nobody\" not found"),
    (Reason::AttemptFailed, "stubborn", "attempt 1 (UserCode): "),
    (
        Reason::EvaluatorFailed,
        "watched",
        "attempt 1: pod watched-evaluator-0 exited 3; the training goes on without it",
    ),
    (Reason::Completed, "good", "good-worker-0 exited 0"),
    (Reason::Failed, "stubborn", "stubborn-worker-0"),
    (Reason::Canceled, "unwanted", "cancelled by its user"),
    (Reason::RunsDeleted, "short", "maxAge 1s"),
    (Reason::NodesRequested, "pool", "node 1 is asked for"),
    (Reason::MachinesRefused, "sold-out", "StockOut: "),
    (Reason::GrowthBlocked, "classless", "ProvisioningClassNotFound: "),
    (Reason::NodesOccupied, "occupied", "events/left-over"),
    (Reason::NodeToRemoveNotFound, "classless", "trainyard.dev/remove-now names classless-1"),
    (Reason::Recovered, "classless", "ProvisioningClassNotFound is over"),
    (Reason::NodeRetired, "pool-", "it idled longer than idleSecondsBeforeScaleDown"),
    (Reason::MachineFailed, "preempted-", "Preempted: the cloud takes it back"),
    (Reason::StrayMachine, STRAY, "it will be destroyed in 15 minutes"),
];

/// What needs an operator that dies in a bad moment, or times that nobody waits for here: the test that tells it, and its source.
const TOLD_BY_OTHERS: [(EventReason, &str, &str); 2] = [
    (
        Reason::NodeKept,
        "a_node_that_was_about_to_leave_when_its_operator_died_stays_if_it_is_needed",
        include_str!("events.rs"),
    ),
    (
        Reason::StrayMachineDestroyed,
        "a_machine_asked_for_by_a_process_that_slept_is_a_stray_and_goes",
        include_str!("../../../src/controllers/node/tests/departure.rs"),
    ),
];

/// A machine that no ClusterNode accounts for.
const STRAY: &str = "events-stray";

#[test]
fn every_reason_is_led_to_here_or_in_a_test_that_is_named() {
    let all = TOLD_AT_ONCE.iter().chain(&TOLD_BY_OTHERS).map(|(reason, ..)| *reason);
    let mut all: Vec<EventReason> = all.collect();
    all.sort();
    assert_eq!(all, EventReason::ALL, "these tables and the reasons there are");
    for (reason, test, source) in TOLD_BY_OTHERS {
        let (_, body) = source.split_once(&format!("fn {test}()")).expect("the test is there");
        let (body, _) = body.split_once("\n}\n").expect("it ends");
        let looks = [format!("assert!(lab.told(\"{reason}\")"), format!("is_told(&story, Reason::{reason}")];
        assert!(looks.iter().any(|look| body.contains(look)), "{test} does not look for {reason}");
    }
}

#[tokio::test]
async fn every_event_is_told_about_what_it_is_and_in_its_words() -> Result<()> {
    let story = Story::begin("events").await?;
    try_join!(
        trainings(&story),
        a_failing_evaluator(&story),
        a_stock_out(&story),
        what_somebody_must_mend(&story),
        a_node_that_cannot_leave(&story),
        machines_that_fail(&story),
    )?;
    for (reason, name, words) in TOLD_AT_ONCE {
        is_told(&story, reason, name, words).await?;
    }
    for event in told(&story).await? {
        let word = event.reason.as_deref().unwrap_or_default();
        let reason =
            EventReason::ALL.iter().find(|reason| reason.as_str() == word).context("a word of the set")?;
        let about = event.regarding.as_ref().and_then(|about| about.kind.as_deref());
        let kind = match reason.subject() {
            EventSubject::Machine => "NodeClaim",
            subject => subject.as_str(),
        };
        assert_eq!(
            (about, event.type_.as_deref()),
            (Some(kind), Some(reason.event_type().as_str())),
            "{word}"
        );
    }
    claims(&story).delete(STRAY, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_about_to_leave_when_its_operator_died_stays_if_it_is_needed() -> Result<()> {
    let story = Story::begin_apart("needed after all").await?;
    let name = a_node_that_cannot_leave(&story).await?.name_any();
    story.stage.kill_operator(0).await?;
    let node = story.cluster_nodes().get(&name).await?;
    ensure!(node.spec.retired.is_some() && node.spec.released.is_none(), "{:?}", node.spec);
    story.pods().delete("left-over", &DeleteParams::default().grace_period(0)).await?;
    story.edit_cluster("occupied", json!({"scale": {"minNodes": 1}})).await?;

    story.stage.start_operator(0).await?;
    is_told(&story, Reason::NodeKept, &name, "minNodes needs it after all").await?;
    let rested = story.cluster_rests_with("occupied", 1).await?.status.context("it has a status")?;
    assert_eq!(rested.last_node_ordinal, 1, "no other machine was asked for");
    let node = story.cluster_nodes().get(&name).await?;
    assert_eq!(node.spec.retired, None);
    Ok(())
}

/// The Events of the operator about this story's objects, and about the stray machine, which is in no namespace.
async fn told(story: &Story) -> Result<Vec<Event>> {
    let all = ListParams::default();
    let mut events = Api::<Event>::namespaced(story.client.clone(), &story.namespace).list(&all).await?.items;
    let about_stray = all.fields(&format!("regarding.name={STRAY}"));
    events.extend(Api::<Event>::namespaced(story.client.clone(), "default").list(&about_stray).await?.items);
    events.retain(|event| event.reporting_controller.as_deref() == Some("trainyard.dev/operator"));
    Ok(events)
}

/// Waits for an Event of this reason about an object whose name begins so, with these words in its note.
async fn is_told(story: &Story, reason: EventReason, name: &str, words: &str) -> Result<()> {
    let is_it = |event: &Event| {
        let about = event.regarding.as_ref().and_then(|about| about.name.as_deref()).unwrap_or_default();
        event.reason.as_deref() == Some(reason.as_str())
            && about.starts_with(name)
            && event.note.as_deref().is_some_and(|note| note.contains(words))
    };
    story
        .expect(&format!("{reason} about {name} to be told: {words}"), || async {
            let told = told(story).await?;
            ensure!(told.iter().any(is_it), "told is\n{}", shown(&told));
            Ok(())
        })
        .await
}

fn shown(events: &[Event]) -> String {
    let line = |event: &Event| {
        let about = event.regarding.as_ref().and_then(|about| about.name.as_deref());
        format!("{:?} {:?}: {:?}", event.reason, about, event.note)
    };
    events.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One succeeds, one fails twice, one is cancelled while it waits, one is not kept; then their machine leaves.
async fn trainings(story: &Story) -> Result<()> {
    story.create_cluster(cluster("pool").max(1).idle_seconds(1)).await?;
    story.submit(run("good").on("pool").lasting("1s")).await?;
    story.submit(run("unwanted").on("pool").nodes(2)).await?;
    story
        .run_shows("unwanted", "to wait in vain", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::ExceedsMaxNodes))
        })
        .await?;
    story.cancel("unwanted").await?;
    story.keep_runs("short", json!({"maxAge": "1s"})).await?;
    story.submit(run("passing").on("pool").of_experiment("short").lasting("1s")).await?;
    story.submit(run("stubborn").on("pool").lasting("1s").exiting("1").user_retries(1)).await?;
    story.submit(run("nobodys").on("pool").adding(json!({"serviceAccountName": "nobody"}))).await?;
    story.run_comes_to("stubborn", RunPhase::Failed).await?;
    story.run_is_gone("passing").await?;
    story.cluster_rests_with("pool", 0).await?;
    Ok(())
}

async fn a_failing_evaluator(story: &Story) -> Result<()> {
    story.create_cluster(cluster("gpus").of_size("Standard_NC24ads_A100_v4").max(2)).await?;
    let tensorflow = json!({"tensorflow": {"chief": {}, "evaluator": {}}});
    let watched = run("watched").on("gpus").nodes(2).distributed(tensorflow);
    let watched = watched.role_lasting(RoleName::Evaluator, "1s", 3).role_lasting(RoleName::Chief, "8s", 0);
    story.submit(watched).await?;
    story.run_comes_to("watched", RunPhase::Completed).await?;
    Ok(())
}

async fn a_stock_out(story: &Story) -> Result<()> {
    let size = "Standard_F16s_v2";
    let refusal = Refusal {
        id: "events".to_owned(),
        instance_type: Some(size.to_owned()),
        message: "no F16s_v2 left in any zone".to_owned(),
        ..Refusal::default()
    };
    let _refusing = story.stage.cloud_refuses(refusal)?;
    story.create_cluster(cluster("sold-out").of_size(size)).await?;
    // Longer than it takes the cloud to say no, so that there is something to tell.
    story.submit(run("unlucky").on("sold-out").gang_timeout("30s")).await?;
    story
        .run_shows("unlucky", "to be held", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::CapacityHold))
        })
        .await?;
    story.cancel("unlucky").await
}

/// A class that comes late, and an annotation with a slip of the pen.
async fn what_somebody_must_mend(story: &Story) -> Result<()> {
    let says = async |code: ClusterErrorCode| {
        story
            .cluster_shows("classless", &format!("to say {code}"), |cluster| {
                let errors =
                    cluster.status.as_ref().map(|status| status.errors.as_slice()).unwrap_or_default();
                errors.iter().any(|error| error.code == code)
            })
            .await
    };
    story.create_cluster(cluster("classless").in_class("story-events").min(1).max(1)).await?;
    says(ClusterErrorCode::ProvisioningClassNotFound).await?;
    let slip = Patch::Merge(json!({"metadata": {"annotations": {annotations::REMOVE_NOW: "classless-1"}}}));
    story.clusters().patch("classless", &PatchParams::default(), &slip).await?;
    says(ClusterErrorCode::NodeToRemoveNotFound).await?;
    let class = json!({
        "apiVersion": API_VERSION, "kind": "ProvisioningClass", "metadata": {"name": "story-events"},
        "spec": {"karpenter": {"nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"}}},
    });
    story.create(Api::<ProvisioningClass>::all(story.client.clone()), class).await?;
    story.cluster_rests_with("classless", 1).await?;
    Ok(())
}

/// The Cluster's one node, idle on a machine of that name.
async fn idle_node(story: &Story, cluster: &str) -> Result<(ClusterNode, String)> {
    story
        .expect(&format!("Cluster {cluster} to have an idle node"), || async {
            let node = story.nodes_of(cluster).await?.pop().context("there is none")?;
            let status = node.status.clone().unwrap_or_default();
            ensure!(status.state == Some(NodeState::Idle), "{status:?}");
            Ok((node, status.node_name.context("an idle node has a machine")?))
        })
        .await
}

/// A pod that looks like a run's keeps an idle node from leaving. Ends with the node about to leave.
async fn a_node_that_cannot_leave(story: &Story) -> Result<ClusterNode> {
    story.create_cluster(cluster("occupied").min(1).max(1).idle_seconds(1)).await?;
    let (node, machine) = idle_node(story, "occupied").await?;
    let pod = json!({
        "metadata": {"name": "left-over", "labels": {labels::RUN_UID: "nobody"}},
        "spec": {"nodeName": machine, "containers": [{"name": "main", "image": "registry.example/train:1"}]},
    });
    story.create(story.pods(), pod).await?;
    story.edit_cluster("occupied", json!({"scale": {"minNodes": 0}})).await?;
    story
        .cluster_shows("occupied", "to name the pod", |cluster| {
            let errors = cluster.status.as_ref().map(|status| status.errors.as_slice()).unwrap_or_default();
            errors.iter().any(|error| error.code == ClusterErrorCode::NodesOccupied)
        })
        .await?;
    Ok(node)
}

/// The cloud takes one back, and one more carries the labels of the Cluster and is no node of it.
async fn machines_that_fail(story: &Story) -> Result<()> {
    story.create_cluster(cluster("preempted").low_priority().min(1).max(1)).await?;
    let (node, machine) = idle_node(story, "preempted").await?;
    let stray = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
        "metadata": {"name": STRAY, "labels": {
            node_labels::CLUSTER_UID: node.spec.cluster.uid, node_labels::CLUSTER_NAMESPACE: story.namespace,
            node_labels::CLUSTER_NODE: STRAY, node_labels::CLUSTER_NODE_UID: "nobody",
        }},
        // Of a kind that this Karpenter does not know, so that it leaves the claim alone.
        "spec": {"nodeClassRef": {"group": "example.org", "kind": "Nothing", "name": "nothing"}, "requirements": []},
    });
    claims(story).create(&PostParams::default(), &serde_json::from_value(stray)?).await?;
    let notice = json!({"spec": {"taints": [{"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}]}});
    let machines: Api<Node> = Api::all(story.client.clone());
    machines.patch(&machine, &PatchParams::default(), &Patch::Strategic(notice)).await?;
    Ok(())
}

fn claims(story: &Story) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("karpenter.sh", "v1", "NodeClaim");
    Api::all_with(story.client.clone(), &ApiResource::from_gvk(&kind))
}
