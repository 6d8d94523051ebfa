#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, When};

use super::*;

const MANAGER: &str = "test-fields";

fn maps(server: &FakeServer) -> Api<ConfigMap> {
    Api::namespaced(server.client("test"), "lab")
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "lab"}, "data": {"a": "1"}}))
        .unwrap()
}

fn kind<T: Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn writes(server: &FakeServer) -> usize {
    server.count(&Matching::writes())
}

#[tokio::test]
async fn an_apply_removes_what_it_leaves_out_and_needs_the_version_it_was_decided_on() {
    let server = FakeServer::new();
    let maps = maps(&server);
    let seen = Seen::of(&server.put(&map("m"))).unwrap();
    let first = apply(&maps, &seen, MANAGER, &json!({"data": {"b": "2", "c": "3"}})).await.unwrap();
    assert_eq!(kind(apply(&maps, &seen, MANAGER, &json!({"data": {"b": "9"}})).await), ErrorKind::Conflict);
    let second =
        apply(&maps, &Seen::of(&first).unwrap(), MANAGER, &json!({"data": {"b": "2"}})).await.unwrap();
    let data: Vec<_> = second.data.unwrap().into_keys().collect();
    assert_eq!(data, ["a", "b"]);
}

#[tokio::test]
async fn an_apply_does_not_bring_back_what_was_deleted_meanwhile() {
    let server = FakeServer::new();
    let seen = Seen::of(&server.put(&map("m"))).unwrap();
    server.remove::<ConfigMap>("lab", "m");
    let result = apply(&maps(&server), &seen, MANAGER, &json!({"data": {}})).await;
    assert_eq!(kind(result), ErrorKind::Conflict);
    assert!(server.objects().is_empty());
    server.put(&map("m"));
    let result = apply(&maps(&server), &seen, MANAGER, &json!({"data": {}})).await;
    assert_eq!(kind(result), ErrorKind::Conflict, "another object of that name");
}

#[tokio::test]
async fn status_is_applied_on_its_own_and_an_unchanged_one_not_at_all() {
    let server = FakeServer::new();
    let pods: Api<Pod> = Api::namespaced(server.client("test"), "lab");
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "lab"}})).unwrap();
    let seen = Seen::of(&server.put(&pod)).unwrap();
    let (before, after) = (json!({}), json!({"status": {"phase": "Running"}}));
    let written = apply_status_changed(&pods, &seen, MANAGER, &before, &after).await.unwrap().unwrap();
    assert_eq!(written.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    server.forget_requests();
    let seen = Seen::of(&written).unwrap();
    assert_eq!(apply_status_changed(&pods, &seen, MANAGER, &after, &after).await.unwrap(), None);
    assert_eq!(apply_changed(&pods, &seen, MANAGER, &after, &after).await.unwrap(), None);
    assert_eq!(writes(&server), 0);
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_found_the_second_time() {
    let server = FakeServer::new();
    server.fail_nth_write(1, When::After);
    assert_eq!(kind(create(&maps(&server), &map("m"), MANAGER).await), ErrorKind::Unavailable);
    let again = create(&maps(&server), &map("m"), MANAGER).await.unwrap();
    assert!(matches!(&again, Creation::AlreadyExists(found) if found.data == map("m").data));
    assert!(matches!(create(&maps(&server), &map("n"), MANAGER).await.unwrap(), Creation::Created(_)));
    assert_eq!(server.list::<ConfigMap>().len(), 2);
}

#[tokio::test]
async fn a_rehearsed_create_stores_nothing_and_shows_refusals() {
    let server = FakeServer::new();
    rehearse_create(&maps(&server), &map("m"), MANAGER).await.unwrap();
    assert!(server.objects().is_empty());
    server.fail_times(1, Matching::writes(), Fault::Forbidden);
    assert_eq!(kind(rehearse_create(&maps(&server), &map("m"), MANAGER).await), ErrorKind::Forbidden);
}

#[tokio::test]
async fn a_delete_hits_the_object_that_was_seen_or_nothing() {
    let server = FakeServer::new();
    let maps = maps(&server);
    let old = Seen::of(&server.put(&map("m"))).unwrap();
    server.edit::<ConfigMap>("lab", "m", |map| map.data = None);
    assert_eq!(kind(delete(&maps, &old, DeleteIf::Unchanged, None).await), ErrorKind::Conflict);
    assert_eq!(delete(&maps, &old, DeleteIf::SameObject, None).await.unwrap(), Deletion::Accepted);
    assert_eq!(delete(&maps, &old, DeleteIf::SameObject, None).await.unwrap(), Deletion::AlreadyGone);
    server.put(&map("m"));
    assert_eq!(kind(delete(&maps, &old, DeleteIf::SameObject, None).await), ErrorKind::Conflict);
    assert_eq!(server.objects().len(), 1);
}

#[tokio::test]
async fn finalizers_come_and_go_one_at_a_time() {
    let server = FakeServer::new();
    let maps = maps(&server);
    let bare = server.put(&map("m"));
    let one = add_finalizer(&maps, &bare, "f/one").await.unwrap().unwrap();
    assert_eq!(add_finalizer(&maps, &one, "f/one").await.unwrap(), None);
    assert_eq!(kind(add_finalizer(&maps, &bare, "f/late").await), ErrorKind::Conflict);
    let both = add_finalizer(&maps, &one, "f/two").await.unwrap().unwrap();
    assert_eq!(both.finalizers(), ["f/one", "f/two"]);
    let two = remove_finalizer(&maps, &both, "f/one").await.unwrap().unwrap();
    assert_eq!(two.finalizers(), ["f/two"]);
    // `both` is stale now: its second entry is at another place.
    assert_eq!(kind(remove_finalizer(&maps, &both, "f/two").await), ErrorKind::Conflict);
    assert_eq!(remove_finalizer(&maps, &two, "f/one").await.unwrap(), None);
    // Other writes in between do not disturb the removal.
    server.edit::<ConfigMap>("lab", "m", |map| map.data = None);
    server.delete::<ConfigMap>("lab", "m");
    remove_finalizer(&maps, &two, "f/two").await.unwrap().unwrap();
    assert!(server.objects().is_empty());
    assert_eq!(remove_finalizer(&maps, &two, "f/two").await.unwrap(), None);
}

#[tokio::test]
async fn a_patch_is_bound_to_the_object_or_to_its_state() {
    let server = FakeServer::new();
    let maps = maps(&server);
    let seen = Seen::of(&server.put(&map("m"))).unwrap();
    let set = |value: &str| json!([{"op": "replace", "path": "/data/a", "value": value}]);
    patch(&maps, &seen, PatchIf::Unchanged, set("2")).await.unwrap();
    assert_eq!(kind(patch(&maps, &seen, PatchIf::Unchanged, set("3")).await), ErrorKind::Conflict);
    patch(&maps, &seen, PatchIf::SameObject, set("4")).await.unwrap();
    server.remove::<ConfigMap>("lab", "m");
    assert_eq!(kind(patch(&maps, &seen, PatchIf::SameObject, set("5")).await), ErrorKind::NotFound);
    server.put(&map("m"));
    assert_eq!(kind(patch(&maps, &seen, PatchIf::SameObject, set("5")).await), ErrorKind::Conflict);
    assert_eq!(kind(patch(&maps, &seen, PatchIf::SameObject, json!({})).await), ErrorKind::Bug);
    server.fail_times(1, Matching::writes(), Fault::Invalid("data: Invalid value".into()));
    assert_eq!(kind(patch(&maps, &seen, PatchIf::SameObject, set("6")).await), ErrorKind::Invalid);
}

#[tokio::test]
async fn merge_and_replace_need_the_version_they_were_decided_on() {
    let server = FakeServer::new();
    let maps = maps(&server);
    let first = server.put(&map("m"));
    let seen = Seen::of(&first).unwrap();
    let fields = json!({"metadata": {"labels": {"x": "y"}}});
    let merged = merge(&maps, &seen, MANAGER, &fields).await.unwrap();
    assert_eq!((merged.labels().len(), merged.data.clone()), (1, first.data.clone()));
    assert_eq!(kind(merge(&maps, &seen, MANAGER, &fields).await), ErrorKind::Conflict);
    assert_eq!(kind(replace(&maps, &first, MANAGER).await), ErrorKind::Conflict);
    let mut next = merged;
    next.data = None;
    assert_eq!(replace(&maps, &next, MANAGER).await.unwrap().data, None);
}

#[test]
fn an_object_that_was_never_stored_is_no_precondition() {
    assert_eq!(Seen::of(&map("m")).unwrap_err().kind(), ErrorKind::Bug);
}
