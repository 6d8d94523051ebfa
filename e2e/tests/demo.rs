//! `make demo`, as a person runs it.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use trainyard_e2e::controlplane::{eventually, folder_of};

fn demo() -> Command {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.stdin(Stdio::null()).stdout(Stdio::piped());
    demo
}

#[test]
fn the_demonstration_ends_well_and_shows_packing_and_lent_machines() -> Result<()> {
    let output = demo().stderr(Stdio::piped()).output()?;
    let shown = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "it ended with {}:\n{shown}\n{error}", output.status);
    // What the README says of each act.
    for words in [
        "run   gang: Queued: needs 4 nodes: 1 idle, 3 busy",
        "■■■■□□□□ 4 of 8 GPUs: sweep-1, sweep-2, sweep-3, sweep-4",
        "■■■■■■■■ 8 of 8 GPUs: pretrain",
        "found lab-1: lent to Cluster lab",
        "found lab-1: nobody's, as it was found",
        "done: 10 runs completed",
    ] {
        ensure!(shown.contains(words), "`{words}` is not in\n{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn a_demonstration_that_is_interrupted_leaves_nothing_behind() -> Result<()> {
    let mut demo = demo().process_group(0).spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("its output is a pipe")?).lines();
    lines
        .find(|line| line.as_ref().is_ok_and(|line| line.contains("node  ")))
        .context("it asks for machines")??;
    let folder = folder_of(&format!("p{}-1", demo.id()));
    ensure!(folder.exists() && !started_from(&folder.display().to_string())?.is_empty());

    // As a terminal does: to all that belong to it.
    let group = Pid::from_raw(i32::try_from(demo.id())?).context("a process has an id")?;
    kill_process_group(group, Signal::INT)?;
    let status = demo.wait()?;
    ensure!(!status.success(), "it was interrupted, and says that all is well");
    eventually("its processes and its folder to be gone", Duration::from_secs(20), || async {
        let left = started_from(&folder.display().to_string())?;
        ensure!(left.is_empty() && !folder.exists(), "{left:?}");
        Ok(())
    })
    .await
}

/// Command lines of processes that name the folder.
fn started_from(folder: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // Processes end while one looks.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(folder) {
            found.push(line);
        }
    }
    Ok(found)
}
