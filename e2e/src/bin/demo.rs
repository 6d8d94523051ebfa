//! `make demo`: trainyard on a local control plane, four training runs, and back to no machine at all.
//!
//! Ends with an error that names what did not happen. With `--keep` everything stays up until it is interrupted.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;
use trainyard_e2e::controlplane::{ControlPlane, Options};
use trainyard_e2e::demo::observe::{Look, look};
use trainyard_e2e::demo::screen::Screen;
use trainyard_e2e::demo::story::Story;
use trainyard_e2e::installation::{Operator, checkout, install, kubectl};

/// Where the samples are applied.
const NAMESPACE: &str = "default";
/// The Cluster of the samples.
const CLUSTER: &str = "a100";
/// Longest time the whole may take. It takes about 40 seconds on two cores.
const LIMIT: Duration = Duration::from_secs(150);

/// Shows trainyard on a local control plane.
#[derive(Parser)]
struct Arguments {
    /// Leave it up afterwards, until Ctrl-C, and print what to type.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut screen = Screen::new();
    screen
        .say("starting etcd, API server, controller-manager, scheduler, kwok and Karpenter on this machine");
    let plane = ControlPlane::start(Options::default()).await?;
    screen.say("installing trainyard: CRDs, roles, sizes, and the operator under its own ServiceAccount");
    install(&plane).await?;
    let _operator = Operator::start(&plane, 0).await?;
    let outcome = tell(&plane, &mut screen).await;
    if arguments.keep {
        keep(&plane, &mut screen, &outcome).await?;
    }
    outcome
}

async fn tell(plane: &ControlPlane, screen: &mut Screen) -> Result<()> {
    let client = plane.client().await?;
    let mut story = Story::default();
    let apply = |screen: &mut Screen, file: &str, what: &str| -> Result<()> {
        screen.say(&format!("kubectl apply -f deploy/samples/{file}    # {what}"));
        kubectl(plane, &["apply", "-n", NAMESPACE, "-f", &sample(file)])?;
        Ok(())
    };
    apply(screen, "1-cluster.yaml", "a pool of 0 to 4 machines")?;
    apply(
        screen,
        "2-mnist-tensorflow.yaml",
        "TensorFlow: chief, 2 workers, 1 parameter server on 2 machines",
    )?;
    apply(screen, "3-resnet-pytorch.yaml", "PyTorch on 2 machines")?;
    watch_until(&client, screen, &mut story, "both runs to be allocated", |look| {
        look.nodes.iter().filter(|node| !node.runs.is_empty()).count() == 4
    })
    .await?;
    apply(screen, "4-gang-of-four.yaml", "needs all 4 machines: it must wait")?;
    apply(screen, "5-urgent.yaml", "submitted last, priority High: it goes first")?;
    let last =
        watch_until(&client, screen, &mut story, "all runs to end and all machines to leave", |_| false)
            .await?;
    let missing = story.missing(&last);
    if !missing.is_empty() {
        bail!("the demonstration is not what it should be:\n  {}", missing.join("\n  "));
    }
    screen.say("done: four runs completed on four machines, none is left, and the Cluster is Ready");
    Ok(())
}

/// Shows what happens until `enough` or until the story is over.
async fn watch_until(
    client: &Client,
    screen: &mut Screen,
    story: &mut Story,
    what: &str,
    enough: impl Fn(&Look) -> bool,
) -> Result<Look> {
    let start = Instant::now();
    loop {
        let seen = look(client, NAMESPACE, CLUSTER, Timestamp::now()).await?;
        story.see(&seen);
        screen.show(seen.clone());
        if enough(&seen) || story.is_over(&seen) {
            return Ok(seen);
        }
        if start.elapsed() > LIMIT {
            bail!("gave up waiting for {what} after {LIMIT:?}; so far: {:#?}", story.missing(&seen));
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

fn sample(file: &str) -> String {
    checkout().join("deploy/samples").join(file).display().to_string()
}

async fn keep(plane: &ControlPlane, screen: &mut Screen, outcome: &Result<()>) -> Result<()> {
    if let Err(error) = outcome {
        screen.say(&format!("{error:#}"));
    }
    let kubeconfig = plane.kubeconfig_path();
    screen.say("it stays up until Ctrl-C. In another terminal:");
    println!("  export KUBECONFIG={}", shown(kubeconfig));
    println!("  kubectl get trainyard -A");
    println!("  kubectl apply -f deploy/samples/2-mnist-tensorflow.yaml");
    println!("  kubectl get tycn -w");
    println!("  kubectl describe tyr mnist");
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
