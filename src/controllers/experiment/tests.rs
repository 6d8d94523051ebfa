//! The experiment controller on an API server in memory, with the paused clock.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use trainyard_api::run_status::{RunPhase, RunStatus};
use trainyard_api::{Experiment, Run};
use trainyard_fake_apiserver::{FakeServer, Matching};

use super::{Setup, start};
use crate::clock::TokioClock;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

struct World {
    server: FakeServer,
    _tasks: Tasks,
}

fn world() -> World {
    let server = FakeServer::new();
    let mut tasks = Tasks::new(CancellationToken::new());
    start(Setup {
        client: server.client("operator"),
        clock: Arc::new(TokioClock::default()),
        metrics: Metrics::new(),
        readiness: Readiness::default(),
        concurrency: 4,
        tasks: &mut tasks,
    });
    World { server, _tasks: tasks }
}

impl World {
    fn put(&self, name: &str, phase: RunPhase) {
        let mut run: Run = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run", "metadata": {"name": name, "namespace": "ml"},
            "spec": {"clusterRef": {"name": "nc6"}, "experiment": "mnist", "container": {"image": "i"}},
        }))
        .expect("a Run as users write it");
        run.status = Some(RunStatus { phase: Some(phase), ..RunStatus::default() });
        self.server.put(&run);
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
