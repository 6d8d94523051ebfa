//! `make demo`: trainyard on a local control plane, in three acts: a pool that comes and goes, a machine that is shared,
//! machines that are lent. It ends where it began: without a machine of ours, and with those of others as they were.
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
use serde_json::json;
use tokio::time::Instant;
use trainyard_e2e::controlplane::{ControlPlane, Options, add_machine};
use trainyard_e2e::demo::observe::{Found, Look, find, look};
use trainyard_e2e::demo::screen::Screen;
use trainyard_e2e::demo::story::{RUNS, Story, elastic, lent, sharing};
use trainyard_e2e::installation::{Operator, checkout, install, kubectl};

/// Where the samples are applied.
const NAMESPACE: &str = "default";
/// Longest time the whole may take. It takes about a minute on two cores.
const LIMIT: Duration = Duration::from_secs(240);

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
    let client = plane.client().await?;
    let outcome = Show::new(&plane, &client, &mut screen).tell().await;
    if arguments.keep {
        keep(&plane, &mut screen, &outcome).await?;
    }
    outcome
}

/// The demonstration while it goes on.
struct Show<'a> {
    plane: &'a ControlPlane,
    client: &'a Client,
    screen: &'a mut Screen,
    story: Story,
    /// The machines of the third act, once they are connected.
    found: Found,
    began: Instant,
}

impl<'a> Show<'a> {
    fn new(plane: &'a ControlPlane, client: &'a Client, screen: &'a mut Screen) -> Self {
        Self { plane, client, screen, story: Story::default(), found: Found::new(), began: Instant::now() }
    }

    async fn tell(mut self) -> Result<()> {
        self.elastic().await?;
        self.sharing().await?;
        self.lent().await?;
        let last = self.watch_until("all machines to leave or to be given back", Story::is_over).await?;
        let missing = self.story.missing(&last);
        if !missing.is_empty() {
            bail!("the demonstration is not what it should be:\n  {}", missing.join("\n  "));
        }
        self.screen.say(&format!(
            "done: {RUNS} runs completed; of the machines that were made none is left, those that were lent are as they were"
        ));
        Ok(())
    }

    async fn elastic(&mut self) -> Result<()> {
        self.screen.say("ACT 1: machines come with the queue, and go");
        self.apply("1-cluster.yaml", "a pool of 0 to 4 machines")?;
        self.apply(
            "2-mnist-tensorflow.yaml",
            "TensorFlow: chief, 2 workers, 1 parameter server on 2 machines",
        )?;
        self.apply("3-resnet-pytorch.yaml", "PyTorch on 2 machines")?;
        self.watch_until("both runs to be allocated", |_, look| {
            look.nodes.iter().filter(|node| !node.runs.is_empty()).count() == 4
        })
        .await?;
        self.apply("4-gang-of-four.yaml", "needs all 4 machines: it must wait")?;
        self.apply("5-urgent.yaml", "submitted last, priority High: it goes first")?;
        self.watch_until("the four runs to end", |_, look| {
            look.of(elastic::POOL).runs_are_done(elastic::RUNS)
        })
        .await?;
        Ok(())
    }

    async fn sharing(&mut self) -> Result<()> {
        self.screen.say(
            "ACT 2, while those machines idle and leave: four runs share one machine, beside a gang of whole ones",
        );
        self.apply("sharing/1-cluster.yaml", "a pool of machines with 8 GPUs")?;
        self.apply("sharing/2-sweep.yaml", "4 runs of 1 GPU each: 1 machine is enough")?;
        self.apply("sharing/3-gang.yaml", "a gang of 2 whole machines beside them")?;
        self.watch_until("the five runs to end", |_, look| {
            look.of(sharing::POOL).runs_are_done(sharing::RUNS)
        })
        .await?;
        Ok(())
    }

    async fn lent(&mut self) -> Result<()> {
        self.screen
            .say("ACT 3, while those leave, too: two machines that are there already are lent, used and given back");
        let amounts = json!({"cpu": "16", "memory": "62Gi", "pods": "110", "nvidia.com/gpu": "2"});
        for name in lent::MACHINES {
            add_machine(self.client, name, &json!({"example.org/rack": "4"}), &amounts).await?;
        }
        let label = ["label", "node", lent::MACHINES[0], lent::MACHINES[1], "example.org/pool=lab"];
        self.screen.say(&format!("kubectl {}    # these may be taken", label.join(" ")));
        kubectl(self.plane, &label)?;
        self.found = find(self.client, &lent::MACHINES).await?;
        self.look().await?;
        self.apply("static", "their size, who may take them, a pool of them, and a run")
    }

    fn apply(&mut self, file: &str, what: &str) -> Result<()> {
        self.screen.say(&format!("kubectl apply -f deploy/samples/{file}    # {what}"));
        kubectl(self.plane, &["apply", "-n", NAMESPACE, "-f", &sample(file)])?;
        Ok(())
    }

    async fn look(&mut self) -> Result<Look> {
        let seen = look(self.client, NAMESPACE, &self.found, Timestamp::now()).await?;
        self.story.see(&seen);
        self.screen.show(seen.clone());
        Ok(seen)
    }

    /// Shows what happens until `enough`.
    async fn watch_until(&mut self, what: &str, enough: impl Fn(&Story, &Look) -> bool) -> Result<Look> {
        loop {
            let seen = self.look().await?;
            if enough(&self.story, &seen) {
                return Ok(seen);
            }
            let late = self.began.elapsed() > LIMIT;
            if late || self.story.has_failed() {
                let why = if late {
                    format!("it takes longer than {LIMIT:?}")
                } else {
                    "it cannot come".to_owned()
                };
                bail!(
                    "gave up waiting for {what}: {why}; so far:\n  {}",
                    self.story.missing(&seen).join("\n  ")
                );
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
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
