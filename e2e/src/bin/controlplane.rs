//! `controlplane`: a local Kubernetes control plane by hand. `build`, `up`, `down`, `list`.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use trainyard_e2e::controlplane::{
    Component, ControlPlane, Options, bin_folder, build, end_control_plane, folder_of, live_control_planes,
};

/// A real Kubernetes control plane on this machine: etcd, API server, controller-manager, scheduler, kwok, Karpenter.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build its programs from released Go modules; what is up to date is skipped.
    Build,
    /// Start one and print the path of its kubeconfig.
    Up {
        /// Tells several apart.
        #[arg(long, default_value = "default")]
        name: String,
        /// Return when it is up; `down` ends it. Otherwise it runs until Ctrl-C.
        #[arg(long)]
        detach: bool,
        /// Leave Karpenter out.
        #[arg(long)]
        no_karpenter: bool,
    },
    /// End one.
    Down {
        /// Which.
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Those that are up.
    List,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Action::Build => build_all(),
        Action::Up { name, detach: true, no_karpenter } => detach(&name, no_karpenter),
        Action::Up { name, detach: false, no_karpenter } => up(&name, no_karpenter).await,
        Action::Down { name } => down(&name),
        Action::List => list(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("controlplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build_all() -> Result<()> {
    build(|line| eprintln!("{line}"))?;
    println!("{}", bin_folder().display());
    Ok(())
}

async fn up(name: &str, no_karpenter: bool) -> Result<()> {
    // Before the start, so that a signal during it ends in an orderly way as well.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut options = Options::default().name(name);
    if no_karpenter {
        options = options.without(Component::Karpenter);
    }
    let ended = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(ended);
    let plane = tokio::select! {
        plane = ControlPlane::start(options) => plane?,
        () = &mut ended => return Ok(()),
    };
    eprintln!("up in {}", plane.timings());
    // Nobody may be listening any more; that is no reason to end.
    let _ = writeln!(std::io::stdout(), "{}", plane.kubeconfig_path().display());
    ended.await;
    Ok(())
}

/// Runs `up` in a process of its own and waits for the line it prints. That process keeps none of our outputs open:
/// whoever reads them shall see their end when this one ends.
fn detach(name: &str, no_karpenter: bool) -> Result<()> {
    let mut messages = unnamed_file()?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["up", "--name", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(messages.try_clone()?)
        .process_group(0);
    if no_karpenter {
        command.arg("--no-karpenter");
    }
    let mut child = command.spawn().context("starting the process that holds the control plane")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its output is a pipe")?).read_line(&mut line)?;
    let mut said = String::new();
    messages.seek(SeekFrom::Start(0))?;
    messages.read_to_string(&mut said)?;
    eprint!("{said}");
    if line.is_empty() {
        bail!("it did not come up ({})", child.wait()?);
    }
    print!("{line}");
    Ok(())
}

/// A file that ends with the last process that has it open.
fn unnamed_file() -> Result<File> {
    let path = folder_of(&format!(".messages-{}", std::process::id()));
    std::fs::create_dir_all(path.parent().context("it is in a folder")?)?;
    let file = File::options().read(true).append(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

fn down(name: &str) -> Result<()> {
    if !end_control_plane(name)? {
        bail!("no control plane {name:?} is up; `controlplane list` shows those that are");
    }
    Ok(())
}

fn list() -> Result<()> {
    for owner in live_control_planes()? {
        let state = if owner.ready { "ready" } else { "starting" };
        let kubeconfig = folder_of(&owner.name).join("admin.kubeconfig");
        println!("{}\t{state}\tpid {}\t{}", owner.name, owner.pid, kubeconfig.display());
    }
    Ok(())
}
