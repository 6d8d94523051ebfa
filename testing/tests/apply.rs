//! Server-side apply: ownership, removal of what is left out, conflicts, preconditions.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use trainyard_fake_apiserver::FakeServer;

fn maps(server: &FakeServer) -> Api<ConfigMap> {
    Api::namespaced(server.client("test"), "lab")
}

async fn apply(server: &FakeServer, manager: &str, fields: Value) -> Result<ConfigMap, kube::Error> {
    apply_with(server, PatchParams::apply(manager), fields).await
}

async fn apply_with(
    server: &FakeServer,
    how: PatchParams,
    mut fields: Value,
) -> Result<ConfigMap, kube::Error> {
    fields["apiVersion"] = json!("v1");
    fields["kind"] = json!("ConfigMap");
    fields["metadata"]["name"] = json!("a");
    maps(server).patch("a", &how, &Patch::Apply(fields)).await
}

fn data(object: &ConfigMap) -> Vec<(&str, &str)> {
    object.data.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn conflict(result: Result<ConfigMap, kube::Error>) -> String {
    match result.unwrap_err() {
        kube::Error::Api(status) if status.code == 409 => status.message.clone(),
        other => panic!("no conflict: {other}"),
    }
}

#[tokio::test]
async fn a_field_left_out_is_removed_unless_somebody_else_owns_it() {
    let server = FakeServer::new();
    apply(&server, "one", json!({"data": {"a": "1", "b": "1", "shared": "x"}})).await.unwrap();
    apply(&server, "two", json!({"data": {"c": "2", "shared": "x"}})).await.unwrap();
    let after = apply(&server, "one", json!({"data": {"a": "1"}})).await.unwrap();
    assert_eq!(data(&after), [("a", "1"), ("c", "2"), ("shared", "x")]);
    let after = apply(&server, "two", json!({"data": {"c": "2"}})).await.unwrap();
    assert_eq!(data(&after), [("a", "1"), ("c", "2")]);
}

#[tokio::test]
async fn applying_the_same_again_writes_nothing() {
    let server = FakeServer::new();
    let first = apply(&server, "one", json!({"data": {"a": "1"}})).await.unwrap();
    let second = apply(&server, "one", json!({"data": {"a": "1"}})).await.unwrap();
    assert_eq!(first.resource_version(), second.resource_version());
}

#[tokio::test]
async fn another_value_for_an_owned_field_conflicts_and_force_takes_it() {
    let server = FakeServer::new();
    apply(&server, "one", json!({"data": {"a": "1", "b": "1"}})).await.unwrap();
    let message = conflict(apply(&server, "two", json!({"data": {"a": "2"}})).await);
    assert_eq!(message, "Apply failed with 1 conflict(s): conflict with \"one\": .data.a");
    let forced = PatchParams::apply("two").force();
    let after = apply_with(&server, forced, json!({"data": {"a": "2"}})).await.unwrap();
    assert_eq!(data(&after), [("a", "2"), ("b", "1")]);
    // What was taken is no longer removed by its former owner.
    let after = apply(&server, "one", json!({"data": {"b": "1"}})).await.unwrap();
    assert_eq!(data(&after), [("a", "2"), ("b", "1")]);
}

#[tokio::test]
async fn a_plain_write_takes_ownership_of_what_it_changes() {
    let server = FakeServer::new();
    apply(&server, "one", json!({"data": {"a": "1", "b": "1"}})).await.unwrap();
    let body = json!({"data": {"a": "9"}});
    maps(&server).patch("a", &PatchParams::default(), &Patch::Merge(&body)).await.unwrap();
    let after = apply(&server, "one", json!({"data": {"b": "1"}})).await.unwrap();
    assert_eq!(data(&after), [("a", "9"), ("b", "1")]);
    conflict(apply(&server, "one", json!({"data": {"a": "1", "b": "1"}})).await);
}

#[tokio::test]
async fn an_apply_is_bound_to_version_and_uid() {
    let server = FakeServer::new();
    let first = apply(&server, "one", json!({"data": {"a": "1"}})).await.unwrap();
    let version = first.resource_version().unwrap();
    let at = json!({"metadata": {"resourceVersion": version}, "data": {"a": "2"}});
    apply(&server, "one", at.clone()).await.unwrap();
    assert!(conflict(apply(&server, "one", at).await).contains("the object has been modified"));
    // Deleted meanwhile: with a UID it must not come back.
    server.remove::<ConfigMap>("lab", "a");
    let with_uid = json!({"metadata": {"uid": first.uid().unwrap()}, "data": {"a": "3"}});
    assert!(conflict(apply(&server, "one", with_uid).await).contains("uid mismatch"));
    assert!(server.get::<ConfigMap>("lab", "a").is_none());
}

#[tokio::test]
async fn conditions_merge_by_type_and_status_is_owned_apart() {
    let server = FakeServer::new();
    server
        .put(&serde_json::from_value::<Pod>(json!({"metadata": {"name": "p", "namespace": "lab"}})).unwrap());
    let pods: Api<Pod> = Api::namespaced(server.client("test"), "lab");
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let apply = |manager: &'static str, conditions: Value| {
        let pods = pods.clone();
        let body = json!({"apiVersion": "v1", "kind": "Pod", "status": {"conditions": conditions}});
        async move { pods.patch_status("p", &PatchParams::apply(manager), &Patch::Apply(body)).await.unwrap() }
    };
    let types = |pod: &Pod| -> Vec<String> {
        let status = pod.status.clone().unwrap_or_default();
        status.conditions.unwrap_or_default().into_iter().map(|condition| condition.type_).collect()
    };
    apply("one", json!([condition("Ready"), condition("Old")])).await;
    let both = apply("two", json!([condition("Checked")])).await;
    assert_eq!(types(&both), ["Ready", "Old", "Checked"]);
    let after = apply("one", json!([condition("Ready")])).await;
    assert_eq!(types(&after), ["Ready", "Checked"]);
    let after = apply("one", json!([])).await;
    assert_eq!(types(&after), ["Checked"]);
    // The same manager on the main resource owns another set, and does not touch status.
    let labels = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"x": "y"}}, "status": {}});
    let after = pods.patch("p", &PatchParams::apply("two"), &Patch::Apply(labels)).await.unwrap();
    assert_eq!((types(&after), after.labels().len()), (vec!["Checked".to_owned()], 1));
}

#[tokio::test]
async fn owners_are_told_in_managed_fields() {
    let server = FakeServer::new();
    let object = apply(&server, "one", json!({"data": {"a": "1"}})).await.unwrap();
    let entries = serde_json::to_value(object.managed_fields()).unwrap();
    let expected = json!([{
        "manager": "one", "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}},
    }]);
    assert_eq!(entries, expected);
}
