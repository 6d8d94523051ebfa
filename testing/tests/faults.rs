//! Faults, gates and the record of requests.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb, When};

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

async fn create(client: &Client, name: &str) -> Result<ConfigMap, kube::Error> {
    Api::namespaced(client.clone(), "lab").create(&PostParams::default(), &map(name)).await
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("no answer of the server: {other}"),
    }
}

#[tokio::test]
async fn the_nth_write_is_lost_before_or_after_the_server_acts() {
    let server = FakeServer::new();
    let client = server.client("test");
    server.fail_nth_write(2, When::Before);
    create(&client, "a").await.unwrap();
    assert!(create(&client, "b").await.is_err());
    assert!(server.get::<ConfigMap>("lab", "b").is_none());
    create(&client, "b").await.unwrap();
    server.fail_nth_write(1, When::After);
    assert!(create(&client, "c").await.is_err());
    assert!(server.get::<ConfigMap>("lab", "c").is_some());
}

#[tokio::test]
async fn refusals_carry_their_codes_and_end_when_healed() {
    let server = FakeServer::new();
    let client = server.client("test");
    let creates = || Matching::any().verb(Verb::Create).resource("configmaps").namespace("lab");
    for (fault, expected) in [
        (Fault::Conflict, 409),
        (Fault::Forbidden, 403),
        (Fault::Invalid("no".into()), 422),
        (Fault::InternalError, 500),
        (Fault::Expired, 410),
    ] {
        server.fail_times(1, creates(), fault);
        assert_eq!(code(create(&client, "a").await.unwrap_err()), expected);
    }
    server.fail(creates(), Fault::TooManyRequests(Duration::from_secs(7)));
    for _ in 0..2 {
        let kube::Error::Api(status) = create(&client, "a").await.unwrap_err() else { panic!("no status") };
        assert_eq!((status.code, status.details.unwrap().retry_after_seconds), (429, 7));
    }
    server.heal();
    create(&client, "a").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_never_answered_nor_carried_out() {
    let server = FakeServer::new();
    server.fail_times(1, Matching::writes(), Fault::Hang);
    let client = server.client("test");
    assert!(tokio::time::timeout(Duration::from_hours(1), create(&client, "a")).await.is_err());
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn a_gate_holds_one_request_between_the_act_and_its_answer() {
    let server = FakeServer::new();
    let gate = server.pause(Matching::writes().agent("one"), When::After);
    let held = tokio::spawn({
        let client = server.client("one");
        async move { create(&client, "a").await }
    });
    gate.reached().await;
    assert!(server.get::<ConfigMap>("lab", "a").is_some());
    assert!(!held.is_finished());
    // Others pass, and so do later requests of the same client.
    create(&server.client("two"), "b").await.unwrap();
    create(&server.client("one"), "c").await.unwrap();
    gate.release();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_are_counted_by_verb_resource_and_agent() {
    let server = FakeServer::new();
    create(&server.client("one/1.0"), "a").await.unwrap();
    create(&server.client("two"), "b").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.client("two"), "lab");
    maps.get("b").await.unwrap();
    assert_eq!(server.count(&Matching::any()), 3);
    assert_eq!(server.count(&Matching::writes().agent("one/1.0")), 1);
    assert_eq!(server.count(&Matching::any().verb(Verb::Get).resource("configmaps").name("b")), 1);
    server.forget_requests();
    assert_eq!(server.requests(), []);
}
