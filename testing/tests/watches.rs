//! Watches: what they show, how they end, how they are resumed.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{WatchEvent, WatchParams},
};
use serde_json::json;
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb};

fn map(name: &str, color: &str) -> ConfigMap {
    let object = json!({"metadata": {"name": name, "namespace": "lab", "labels": {"color": color}}});
    serde_json::from_value(object).unwrap()
}

fn shown(event: &WatchEvent<ConfigMap>) -> String {
    match event {
        WatchEvent::Added(object) => format!("+{}", object.name_any()),
        WatchEvent::Modified(object) => format!("~{}", object.name_any()),
        WatchEvent::Deleted(object) => format!("-{}", object.name_any()),
        WatchEvent::Bookmark(bookmark) => format!("@{}", bookmark.metadata.resource_version),
        WatchEvent::Error(status) => format!("!{}", status.code),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_shows_what_happened_since_its_version_and_ends_with_a_bookmark() {
    let server = FakeServer::new();
    let first = server.put(&map("a", "red"));
    server.put(&map("b", "red"));
    server.edit::<ConfigMap>("lab", "a", |map| map.labels_mut().clear());
    let maps: Api<ConfigMap> = Api::namespaced(server.client("test"), "lab");
    let watch =
        maps.watch(&WatchParams::default().timeout(5), &first.resource_version().unwrap()).await.unwrap();
    server.remove::<ConfigMap>("lab", "b");
    let events: Vec<String> = watch.map_ok(|event| shown(&event)).try_collect().await.unwrap();
    assert_eq!(events, ["+b", "~a", "-b", "@104"]);
}

#[tokio::test(start_paused = true)]
async fn leaving_a_selector_looks_like_a_deletion_and_entering_like_a_creation() {
    let server = FakeServer::new();
    let first = server.put(&map("a", "red"));
    let maps: Api<ConfigMap> = Api::all(server.client("test"));
    let red = WatchParams::default().labels("color=red").timeout(5).disable_bookmarks();
    let watch = maps.watch(&red, &first.resource_version().unwrap()).await.unwrap();
    for color in ["blue", "green", "red", "red"] {
        server.put(&map("a", color));
    }
    let events: Vec<String> = watch.map_ok(|event| shown(&event)).try_collect().await.unwrap();
    assert_eq!(events, ["-a", "+a", "~a"]);
}

#[tokio::test]
async fn a_watch_from_nothing_shows_all_and_can_mark_the_end_of_it() {
    let server = FakeServer::new();
    server.put(&map("a", "red"));
    server.put(&map("b", "red"));
    let maps: Api<ConfigMap> = Api::all(server.client("test"));
    let watch = maps.watch(&WatchParams::streaming_lists(), "0").await.unwrap();
    let events: Vec<WatchEvent<ConfigMap>> = watch.take(3).try_collect().await.unwrap();
    assert_eq!(events.iter().map(shown).collect::<Vec<_>>(), ["+a", "+b", "@102"]);
    let WatchEvent::Bookmark(bookmark) = &events[2] else { panic!("no bookmark") };
    assert!(bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end"));
}

#[tokio::test]
async fn a_version_that_was_compacted_is_expired() {
    let server = FakeServer::new();
    let first = server.put(&map("a", "red"));
    server.put(&map("b", "red"));
    server.compact();
    let maps: Api<ConfigMap> = Api::all(server.client("test"));
    let watch = maps.watch(&WatchParams::default(), &first.resource_version().unwrap()).await.unwrap();
    let events: Vec<String> = watch.map_ok(|event| shown(&event)).try_collect().await.unwrap();
    assert_eq!(events, ["!410"]);
}

#[tokio::test]
async fn a_cut_watch_ends_with_an_error_and_a_refused_one_does_not_begin() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::all(server.client("test"));
    let mut watch = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    server.cut_watches();
    assert!(watch.next().await.unwrap().is_err());
    assert!(watch.next().await.is_none());
    server.fail_times(1, Matching::any().verb(Verb::Watch), Fault::Forbidden);
    assert!(maps.watch(&WatchParams::default(), "0").await.is_err());
    assert!(maps.watch(&WatchParams::default(), "0").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_event_reaches_a_watch_that_waits() {
    let server = FakeServer::new();
    let maps: Api<ConfigMap> = Api::all(server.client("test"));
    let watch = maps.watch(&WatchParams::default().timeout(60), "0").await.unwrap();
    let waiting = tokio::spawn(watch.take(1).map_ok(|event| shown(&event)).try_collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_secs(30)).await;
    server.put(&map("late", "red"));
    assert_eq!(waiting.await.unwrap().unwrap(), ["+late"]);
}
