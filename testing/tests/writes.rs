//! What the server accepts and refuses when objects are created, changed and deleted.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use trainyard_fake_apiserver::FakeServer;

fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    typed(json!({"metadata": {"name": name, "namespace": "lab"}, "data": {"a": "1"}}))
}

fn pod(name: &str) -> Pod {
    typed(json!({
        "metadata": {"name": name, "namespace": "lab"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "busybox"}]},
        "status": {"phase": "Running"},
    }))
}

fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("no answer of the server: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_created_object_gets_identity_time_and_version_but_no_status() {
    let server = FakeServer::new();
    let pods: Api<Pod> = Api::namespaced(server.client("test"), "lab");
    let created = pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    assert!(created.uid().is_some() && created.resource_version().is_some());
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.creation_timestamp().unwrap().0.to_string(), "2030-01-01T00:00:00Z");
    assert_eq!(created.status, None);
    assert_eq!(code(pods.create(&PostParams::default(), &pod("a")).await), (409, "AlreadyExists".into()));
}

#[tokio::test]
async fn generated_names_differ_and_a_rehearsal_stores_nothing() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.client("test"), "lab");
    let unnamed: ConfigMap = typed(json!({"metadata": {"generateName": "run-"}}));
    let one = maps.create(&PostParams::default(), &unnamed).await.unwrap().name_any();
    let two = maps.create(&PostParams::default(), &unnamed).await.unwrap().name_any();
    assert!(one.starts_with("run-") && one != two, "{one} {two}");
    let rehearsal = PostParams { dry_run: true, field_manager: None };
    assert!(maps.create(&rehearsal, &config_map("rehearsed")).await.is_ok());
    assert_eq!(maps.get_opt("rehearsed").await.unwrap(), None);
    maps.create(&PostParams::default(), &config_map("rehearsed")).await.unwrap();
    assert_eq!(code(maps.create(&rehearsal, &config_map("rehearsed")).await).1, "AlreadyExists");
}

#[tokio::test]
async fn a_stale_replace_conflicts_and_an_equal_one_writes_nothing() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.client("test"), "lab");
    let first = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let same = maps.replace("a", &PostParams::default(), &first).await.unwrap();
    assert_eq!(same.resource_version(), first.resource_version());
    let mut second = first.clone();
    second.data.get_or_insert_default().insert("a".into(), "2".into());
    let second = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_ne!(second.resource_version(), first.resource_version());
    assert_eq!(code(maps.replace("a", &PostParams::default(), &first).await), (409, "Conflict".into()));
    assert_eq!(code(maps.replace("b", &PostParams::default(), &config_map("b")).await).0, 404);
}

#[tokio::test]
async fn a_merge_patch_with_an_old_version_conflicts() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.client("test"), "lab");
    let first = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let merge = |body: Value| {
        let maps = maps.clone();
        async move { maps.patch("a", &PatchParams::default(), &Patch::Merge(body)).await }
    };
    let version = first.resource_version().unwrap();
    let body = json!({"metadata": {"resourceVersion": version}, "data": {"a": null, "b": "2"}});
    let changed = merge(body.clone()).await.unwrap();
    assert_eq!(changed.data.unwrap().into_iter().collect::<Vec<_>>(), [("b".to_owned(), "2".to_owned())]);
    assert_eq!(code(merge(body).await), (409, "Conflict".into()));
}

#[tokio::test]
async fn a_json_patch_test_fails_with_the_generic_sentence() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.client("test"), "lab");
    maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let patch = |operations: Value| {
        let maps = maps.clone();
        async move { maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(typed(operations))).await }
    };
    let absent = json!({"op": "test", "path": "/metadata/finalizers", "value": null});
    let add = json!({"op": "add", "path": "/metadata/finalizers", "value": ["f/one"]});
    assert_eq!(patch(json!([absent, add])).await.unwrap().finalizers(), ["f/one"]);
    let error = patch(json!([absent, add])).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert_eq!(status.code, 422);
    assert_eq!(status.message, "the server rejected our request due to an error in our request");
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_only_spec_counts_generations() {
    let server = FakeServer::new();
    let pods: Api<Pod> = Api::namespaced(server.client("test"), "lab");
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let body = json!({"spec": {"nodeName": "n2"}, "status": {"phase": "Failed"}});
    let after = pods.patch_status("a", &PatchParams::default(), &Patch::Merge(&body)).await.unwrap();
    assert_eq!(after.spec.unwrap().node_name.as_deref(), Some("n1"));
    assert_eq!(after.status.unwrap().phase.as_deref(), Some("Failed"));
    assert_eq!(after.metadata.generation, Some(1));
    let body = json!({"spec": {"nodeName": "n2"}, "status": {"phase": "Running"}});
    let after = pods.patch("a", &PatchParams::default(), &Patch::Merge(&body)).await.unwrap();
    assert_eq!(after.spec.unwrap().node_name.as_deref(), Some("n2"));
    assert_eq!(after.status.unwrap().phase.as_deref(), Some("Failed"));
    assert_eq!(after.metadata.generation, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_holds_a_deleted_object_until_it_is_removed() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.client("test"), "lab");
    let mut object = config_map("a");
    object.metadata.finalizers = Some(vec!["f/one".into()]);
    maps.create(&PostParams::default(), &object).await.unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let dying = maps.get("a").await.unwrap();
    assert_eq!(dying.metadata.deletion_timestamp.unwrap().0.to_string(), "2030-01-01T00:00:05Z");
    let add = json!({"metadata": {"finalizers": ["f/one", "f/two"]}});
    let refused = maps.patch("a", &PatchParams::default(), &Patch::Merge(&add)).await;
    assert_eq!(code(refused), (422, "Invalid".into()));
    let remove = json!({"metadata": {"finalizers": null}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(&remove)).await.unwrap();
    assert_eq!(maps.get_opt("a").await.unwrap(), None);
    assert_eq!(code(maps.delete("a", &DeleteParams::default()).await).0, 404);
}

#[tokio::test]
async fn a_delete_is_bound_to_uid_and_version() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.client("test"), "lab");
    let first = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let delete = |uid: Option<String>, version: Option<String>| {
        let preconditions = Preconditions { uid, resource_version: version };
        let maps = maps.clone();
        async move { maps.delete("a", &DeleteParams::default().preconditions(preconditions)).await }
    };
    assert_eq!(code(delete(Some("other".into()), None).await), (409, "Conflict".into()));
    assert_eq!(code(delete(first.uid(), Some("1".into())).await), (409, "Conflict".into()));
    delete(first.uid(), first.resource_version()).await.unwrap();
    assert_eq!(maps.get_opt("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_running_pod_stops_gracefully_when_asked_for() {
    let server = FakeServer::new().stopping_pods_gracefully();
    let pods: Api<Pod> = Api::namespaced(server.client("test"), "lab");
    server.put(&pod("a"));
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    let stopping = pods.get("a").await.unwrap();
    assert_eq!(stopping.metadata.deletion_grace_period_seconds, Some(30));
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(pods.get_opt("a").await.unwrap(), None);
    // Finished pods have nothing to stop.
    server.put(&pod("b"));
    server.edit::<Pod>("lab", "b", |pod| {
        pod.status.get_or_insert_default().phase = Some("Succeeded".into());
    });
    pods.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(pods.get_opt("b").await.unwrap(), None);
}

#[tokio::test]
async fn garbage_goes_with_its_last_owner() {
    let server = FakeServer::new().collecting_garbage();
    let owner = server.put(&config_map("owner"));
    let mut child = config_map("child");
    child.metadata.owner_references = Some(vec![typed(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid().unwrap(),
    }))]);
    server.put(&child);
    assert!(server.delete::<ConfigMap>("lab", "owner"));
    assert_eq!(server.objects(), Vec::<Value>::new());
}

#[tokio::test]
async fn lists_are_selected_and_read_page_by_page_from_one_state() {
    let server = FakeServer::new();
    for index in 0..5 {
        let mut object = config_map(&format!("m{index}"));
        object.labels_mut().insert("even".into(), (index % 2 == 0).to_string());
        server.put(&object);
    }
    let maps: Api<ConfigMap> = Api::all(server.client("test"));
    let even = maps.list(&ListParams::default().labels("even=true")).await.unwrap();
    assert_eq!(even.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["m0", "m2", "m4"]);
    let one = maps.list(&ListParams::default().fields("metadata.name=m3")).await.unwrap();
    assert_eq!(one.items.len(), 1);

    let first = maps.list(&ListParams::default().limit(3)).await.unwrap();
    server.remove::<ConfigMap>("lab", "m4");
    let token = first.metadata.continue_.unwrap();
    let rest = maps.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["m3", "m4"]);
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    let again = maps.list(&ListParams::default().limit(3).continue_token(&token)).await;
    assert_eq!(code(again).0, 410);
    let metadata = maps.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 4);
}
