//! The experiment controller on an API server in memory, with the paused clock.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use trainyard_api::run_status::{RunPhase, RunStatus};
use trainyard_api::{Experiment, Run, Time};
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb, When};

use super::{Setup, start};
use crate::clock::{Clock as _, TokioClock};
use crate::kubernetes::events::Events;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

struct World {
    server: FakeServer,
    clock: Arc<TokioClock>,
    _tasks: Tasks,
}

fn world() -> World {
    let server = FakeServer::new();
    let mut tasks = Tasks::new(CancellationToken::new());
    let clock = Arc::new(TokioClock::default());
    let (client, metrics) = (server.client("operator"), Metrics::new());
    let events = Events::start(client.clone(), "operator", clock.clone(), metrics.clone(), &mut tasks);
    start(Setup {
        client,
        clock: clock.clone(),
        metrics,
        readiness: Readiness::default(),
        events,
        concurrency: 4,
        tasks: &mut tasks,
    });
    World { server, clock, _tasks: tasks }
}

impl World {
    fn put(&self, name: &str, phase: RunPhase) {
        let mut run: Run = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run", "metadata": {"name": name, "namespace": "ml"},
            "spec": {"clusterRef": {"name": "nc6"}, "experiment": "mnist", "container": {"image": "i"}},
        }))
        .expect("a Run as users write it");
        let completion_time = phase.is_terminal().then(|| Time(self.clock.now()));
        run.status = Some(RunStatus { phase: Some(phase), completion_time, ..RunStatus::default() });
        self.server.put(&run);
    }

    fn keep(&self, retention: &serde_json::Value) {
        let experiment: Experiment = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Experiment", "metadata": {"name": "mnist", "namespace": "ml"},
            "spec": {"retention": retention},
        }))
        .expect("an Experiment as users write it");
        self.server.put(&experiment);
    }

    fn runs(&self) -> Vec<String> {
        self.server.list::<Run>().iter().map(ResourceExt::name_any).collect()
    }

    fn experiment(&self) -> Option<Experiment> {
        self.server.get("ml", "mnist")
    }

    fn running(&self) -> Option<i32> {
        Some(self.experiment()?.status?.runs.running)
    }

    async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_run_makes_its_experiment_and_is_counted() {
    let world = world();
    world.put("r1", RunPhase::Running);
    world.pass(100).await;
    let experiment = world.experiment().expect("it was made");
    assert_eq!(experiment.metadata.owner_references, None);
    assert_eq!(world.running(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn many_changes_are_one_write_in_two_seconds_and_rest_is_none() {
    let world = world();
    world.put("r0", RunPhase::Queued);
    world.pass(100).await;
    let writes = Matching::writes().resource("experiments/status");
    let before = world.server.count(&writes);
    for index in 1..50 {
        world.put(&format!("r{index}"), RunPhase::Running);
        world.pass(20).await;
    }
    assert_eq!(world.server.count(&writes), before, "quiet for two seconds");
    world.pass(2000).await;
    assert_eq!((world.server.count(&writes), world.running()), (before + 1, Some(49)));
    world.pass(60_000).await;
    assert_eq!(world.server.count(&writes), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_pruned_experiment_is_made_again_only_while_a_run_needs_it() {
    let world = world();
    world.put("r1", RunPhase::Running);
    world.pass(100).await;
    world.server.remove::<Experiment>("ml", "mnist");
    world.pass(3000).await;
    assert_eq!(world.running(), Some(1));
    world.put("r1", RunPhase::Completed);
    world.server.remove::<Experiment>("ml", "mnist");
    world.pass(3000).await;
    assert!(world.experiment().is_none());
}

#[tokio::test(start_paused = true)]
async fn finished_runs_are_kept_for_their_time_and_unfinished_ones_however_old_they_are() {
    let world = world();
    world.keep(&json!({"maxAge": "1h"}));
    world.put("first", RunPhase::Completed);
    let unfinished = RunPhase::ALL.iter().filter(|phase| !phase.is_terminal());
    for (number, phase) in unfinished.enumerate() {
        world.put(&format!("live-{number}"), *phase);
    }
    let live = world.runs().len() - 1;
    world.pass(30 * 60_000).await;
    world.put("second", RunPhase::Failed);
    world.put("third", RunPhase::Canceled);
    world.pass(30 * 60_000 - 1000).await;
    assert_eq!(world.runs().len(), live + 3);
    world.pass(2000).await;
    assert_eq!(world.runs().len(), live + 2, "the one that ended first");
    assert!(!world.runs().contains(&"first".to_owned()));
    world.pass(3 * 60 * 60_000).await;
    assert_eq!(world.runs().len(), live);
    let counts = world.experiment().and_then(|one| one.status).expect("it is counted").runs;
    assert_eq!((counts.total as usize, counts.completed + counts.failed + counts.canceled), (live, 0));
}

#[tokio::test(start_paused = true)]
async fn many_old_runs_go_in_lots_the_oldest_first() {
    let world = world();
    for number in 0..100 {
        world.put(&format!("r{number:03}"), RunPhase::Completed);
        world.pass(1000).await;
    }
    world.keep(&json!({"maxCount": 30}));
    world.pass(2500).await;
    let left = world.runs();
    assert!((60..=80).contains(&left.len()), "some 10 a second, and not {}", 100 - left.len());
    assert_eq!(left[0], format!("r{:03}", 100 - left.len()), "the oldest went");
    world.pass(10_000).await;
    let left = world.runs();
    assert_eq!((left.len(), left[0].as_str()), (30, "r070"));
    world.server.forget_requests();
    world.pass(60_000).await;
    assert_eq!(world.server.count(&Matching::writes()), 0, "and that is all");
    world.put("r100", RunPhase::Failed);
    world.pass(2000).await;
    assert_eq!(world.runs()[0], "r071", "each new one takes the place of the oldest");
}

#[tokio::test(start_paused = true)]
async fn a_run_made_again_under_its_name_is_not_deleted_for_the_old_one() {
    let world = world();
    world.put("r1", RunPhase::Completed);
    world.pass(100).await;
    let deletion = world.server.pause(Matching::any().verb(Verb::Delete).resource("runs"), When::Before);
    world.keep(&json!({"maxAge": "1s"}));
    world.pass(2000).await;
    world.server.remove::<Run>("ml", "r1");
    world.put("r1", RunPhase::Running);
    deletion.release();
    world.pass(5000).await;
    assert_eq!((world.runs(), world.running()), (vec!["r1".to_owned()], Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_mind_that_the_cache_has_not_seen_keeps_the_runs() {
    let world = world();
    world.put("r1", RunPhase::Completed);
    world.keep(&json!({"maxAge": "10s"}));
    world.pass(5000).await;
    world.server.fail(Matching::any().verb(Verb::Watch).resource("experiments"), Fault::InternalError);
    world.server.cut_watches();
    world.pass(100).await;
    world.server.edit::<Experiment>("ml", "mnist", |one| one.spec.retention = None);
    world.pass(60_000).await;
    assert_eq!(world.runs(), ["r1"]);
    world.server.heal();
    world.pass(60_000).await;
    assert_eq!(world.runs(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_may_not_be_deleted_keeps_no_other_from_it() {
    let world = world();
    for name in ["a", "b", "c"] {
        world.put(name, RunPhase::Completed);
    }
    let kept = Matching::any().verb(Verb::Delete).resource("runs").name("a");
    world.server.fail(kept, Fault::ForbiddenBecause("a policy keeps it".into()));
    world.keep(&json!({"maxCount": 0}));
    world.pass(20_000).await;
    assert_eq!(world.runs(), ["a"]);
}
