//! The operator, on a control plane of its own, is led to everything that it has a right for.
//!
//! One story and not the sum of all: so the comparison depends on no other test and on no order. That the operator is refused
//! nothing is held by every story at its end.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use trainyard_api::cluster_node::NodeState;
use trainyard_api::names::{API_VERSION, annotations};
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, ProvisioningClass};
use trainyard_e2e::controlplane::{AuditEvent, Component, eventually, lose_node};
use trainyard_e2e::installation::OPERATOR;
use trainyard_e2e::rights::{Right, chart_objects, granted, used};
use trainyard_e2e::stories::{PATIENCE, Story, cluster, run};

/// By these bindings of the chart, and no others, the operator may do what it does.
const BOUND_BY: [&str; 3] = [
    r#"allowed by ClusterRoleBinding "trainyard-operator" of ClusterRole "trainyard-operator""#,
    r#"allowed by RoleBinding "trainyard-leader/trainyard-system" of Role "trainyard-leader""#,
    r#"allowed by RoleBinding "trainyard-machine-events/default" of Role "trainyard-machine-events""#,
];

#[tokio::test]
async fn the_operator_uses_every_right_it_has_and_none_that_it_has_not() -> Result<()> {
    let story = Story::begin_apart("every right").await?;
    let objects = chart_objects()?;
    let mut all = granted(&objects, "ClusterRole", "trainyard-operator")?;
    for role in ["trainyard-leader", "trainyard-machine-events"] {
        all.extend(granted(&objects, "Role", role)?);
    }
    ensure!(all.len() > 60, "the chart grants {}", all.len());

    tokio::try_join!(
        trainings(&story),
        a_forgotten_machine(&story),
        a_lost_machine(&story),
        other_engines(&story),
        the_same_again(&story)
    )?;
    eventually("every right to be used", PATIENCE, || async {
        let used = used(&of_the_operator(&story).await?);
        let unused: Vec<_> = all.difference(&used).map(Right::to_string).collect();
        ensure!(unused.is_empty(), "granted and not used: {unused:?}");
        Ok(())
    })
    .await?;

    assert_eq!(used(&of_the_operator(&story).await?), all, "all that was allowed is what the chart grants");
    Ok(())
}

/// What it asked for of resources; an error when it was refused anything. What every account may ask (what is served, what it may do itself) is no right of its own.
async fn of_the_operator(story: &Story) -> Result<Vec<AuditEvent>> {
    story.stage.plane.audit_mark().await?;
    let log = story.stage.plane.audit_log()?;
    let mut events = log.since(log.start())?;
    events.retain(|event| event.user == OPERATOR && !event.resource.is_empty());
    let refused = events.iter().find(|event| event.forbidden);
    ensure!(refused.is_none(), "it tries what the chart does not grant: {refused:#?}");
    let by_others =
        events.iter().find(|event| !BOUND_BY.iter().any(|words| event.allowed_by.contains(words)));
    ensure!(by_others.is_none(), "it was allowed by something else than the chart: {by_others:#?}");
    Ok(events)
}

/// Runs that are tried again, not kept, cleared away, and deleted at work. Those of two processes have a Service.
async fn trainings(story: &Story) -> Result<()> {
    story.create_cluster(cluster("pool").max(2).idle_seconds(1)).await?;
    story.keep_runs("short", json!({"maxAge": "1s"})).await?;
    let of_two = |name: &str| run(name).on("pool").nodes(2).distributed(json!({"pytorch": {}})).lasting("1s");
    let retried = of_two("retried").exiting("1,0").user_retries(1);
    story.submit(retried.of_experiment("short")).await?;
    story.run_is_gone("retried").await?;
    story.submit(of_two("cleared").cleared_after("1s").leaving_no_pods()).await?;
    story.run_comes_to("cleared", RunPhase::Completed).await?;
    story.submit(run("deleted").on("pool")).await?;
    story.run_comes_to("deleted", RunPhase::Running).await?;
    story.runs().delete("deleted", &DeleteParams::default()).await?;
    story.run_is_gone("deleted").await
}

/// A Node whose claim is gone, as if its engine had forgotten it, is the operator's to delete.
async fn a_forgotten_machine(story: &Story) -> Result<()> {
    story.create_cluster(cluster("kept").min(1).max(1)).await?;
    let (claim, machine) = the_machine(story, "kept").await?;
    story.stage.plane.pause(Component::Karpenter)?;
    let gvk = GroupVersionKind::gvk("karpenter.sh", "v1", "NodeClaim");
    let claims: Api<DynamicObject> = Api::all_with(story.client.clone(), &ApiResource::from_gvk(&gvk));
    let nodes: Api<Node> = Api::all(story.client.clone());
    // Or the garbage collector would delete it for its owner's sake.
    let unowned = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    nodes.patch(&machine, &PatchParams::default(), &unowned).await?;
    let unheld = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    claims.patch(&claim, &PatchParams::default(), &unheld).await?;
    claims.delete(&claim, &DeleteParams::default()).await?;
    annotate(story, "kept", &json!(claim)).await?;
    story
        .expect("the forgotten Node to be deleted", || async {
            let found = nodes.get_opt(&machine).await?;
            ensure!(found.is_none_or(|node| node.metadata.deletion_timestamp.is_some()), "it is there");
            Ok(())
        })
        .await?;
    story.stage.plane.resume(Component::Karpenter)
}

/// The names of a Cluster's one machine's claim and Node, once it idles.
async fn the_machine(story: &Story, cluster: &str) -> Result<(String, String)> {
    story
        .expect("a machine that idles", || async {
            let mut nodes = story.nodes_of(cluster).await?;
            nodes.retain(|node| node.spec.released.is_none());
            let node = nodes.pop().context("there is none")?;
            let status = node.status.clone().unwrap_or_default();
            ensure!(status.state == Some(NodeState::Idle), "{status:?}");
            Ok((node.name_any(), status.node_name.context("an idle node has a machine")?))
        })
        .await
}

/// Asks for a node to be removed at once; `null` takes that back.
async fn annotate(story: &Story, cluster: &str, node: &Value) -> Result<()> {
    let annotation = Patch::Merge(json!({"metadata": {"annotations": {annotations::REMOVE_NOW: node}}}));
    story.clusters().patch(cluster, &PatchParams::default(), &annotation).await?;
    Ok(())
}

/// The classes of clouds, of which only the kinds are here.
async fn other_engines(story: &Story) -> Result<()> {
    for (group, version, kind, plural) in [
        ("karpenter.k8s.aws", "v1", "EC2NodeClass", "ec2nodeclasses"),
        ("karpenter.k8s.gcp", "v1alpha1", "GCENodeClass", "gcenodeclasses"),
        ("karpenter.azure.com", "v1beta1", "AKSNodeClass", "aksnodeclasses"),
    ] {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        serve(story, &gvk, plural).await?;
        let name = plural.to_owned();
        let class = json!({
            "apiVersion": API_VERSION, "kind": "ProvisioningClass", "metadata": {"name": name},
            "spec": {"karpenter": {"nodeClassRef": {"group": group, "kind": kind, "name": "gpu"}}},
        });
        story.create(Api::<ProvisioningClass>::all(story.client.clone()), class).await?;
        story.create_cluster(cluster(&name).in_class(&name).min(1).max(1)).await?;
    }
    Ok(())
}

/// Installs a CRD of any fields.
async fn serve(story: &Story, gvk: &GroupVersionKind, plural: &str) -> Result<()> {
    let crd: Value = json!({
        "metadata": {"name": format!("{plural}.{}", gvk.group)},
        "spec": {
            "group": gvk.group, "scope": "Cluster",
            "names": {"kind": gvk.kind, "plural": plural, "singular": gvk.kind.to_lowercase()},
            "versions": [{
                "name": gvk.version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    story.create(Api::<CustomResourceDefinition>::all(story.client.clone()), crd).await?;
    let resource = ApiResource::from_gvk_with_plural(gvk, plural);
    let classes: Api<DynamicObject> = Api::all_with(story.client.clone(), &resource);
    story
        .expect("the kind to be served", || async {
            Ok(classes.list(&ListParams::default()).await.map(drop)?)
        })
        .await
}

/// A machine that falls silent: after a minute its engine is told not to wait for it.
async fn a_lost_machine(story: &Story) -> Result<()> {
    story.create_cluster(cluster("silent").min(1).max(1)).await?;
    let (_, machine) = the_machine(story, "silent").await?;
    lose_node(&story.client, &machine).await
}

/// One Event again and again: after a minute it is counted instead of told anew.
async fn the_same_again(story: &Story) -> Result<()> {
    story.create_cluster(cluster("asked").max(1)).await?;
    let counted = Right::new("events.k8s.io", "events", "patch");
    eventually("an Event to be counted up", PATIENCE, || async {
        for (name, complains) in [(json!("asked-1"), true), (Value::Null, false)] {
            annotate(story, "asked", &name).await?;
            let said =
                |cluster: &Cluster| cluster.status.as_ref().is_some_and(|status| !status.errors.is_empty());
            story.cluster_shows("asked", "to have been asked", |cluster| said(cluster) == complains).await?;
        }
        ensure!(used(&of_the_operator(story).await?).contains(&counted), "not yet");
        Ok(())
    })
    .await
}
