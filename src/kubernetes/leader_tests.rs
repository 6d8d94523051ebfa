#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb, When};

use super::*;
use crate::{clock::TokioClock, telemetry::readiness::Readiness};

const NAMESPACE: &str = "trainyard-system";
const NAME: &str = "trainyard";

fn candidate(server: &FakeServer, identity: &str) -> Election {
    let candidacy = Candidacy {
        namespace: NAMESPACE.into(),
        name: NAME.into(),
        identity: identity.into(),
        timing: Timing::default(),
    };
    Election::new(server.client(identity), candidacy, Arc::new(TokioClock::default()))
}

async fn won(server: &FakeServer, identity: &str) -> Term {
    candidate(server, identity).win(&mut Readiness::default().gate("lease")).await
}

fn lease(server: &FakeServer) -> LeaseSpec {
    server.get::<Lease>(NAMESPACE, NAME).unwrap().spec.unwrap()
}

fn holder(server: &FakeServer) -> String {
    lease(server).holder_identity.unwrap()
}

fn spec(holder: &str) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        ..LeaseSpec::default()
    }
}

#[test]
fn the_decision_looks_at_holder_and_own_observation_only() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let duration = Duration::from_secs(15);
    let decide = |lease: &LeaseSpec, now| decide(lease, "me", duration, start, now);
    assert_eq!(decide(&spec(""), at(0)), Decision::Acquire);
    assert_eq!(decide(&LeaseSpec::default(), at(0)), Decision::Acquire);
    assert_eq!(decide(&spec("me"), at(100)), Decision::Renew);
    assert_eq!(decide(&spec("other"), at(0)), Decision::Wait(at(15)));
    assert_eq!(decide(&spec("other"), at(14)), Decision::Wait(at(15)));
    assert_eq!(decide(&spec("other"), at(15)), Decision::Acquire);
    let patient = LeaseSpec { lease_duration_seconds: Some(60), ..spec("other") };
    assert_eq!(decide(&patient, at(15)), Decision::Wait(at(60)), "the holder's longer duration counts");
    let wrong = LeaseSpec { lease_duration_seconds: Some(-1), ..spec("other") };
    assert_eq!(decide(&wrong, at(14)), Decision::Wait(at(15)));
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_wins_and_the_other_waits_while_it_renews() {
    let server = FakeServer::new();
    let mut first = won(&server, "one").await;
    let readiness = Readiness::default();
    let mut standby = readiness.gate("lease");
    let second = candidate(&server, "two");
    let second = tokio::spawn(async move { second.win(&mut standby).await });
    let kept = timeout(Duration::from_mins(5), first.keep()).await;
    assert!(kept.is_err(), "still held after five minutes: {kept:?}");
    assert!(!second.is_finished());
    assert_eq!((holder(&server).as_str(), lease(&server).lease_transitions), ("one", Some(0)));
    assert_eq!(readiness.pending(), Vec::<String>::new(), "a candidate that waits is ready");
    let renewals = server.count(&Matching::any().verb(Verb::Update));
    assert!((58..=60).contains(&renewals), "{renewals} renewals in five minutes");
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_at_the_same_instant_one_wins() {
    let server = FakeServer::new();
    let gate = server.pause(Matching::any().verb(Verb::Create).agent("one"), When::Before);
    let first = tokio::spawn({
        let candidate = candidate(&server, "one");
        async move { candidate.win(&mut Readiness::default().gate("lease")).await }
    });
    gate.reached().await;
    let _second = won(&server, "two").await;
    gate.release();
    sleep(Duration::from_secs(5)).await;
    assert!(!first.is_finished());
    assert_eq!(holder(&server), "two");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_taken_after_its_duration_and_not_before() {
    let server = FakeServer::new();
    let _crashed = won(&server, "one").await;
    let start = Instant::now();
    let _second = won(&server, "two").await;
    let waited = start.elapsed();
    assert!((Duration::from_secs(15)..Duration::from_millis(15_100)).contains(&waited), "{waited:?}");
    assert_eq!((holder(&server).as_str(), lease(&server).lease_transitions), ("two", Some(1)));
}

#[tokio::test(start_paused = true)]
async fn an_expired_lease_goes_to_one_of_two_who_want_it() {
    let server = FakeServer::new();
    let _crashed = won(&server, "one").await;
    let gate = server.pause(Matching::any().verb(Verb::Update).agent("two"), When::Before);
    let second = tokio::spawn({
        let candidate = candidate(&server, "two");
        async move { candidate.win(&mut Readiness::default().gate("lease")).await }
    });
    let _third = won(&server, "three").await;
    gate.reached().await;
    gate.release();
    sleep(Duration::from_secs(5)).await;
    assert!(!second.is_finished(), "its replace met a newer version");
    assert_eq!(holder(&server), "three");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_before_anyone_else_starts() {
    for fault in [Fault::Hang, Fault::InternalError, Fault::Cut(When::Before)] {
        let server = FakeServer::new();
        let mut first = won(&server, "one").await;
        let start = Instant::now();
        let second = tokio::spawn({
            let server = server.clone();
            async move { (won(&server, "two").await, Instant::now()) }
        });
        server.fail(Matching::any().agent("one"), fault.clone());
        assert_eq!(first.keep().await, Lost::NotRenewed(Duration::from_secs(10)), "{fault:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(10), "{fault:?}");
        assert!(second.await.unwrap().1 >= start + Duration::from_secs(15), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_trouble_is_survived() {
    let server = FakeServer::new();
    let mut first = won(&server, "one").await;
    server.fail_times(1, Matching::any().verb(Verb::Update), Fault::Hang);
    let kept = timeout(Duration::from_secs(14), first.keep()).await;
    assert!(kept.is_err(), "{kept:?}");
    // An answer that was lost leaves a version we do not know, and our name in it.
    server.fail_nth_write(1, When::After);
    let kept = timeout(Duration::from_secs(30), first.keep()).await;
    assert!(kept.is_err(), "{kept:?}");
    assert_eq!(lease(&server).lease_transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_lease_was_taken_or_deleted_stops_at_its_next_renewal() {
    let server = FakeServer::new();
    let mut first = won(&server, "one").await;
    server.edit::<Lease>(NAMESPACE, NAME, |lease| lease.spec = Some(spec("two")));
    assert_eq!(first.keep().await, Lost::Taken("two".into()));

    let server = FakeServer::new();
    let mut first = won(&server, "one").await;
    server.remove::<Lease>(NAMESPACE, NAME);
    assert_eq!(first.keep().await, Lost::Taken(String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_the_next_look() {
    let server = FakeServer::new();
    let first = won(&server, "one").await;
    let second = tokio::spawn({
        let server = server.clone();
        async move { won(&server, "two").await }
    });
    sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    first.release().await.unwrap();
    second.await.unwrap();
    assert!(start.elapsed() <= Timing::default().retry_every, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_comes_back_under_its_identity_goes_on_at_once() {
    let server = FakeServer::new();
    let _crashed = won(&server, "one").await;
    let start = Instant::now();
    let _again = won(&server, "one").await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(lease(&server).lease_transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_may_not_read_the_lease_keeps_asking_and_is_not_ready() {
    let server = FakeServer::new();
    server.fail(Matching::any(), Fault::Forbidden);
    let readiness = Readiness::default();
    let mut standby = readiness.gate("lease");
    let candidate = candidate(&server, "one");
    let candidate = tokio::spawn(async move { candidate.win(&mut standby).await });
    sleep(Duration::from_mins(1)).await;
    assert_eq!(readiness.pending(), ["lease"]);
    assert!((25..=32).contains(&server.requests().len()), "{}", server.requests().len());
    server.heal();
    candidate.await.unwrap();
}
