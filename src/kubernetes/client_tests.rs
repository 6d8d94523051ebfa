#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ListParams, WatchParams},
};
use rstest::rstest;
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb, When};

use super::*;
use crate::kubernetes::error::{ErrorKind, kind_of};

fn limited(server: &FakeServer, concurrency: usize) -> (Api<ConfigMap>, Metrics) {
    let metrics = Metrics::new();
    let limits = Limits { concurrency, ..Limits::default() };
    (Api::namespaced(over(server.service(""), "default", limits, metrics.clone()), "lab"), metrics)
}

fn counted(metrics: &Metrics, verb: RequestVerb, code: &str) -> u64 {
    metrics.requests(&RequestLabels { verb, resource: "configmaps".into(), code: code.into() })
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_ends_at_its_time_limit() {
    let server = FakeServer::new();
    let (maps, metrics) = limited(&server, 8);
    server.fail_times(1, Matching::any().verb(Verb::Get), Fault::Hang);
    let start = tokio::time::Instant::now();
    let error = maps.get("a").await.unwrap_err();
    assert_eq!(start.elapsed(), Limits::default().request_time);
    assert_eq!(kind_of(&error), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no complete answer within 10s"), "{error}");
    assert_eq!(counted(&metrics, RequestVerb::Get, "timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_the_time_limit() {
    let server = FakeServer::new();
    let (maps, _) = limited(&server, 8);
    let watch = maps.watch(&WatchParams::default().timeout(50), "0").await.unwrap();
    let start = tokio::time::Instant::now();
    let events: Vec<_> = futures::TryStreamExt::try_collect(watch).await.unwrap();
    assert_eq!((start.elapsed(), events.len()), (Duration::from_secs(50), 1));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_bound_wait_their_turn_and_watches_do_not_count() {
    let server = FakeServer::new();
    let (maps, _) = limited(&server, 1);
    let _watch = maps.watch(&WatchParams::default(), "0").await.unwrap();
    let gate = server.pause(Matching::any().verb(Verb::Get), When::Before);
    let first = tokio::spawn({
        let maps = maps.clone();
        async move { maps.get_opt("a").await }
    });
    gate.reached().await;
    let second = tokio::spawn({
        let maps = maps.clone();
        async move { maps.list(&ListParams::default()).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.count(&Matching::any().verb(Verb::List)), 0);
    gate.release();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_throttled_request_is_returned_at_once_and_not_repeated() {
    let server = FakeServer::new();
    let (maps, metrics) = limited(&server, 8);
    server.fail(Matching::any(), Fault::TooManyRequests(Duration::from_secs(1)));
    assert_eq!(kind_of(&maps.get("a").await.unwrap_err()), ErrorKind::Throttled);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(counted(&metrics, RequestVerb::Get, "429"), 1);
}

#[tokio::test]
async fn requests_say_who_asks() {
    let server = FakeServer::new();
    let (maps, metrics) = limited(&server, 8);
    assert_eq!(maps.get_opt("a").await.unwrap(), None);
    assert!(server.requests()[0].agent.starts_with("trainyard/"));
    assert_eq!(counted(&metrics, RequestVerb::Get, "404"), 1);
}

#[rstest]
#[case("GET", "/api/v1/namespaces/a/pods/b", RequestVerb::Get, "pods")]
#[case("GET", "/api/v1/namespaces/a/pods", RequestVerb::List, "pods")]
#[case("GET", "/api/v1/pods?limit=5", RequestVerb::List, "pods")]
#[case("GET", "/api/v1/pods?watch=true&timeoutSeconds=60", RequestVerb::Watch, "pods")]
#[case("GET", "/api/v1/namespaces/a", RequestVerb::Get, "namespaces")]
#[case("PUT", "/api/v1/namespaces/a/finalize", RequestVerb::Update, "namespaces/finalize")]
#[case("PATCH", "/apis/trainyard.dev/v1alpha1/namespaces/a/runs/b/status", RequestVerb::Patch, "runs/status")]
#[case("DELETE", "/apis/karpenter.sh/v1/nodeclaims/x", RequestVerb::Delete, "nodeclaims")]
#[case("POST", "/apis/events.k8s.io/v1/namespaces/a/events", RequestVerb::Create, "events")]
#[case("GET", "/version", RequestVerb::List, "other")]
fn a_request_is_labelled(
    #[case] method: &str,
    #[case] uri: &str,
    #[case] verb: RequestVerb,
    #[case] resource: &str,
) {
    let request = Request::builder().method(method).uri(uri).body(()).expect("a valid request");
    assert_eq!(verb_of(&request), verb);
    assert_eq!(resource_of(request.uri().path()), resource);
}
