#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, When};

use super::*;
use crate::clock::TokioClock;

struct Fixture {
    server: FakeServer,
    events: Events,
    metrics: Metrics,
    tasks: Tasks,
    object: ConfigMap,
}

fn fixture() -> Fixture {
    let (server, metrics) = (FakeServer::new(), Metrics::new());
    let mut tasks = Tasks::new(CancellationToken::new());
    let clock = Arc::new(TokioClock::default());
    let events = Events::start(server.client("test"), "pod-1", clock, metrics.clone(), &mut tasks);
    let object = json!({"metadata": {"name": "nc6", "namespace": "lab", "uid": "u1"}});
    let object = server.put(&serde_json::from_value(object).unwrap());
    Fixture { server, events, metrics, tasks, object }
}

impl Fixture {
    async fn written(&self) -> Vec<Event> {
        sleep(Duration::from_millis(10)).await;
        self.server.list()
    }

    fn count(&self, outcome: EventOutcome) -> u64 {
        self.metrics.events(outcome)
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_says_who_what_why_and_about_whom() {
    let fixture = fixture();
    fixture.events.tell(&fixture.object, EventReason::MachinesRefused, "no Standard_NC6s_v3 in zone 1");
    let [event] = fixture.written().await.try_into().unwrap();
    assert_eq!(event.metadata.namespace.as_deref(), Some("lab"));
    assert!(event.metadata.name.unwrap().starts_with("nc6."));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(
        (event.reason.as_deref(), event.action.as_deref()),
        (Some("MachinesRefused"), Some("Reconcile"))
    );
    assert_eq!(event.note.as_deref(), Some("no Standard_NC6s_v3 in zone 1"));
    assert_eq!(event.reporting_controller.as_deref(), Some(CONTROLLER));
    assert_eq!(event.reporting_instance.as_deref(), Some("pod-1"));
    assert_eq!(event.event_time.unwrap().0.to_string(), "2030-01-01T00:00:00Z");
    let regarding = event.regarding.unwrap();
    assert_eq!(
        (regarding.kind.as_deref(), regarding.name.as_deref(), regarding.uid.as_deref()),
        (Some("ConfigMap"), Some("nc6"), Some("u1"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_again_counts_up_once_a_minute_and_starts_afresh_after_a_pause() {
    let fixture = fixture();
    for _ in 0..90 {
        fixture.events.tell(&fixture.object, EventReason::Recovered, "ready");
        sleep(Duration::from_secs(2)).await;
    }
    let [event] = fixture.written().await.try_into().unwrap();
    let series = event.series.unwrap();
    assert!((60..=90).contains(&series.count), "{series:?}");
    assert_eq!(fixture.server.count(&Matching::writes()), 1 + 2);
    assert_eq!((fixture.count(EventOutcome::Created), fixture.count(EventOutcome::Aggregated)), (1, 89));
    sleep(SERIES).await;
    fixture.events.tell(&fixture.object, EventReason::Recovered, "ready");
    assert_eq!(fixture.written().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_series_whose_event_has_expired_is_told_anew() {
    let fixture = fixture();
    fixture.events.tell(&fixture.object, EventReason::Recovered, "ready");
    let [event] = fixture.written().await.try_into().unwrap();
    fixture.server.remove::<Event>("lab", &event.metadata.name.unwrap());
    sleep(REFRESH).await;
    fixture.events.tell(&fixture.object, EventReason::Recovered, "ready");
    assert_eq!(fixture.written().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_tells_too_much_is_held_back_and_others_are_not() {
    let fixture = fixture();
    for number in 0..50 {
        fixture.events.tell(&fixture.object, EventReason::Recovered, format!("note {number}"));
    }
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "u2"}})).unwrap();
    fixture.events.tell(&node, EventReason::Recovered, "ready");
    let written = fixture.written().await;
    assert_eq!(written.len(), BURST as usize + 1);
    assert!(written.iter().any(|event| event.metadata.namespace.as_deref() == Some("default")));
    assert_eq!(fixture.count(EventOutcome::Dropped), 30);
    sleep(REFILL).await;
    fixture.events.tell(&fixture.object, EventReason::Recovered, "one more");
    fixture.events.tell(&fixture.object, EventReason::Recovered, "and one too many");
    assert_eq!(fixture.written().await.len(), BURST as usize + 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_note_is_cut_between_letters() {
    let fixture = fixture();
    fixture.events.tell(&fixture.object, EventReason::Recovered, "ü".repeat(1000) + "x");
    fixture.events.tell(&fixture.object, EventReason::Recovered, "x".to_owned() + &"ü".repeat(1000));
    let lengths: Vec<usize> =
        fixture.written().await.iter().map(|event| event.note.as_ref().unwrap().len()).collect();
    assert_eq!(lengths, [1024, 1023]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_take_them_disturbs_nobody() {
    let fixture = fixture();
    let gate = fixture.server.pause(Matching::writes(), When::Before);
    for number in 0..=WAITING + 10 {
        fixture.events.tell(&fixture.object, EventReason::Recovered, format!("note {number}"));
        if number == 0 {
            gate.reached().await;
        }
    }
    assert_eq!(fixture.count(EventOutcome::Dropped), 10);
    fixture.server.fail(Matching::writes(), Fault::Forbidden);
    gate.release();
    sleep(Duration::from_secs(1)).await;
    assert!(fixture.count(EventOutcome::Failed) > 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_before_a_shutdown_is_still_written() {
    let fixture = fixture();
    fixture.events.tell(&fixture.object, EventReason::Recovered, "one");
    fixture.events.tell(&fixture.object, EventReason::Recovered, "two");
    fixture.tasks.token().cancel();
    fixture.tasks.run().await.unwrap();
    assert_eq!(fixture.server.list::<Event>().len(), 2);
}
