#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::atomic::AtomicUsize};

use jiff::SignedDuration;

use super::*;
use crate::clock::{Clock as _, TokioClock};

#[derive(Debug, thiserror::Error)]
#[error("broken")]
struct Broken(ErrorKind, Duration);

impl Failure for Broken {
    fn kind(&self) -> ErrorKind {
        self.0
    }

    fn retry_after(&self) -> Option<Duration> {
        (self.1 > Duration::ZERO).then_some(self.1)
    }
}

type Answer = Result<Outcome, Broken>;

/// A queue whose reconcile takes a second, records when it ran, and answers what the test has laid down.
#[derive(Clone)]
struct Fixture {
    queue: Queue<&'static str>,
    clock: TokioClock,
    start: Timestamp,
    runs: Arc<Mutex<Vec<(&'static str, f64)>>>,
    answers: Arc<Mutex<BTreeMap<&'static str, VecDeque<Answer>>>>,
    at_once: Arc<AtomicUsize>,
    metrics: Metrics,
    token: CancellationToken,
}

const TAKES: Duration = Duration::from_secs(1);

fn fixture(concurrency: usize) -> Fixture {
    let (clock, metrics) = (TokioClock::default(), Metrics::new());
    Fixture {
        queue: Queue::new(ControllerName::Cluster, Arc::new(clock), concurrency, metrics.clone()),
        clock,
        start: clock.now(),
        runs: Arc::default(),
        answers: Arc::default(),
        at_once: Arc::default(),
        metrics,
        token: CancellationToken::new(),
    }
}

impl Fixture {
    fn spawn(&self) -> tokio::task::JoinHandle<Result<(), Fault>> {
        let fixture = self.clone();
        tokio::spawn(async move {
            let token = fixture.token.clone();
            fixture.queue.clone().run(token, |key| fixture.clone().reconcile(key)).await
        })
    }

    async fn reconcile(self, key: &'static str) -> Answer {
        self.runs.lock().unwrap().push((key, self.seconds()));
        let now = self.at_once.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        assert!(now <= self.queue.shared.concurrency, "{now} at once");
        tokio::time::sleep(TAKES).await;
        self.at_once.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        answers.get_mut(key).and_then(VecDeque::pop_front).unwrap_or(Ok(Outcome::settled()))
    }

    fn answer(&self, key: &'static str, answer: Answer) {
        self.answers.lock().unwrap().entry(key).or_default().push_back(answer);
    }

    fn seconds(&self) -> f64 {
        self.clock.now().duration_since(self.start).as_secs_f64()
    }

    fn at(&self, seconds: i64) -> Timestamp {
        self.start + SignedDuration::from_secs(seconds)
    }

    /// The runs of the next `seconds`, with whole seconds since the start.
    async fn runs_within(&self, seconds: u64) -> Vec<(&'static str, u64)> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let runs = std::mem::take(&mut *self.runs.lock().unwrap());
        runs.into_iter().map(|(key, when)| (key, when.floor() as u64)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn many_triggers_of_a_waiting_key_are_one_run() {
    let fixture = fixture(4);
    for _ in 0..5 {
        fixture.queue.trigger("a");
    }
    fixture.spawn();
    assert_eq!(fixture.runs_within(30).await, [("a", 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_during_the_run_makes_one_more_run_after_it() {
    let fixture = fixture(4);
    fixture.spawn();
    fixture.queue.trigger("a");
    tokio::time::sleep(Duration::from_millis(500)).await;
    fixture.queue.trigger("a");
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(30).await, [("a", 0), ("a", 1)]);
}

#[tokio::test(start_paused = true)]
async fn no_more_keys_run_at_once_than_allowed_and_the_first_come_first() {
    let fixture = fixture(2);
    for key in ["a", "b", "c", "d", "e"] {
        fixture.queue.trigger(key);
    }
    fixture.spawn();
    assert_eq!(fixture.runs_within(30).await, [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_fires_at_its_time_and_the_newest_replaces_the_one_before() {
    let fixture = fixture(4);
    fixture.answer("a", Ok(Outcome::wake_at(fixture.at(100))));
    fixture.answer("a", Ok(Outcome::wake_at(fixture.at(50))));
    fixture.answer("a", Ok(Outcome::wake_at(fixture.at(200))));
    fixture.spawn();
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(10).await, [("a", 0)]);
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(290).await, [("a", 10), ("a", 50), ("a", 200)]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_that_has_passed_fires_at_once() {
    let fixture = fixture(4);
    fixture.answer("a", Ok(Outcome::wake_at(fixture.at(0))));
    fixture.spawn();
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(30).await, [("a", 0), ("a", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_asked_for_from_outside_stays_until_it_fires_and_the_earliest_wins() {
    let fixture = fixture(4);
    fixture.spawn();
    for seconds in [40, 20, 60] {
        fixture.queue.trigger_at(&"a", fixture.at(seconds));
    }
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(300).await, [("a", 0), ("a", 20)]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_longer_each_time_whatever_triggers_it_and_starts_afresh_after_success() {
    let fixture = fixture(4);
    for _ in 0..12 {
        fixture.answer("a", Err(Broken(ErrorKind::Unavailable, Duration::ZERO)));
    }
    let triggering = tokio::spawn({
        let queue = fixture.queue.clone();
        async move {
            loop {
                queue.trigger("a");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    fixture.spawn();
    let runs = fixture.runs_within(400).await;
    let waits: Vec<u64> = runs.windows(2).map(|pair| pair[1].1 - pair[0].1).take(12).collect();
    assert!(waits[..6].is_sorted() && waits[6..].iter().all(|wait| (45..=62).contains(wait)), "{waits:?}");
    triggering.abort();
    fixture.runs_within(600).await;
    fixture.answer("a", Ok(Outcome::settled()));
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(5).await.len(), 1);
    fixture.answer("a", Err(Broken(ErrorKind::Unavailable, Duration::ZERO)));
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(5).await.len(), 2, "the first wait is short again");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_repeated_soon_and_a_server_that_asks_for_time_gets_it() {
    let fixture = fixture(4);
    fixture.answer("a", Err(Broken(ErrorKind::Conflict, Duration::ZERO)));
    fixture.answer("a", Err(Broken(ErrorKind::Throttled, Duration::from_secs(20))));
    fixture.spawn();
    fixture.queue.trigger("a");
    assert_eq!(fixture.runs_within(60).await, [("a", 0), ("a", 1), ("a", 22)]);
    let count = |outcome| fixture.metrics.reconciles(ControllerName::Cluster, outcome);
    assert_eq!(count(ReconcileOutcome::Conflicted), 1);
    assert_eq!(count(ReconcileOutcome::Failed), 1);
    assert_eq!(count(ReconcileOutcome::Settled), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_does_not_hold_others() {
    let fixture = fixture(1);
    for _ in 0..5 {
        fixture.answer("bad", Err(Broken(ErrorKind::Bug, Duration::ZERO)));
    }
    fixture.spawn();
    fixture.queue.trigger("bad");
    fixture.queue.trigger("good");
    assert_eq!(fixture.runs_within(2).await[..2], [("bad", 0), ("good", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_the_queue_with_a_fault_that_names_the_key() {
    let queue = Queue::new(ControllerName::Run, Arc::new(TokioClock::default()), 1, Metrics::new());
    queue.trigger("a");
    let explode = |key: &'static str| async move {
        if key == "a" { panic!("no such node") } else { Answer::Ok(Outcome::settled()) }
    };
    let fault = queue.run(CancellationToken::new(), explode).await.unwrap_err();
    assert_eq!(fault.to_string(), "task reconcile panicked: run a: no such node");
}

#[tokio::test(start_paused = true)]
async fn shutting_down_lets_a_run_finish_and_starts_no_other() {
    let fixture = fixture(1);
    let running = fixture.spawn();
    fixture.queue.trigger("a");
    fixture.queue.trigger("b");
    tokio::time::sleep(Duration::from_millis(500)).await;
    fixture.token.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(fixture.seconds() as u64, 1);
    assert_eq!(fixture.runs.lock().unwrap().len(), 1);
    assert_eq!(fixture.metrics.reconciles(ControllerName::Cluster, ReconcileOutcome::Settled), 1);
}

#[tokio::test(start_paused = true)]
async fn streams_feed_the_queue() {
    let fixture = fixture(4);
    fixture.spawn();
    fixture.queue.feed(futures::stream::iter(["a", "b", "a"])).await;
    assert_eq!(fixture.runs_within(30).await, [("a", 0), ("b", 0)]);
}
