#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser as _;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::{Instant, sleep};
use trainyard_fake_apiserver::{FakeServer, Fault as Injected, Matching};

use super::*;
use crate::{
    clock::TokioClock,
    kubernetes::client::{Limits, over},
    settings::{Arguments, Command},
};

fn context(server: &FakeServer, identity: &str, more: &[&str]) -> Context {
    let arguments = [&["trainyard", "--lease-namespace", "system", "--identity", identity], more].concat();
    let Command::Run(settings) = Arguments::try_parse_from(arguments).unwrap().into_command() else {
        panic!("not the operator")
    };
    let metrics = Metrics::new();
    let client = || over(server.service(identity), "default", Limits::default(), metrics.clone());
    Context {
        client: client(),
        lease_client: client(),
        clock: Arc::new(TokioClock::default()),
        metrics,
        readiness: Readiness::default(),
        settings: Arc::new(settings),
    }
}

/// [`act`], with the gate that [`run`] takes for it.
async fn acting(
    context: &Context,
    shutdown: &CancellationToken,
    start: impl FnOnce(&mut Tasks),
) -> Result<(), Error> {
    act(context, shutdown, first_gate(context), start).await
}

fn holder(server: &FakeServer) -> Option<String> {
    server.get::<Lease>("system", "trainyard")?.spec?.holder_identity
}

/// A task that finishes its step three seconds after it was asked to, and says so.
fn slow_step(tasks: &mut Tasks, finished: &Arc<AtomicBool>) {
    let (token, finished) = (tasks.token(), Arc::clone(finished));
    tasks.spawn("slow", async move {
        token.cancelled().await;
        sleep(Duration::from_secs(3)).await;
        finished.store(true, Ordering::SeqCst);
        Ok::<(), std::convert::Infallible>(())
    });
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_steps_finish_and_then_gives_the_lease_back() {
    let (server, shutdown, finished) = (FakeServer::new(), CancellationToken::new(), Arc::default());
    let context = context(&server, "one", &[]);
    let stopping = async {
        sleep(Duration::from_mins(1)).await;
        assert_eq!(holder(&server).as_deref(), Some("one"));
        assert!(context.metrics.render().contains("trainyard_leading 1"));
        shutdown.cancel();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(holder(&server).as_deref(), Some("one"), "held until the last step is done");
    };
    let (acted, ()) =
        tokio::join!(acting(&context, &shutdown, |tasks| slow_step(tasks, &finished)), stopping);
    acted.unwrap();
    assert!(finished.load(Ordering::SeqCst));
    assert_eq!(holder(&server).as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_ends_everything_at_once_with_an_error() {
    let (server, shutdown, finished) = (FakeServer::new(), CancellationToken::new(), Arc::default());
    let context = context(&server, "one", &[]);
    let failing = async {
        sleep(Duration::from_secs(1)).await;
        server.fail(Matching::writes(), Injected::InternalError);
    };
    let start = Instant::now();
    let (acted, ()) = tokio::join!(acting(&context, &shutdown, |tasks| slow_step(tasks, &finished)), failing);
    assert!(matches!(acted, Err(Error::Lost(_))), "{acted:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    sleep(Duration::from_mins(1)).await;
    assert!(!finished.load(Ordering::SeqCst), "the step was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_a_task_ends_everything_and_leaves_the_lease_to_expire() {
    let (server, shutdown) = (FakeServer::new(), CancellationToken::new());
    let context = context(&server, "one", &[]);
    let broken = |tasks: &mut Tasks| tasks.spawn("broken", async { Err::<(), _>("no schema") });
    let acted = acting(&context, &shutdown, broken).await;
    assert!(matches!(acted, Err(Error::Fault(_))), "{acted:?}");
    assert_eq!(holder(&server).as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_starts_nothing_and_stops_when_asked() {
    let (server, shutdown) = (FakeServer::new(), CancellationToken::new());
    let first = context(&server, "one", &[]);
    let second = context(&server, "two", &[]);
    let stopped = CancellationToken::new();
    let stopping = async {
        sleep(Duration::from_mins(1)).await;
        assert_eq!(second.readiness.pending(), Vec::<String>::new());
        stopped.cancel();
    };
    let leading = acting(&first, &shutdown, |_| {});
    let waiting = async {
        sleep(Duration::from_secs(1)).await;
        acting(&second, &stopped, |_| panic!("a candidate must not act")).await
    };
    tokio::select! {
        acted = leading => panic!("the leader ended: {acted:?}"),
        (acted, ()) = async { tokio::join!(waiting, stopping) } => acted.unwrap(),
    }
    assert_eq!(holder(&server).as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn without_election_there_is_no_lease() {
    let (server, shutdown, finished) = (FakeServer::new(), CancellationToken::new(), Arc::default());
    let context = context(&server, "one", &["--leader-election", "false"]);
    shutdown.cancel();
    acting(&context, &shutdown, |tasks| slow_step(tasks, &finished)).await.unwrap();
    assert!(finished.load(Ordering::SeqCst));
    assert_eq!(server.requests(), []);
}

/// Between winning the lease and starting the controllers nobody may read "ready".
#[tokio::test(start_paused = true)]
async fn the_first_gate_stands_until_every_part_has_taken_its_own() {
    for election in ["true", "false"] {
        let server = FakeServer::new();
        let context = context(&server, "one", &["--leader-election", election]);
        let mut pending_at_start = Vec::new();
        let mut watch = None;
        let shutdown = CancellationToken::new();
        let acted = acting(&context, &shutdown, |tasks| {
            pending_at_start = context.readiness.pending();
            watch = Some(context.readiness.gate("watch runs"));
            tasks.spawn("ends", async { Ok::<(), std::convert::Infallible>(()) });
        });
        assert!(matches!(acted.await, Err(Error::Fault(_))));
        let first = if election == "true" { "lease system/trainyard" } else { "start" };
        assert_eq!(pending_at_start, [first]);
        assert_eq!(context.readiness.pending(), ["watch runs"]);
        drop(watch);
    }
}
