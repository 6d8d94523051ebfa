#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb};

use super::*;

/// A running watch of the colors of config maps, and what its listener was told.
struct Fixture {
    server: FakeServer,
    cache: Cache<String>,
    told: Arc<Mutex<Vec<String>>>,
    metrics: Metrics,
    readiness: Readiness,
    _tasks: Tasks,
}

fn map(name: &str, color: &str) -> ConfigMap {
    let annotations =
        json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "foreign": "x".repeat(100)});
    let metadata =
        json!({"name": name, "namespace": "lab", "labels": {"color": color}, "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata, "data": {"color": color}})).unwrap()
}

fn start(server: FakeServer, watch: Watch<ConfigMap>) -> Fixture {
    let told = Arc::new(Mutex::new(Vec::new()));
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let mut tasks = Tasks::new(CancellationToken::new());
    let cache = watch
        .reduce(|map| {
            assert!(
                map.metadata.managed_fields.is_none() && map.metadata.annotations.is_none(),
                "pruned on arrival"
            );
            map.data?.get("color").cloned()
        })
        .index(|color| Some(color.clone()))
        .notify({
            let told = Arc::clone(&told);
            move |change| {
                let side =
                    |side: &Option<Arc<String>>| side.as_ref().map_or("-".to_owned(), ToString::to_string);
                let line = format!("{} {}>{}", change.key, side(&change.before), side(&change.after));
                told.lock().unwrap().push(line);
            }
        })
        .start(&mut tasks, &readiness, &metrics);
    Fixture { server, cache, told, metrics, readiness, _tasks: tasks }
}

fn started() -> Fixture {
    let server = FakeServer::new();
    server.put(&map("a", "red"));
    server.put(&map("b", "blue"));
    let api = Api::all(server.client("test"));
    start(server, Watch::new("maps", api))
}

impl Fixture {
    /// What the listener was told, after everything that can happen by then has happened.
    async fn told_within(&self, time: Duration) -> Vec<String> {
        tokio::time::sleep(time).await;
        std::mem::take(&mut self.told.lock().unwrap())
    }

    async fn told(&self) -> Vec<String> {
        self.told_within(Duration::from_millis(10)).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_list_fills_the_cache_and_opens_the_gate() {
    let fixture = started();
    assert_eq!(fixture.readiness.pending(), ["watch maps"]);
    fixture.readiness.reached().await;
    assert!(fixture.cache.is_initialised());
    assert_eq!(fixture.told().await, ["lab/a ->red", "lab/b ->blue"]);
    assert_eq!(fixture.cache.get(&ObjectKey::namespaced("lab", "a")).unwrap().as_str(), "red");
    assert_eq!(fixture.cache.indexed("blue").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_changes_of_what_is_kept_are_told_and_both_sides_of_them() {
    let fixture = started();
    fixture.told().await;
    fixture.server.edit::<ConfigMap>("lab", "a", |map| {
        map.labels_mut().insert("x".into(), "y".into());
    });
    assert_eq!(fixture.told().await, Vec::<String>::new());
    fixture.server.put(&map("a", "green"));
    fixture.server.remove::<ConfigMap>("lab", "b");
    assert_eq!(fixture.told().await, ["lab/a red>green", "lab/b blue>-"]);
    assert_eq!(fixture.cache.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_the_watch_was_cut_is_told_after_the_next_list() {
    let fixture = started();
    fixture.told().await;
    fixture.server.fail_times(1, Matching::any().verb(Verb::Watch), Fault::InternalError);
    fixture.server.cut_watches();
    fixture.server.remove::<ConfigMap>("lab", "a");
    fixture.server.put(&map("c", "red"));
    fixture.server.compact();
    assert_eq!(fixture.told_within(Duration::from_mins(2)).await, ["lab/c ->red", "lab/a red>-"]);
    assert!(fixture.metrics.watch_faults("maps", WatchFault::Stream) >= 2);
    fixture.server.put(&map("c", "blue"));
    assert_eq!(fixture.told().await, ["lab/c red>blue"]);
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_watch_asks_rarely_and_recovers() {
    let server = FakeServer::new();
    server.put(&map("a", "red"));
    server.fail(Matching::any().verb(Verb::List), Fault::Forbidden);
    let api = Api::all(server.client("test"));
    let fixture = start(server, Watch::new("maps", api));
    assert_eq!(fixture.told_within(Duration::from_mins(10)).await, Vec::<String>::new());
    let asked = fixture.server.count(&Matching::any());
    assert!((10..60).contains(&asked), "{asked} requests in ten minutes");
    assert!(!fixture.cache.is_initialised());
    fixture.server.heal();
    assert_eq!(fixture.told_within(Duration::from_mins(1)).await, ["lab/a ->red"]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_costs_one_request_a_minute() {
    let fixture = started();
    fixture.told().await;
    fixture.server.forget_requests();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let asked = fixture.server.count(&Matching::any());
    assert_eq!(asked, fixture.server.count(&Matching::any().verb(Verb::Watch)), "no list");
    assert!((9..=10).contains(&asked), "{asked} requests in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_selection_narrows_list_and_watch() {
    let server = FakeServer::new();
    server.put(&map("a", "red"));
    server.put(&map("b", "blue"));
    let api = Api::all(server.client("test"));
    let selection = Selection::all().labels("color=red").fields("metadata.name!=z");
    let fixture = start(server, Watch::new("maps", api).select(selection));
    assert_eq!(fixture.told().await, ["lab/a ->red"]);
    fixture.server.put(&map("b", "red"));
    fixture.server.put(&map("z", "red"));
    fixture.server.put(&map("a", "blue"));
    assert_eq!(fixture.told().await, ["lab/b ->red", "lab/a red>-"]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_does_not_decode_counts_as_absent_and_stops_nothing() {
    let server = FakeServer::new();
    server.put(&map("a", "red"));
    let api: Api<DeserializeGuard<ConfigMap>> = Api::all(server.client("test"));
    let fixture = start(server, Watch::guarded("maps", api));
    fixture.told().await;
    let broken = json!({"metadata": {"name": "a", "namespace": "lab"}, "data": "not a map"});
    let maps: Api<ConfigMap> = Api::namespaced(fixture.server.client("test"), "lab");
    let patch = kube::api::Patch::Merge(&broken);
    // The answer does not decode either, which is no concern of this test.
    let _ = maps.patch("a", &kube::api::PatchParams::default(), &patch).await;
    fixture.server.put(&map("b", "blue"));
    assert_eq!(fixture.told().await, ["lab/a red>-", "lab/b ->blue"]);
    assert_eq!(fixture.metrics.watch_faults("maps", WatchFault::Undecodable), 1);
}

#[tokio::test(start_paused = true)]
async fn metadata_alone_can_be_watched() {
    let server = FakeServer::new();
    server.put(&map("a", "red"));
    let mut tasks = Tasks::new(CancellationToken::new());
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let api: Api<PartialObjectMeta<ConfigMap>> = Api::all(server.client("test"));
    let cache = Watch::metadata("maps", api)
        .reduce(|map| Some(map.name_any()))
        .start(&mut tasks, &readiness, &metrics);
    readiness.reached().await;
    assert_eq!(cache.all(), [Arc::new("a".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_others_write_into_metadata_is_not_kept() {
    let server = FakeServer::new();
    let mut written = map("a", "red");
    written.annotations_mut().insert("asked-for".to_owned(), "yes".to_owned());
    written.metadata.owner_references = Some(vec![OwnerReference::default()]);
    server.put(&written);
    let mut tasks = Tasks::new(CancellationToken::new());
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let api: Api<ConfigMap> = Api::all(server.client("test"));
    let foreign = Watch::new("others", api).annotations(&["asked-for"]).whole();
    let foreign = foreign.start(&mut tasks, &readiness, &metrics);
    let api: Api<DeserializeGuard<ConfigMap>> = Api::all(server.client("test"));
    let ours = Watch::guarded("ours", api).whole().start(&mut tasks, &readiness, &metrics);
    readiness.reached().await;

    let kept = foreign.all().pop().unwrap();
    assert_eq!(kept.annotations().iter().collect::<Vec<_>>(), [(&"asked-for".to_owned(), &"yes".to_owned())]);
    assert_eq!(kept.labels().len(), 1, "those of others say where a Node is");
    let metadata = &ours.all().pop().unwrap().metadata;
    assert_eq!((&metadata.annotations, &metadata.labels, &metadata.owner_references), (&None, &None, &None));
}
