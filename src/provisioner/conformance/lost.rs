//! Cases about machines of which nobody can say any more what runs there.

use anyhow::{Context as _, Result, bail, ensure};
use kube::ResourceExt as _;
use trainyard_api::ClusterNode;
use trainyard_model::node::seen::Machine;

use super::{STOCK, bench::Bench, eventually};
use crate::provisioner::{Doomed, Drain, Launched, ReleaseOutcome};

/// Waits until the engine tells that the machine's kubelet is not heard any more.
async fn silent(bench: &Bench<'_>, node: &ClusterNode) -> Result<Machine> {
    eventually(|| async {
        let machine = bench.machine(node).await?;
        ensure!(machine.node.as_ref().is_some_and(|seen| !seen.ready), "it is told to be ready: {machine:?}");
        Ok(machine)
    })
    .await
}

/// Its pods answer nobody, and no drain would end.
pub(super) async fn a_lost_machine_is_removed_without_waiting_for_what_runs_there(
    bench: &Bench<'_>,
) -> Result<()> {
    let nodes = bench.nodes(1..=2);
    bench.ensure(&nodes).await?;
    for node in &nodes {
        bench.ready(node).await?;
    }
    let machine = bench.machine(&nodes[0]).await?;
    bench.world.occupy(&machine).await?;
    bench.world.lose(&machine).await?;
    let lost = silent(bench, &nodes[0]).await?;
    ensure!(lost.uid == machine.uid && lost.deleting_since.is_none(), "it is told as another: {lost:?}");
    let outcome = bench.release(Doomed::of(&lost), Drain::Skip).await?;
    ensure!(outcome == ReleaseOutcome::Started, "{outcome:?}");
    bench.gone(&nodes[0]).await?;
    bench.ready(&nodes[1]).await?;
    bench.clean_up(&nodes[1..]).await
}

/// Whoever took it would run beside what is there still.
pub(super) async fn a_lost_machine_that_was_found_is_nobodys_until_it_is_back_and_empty(
    bench: &Bench<'_>,
) -> Result<()> {
    let all = bench.nodes(1..=i64::try_from(STOCK)?);
    bench.ensure(&all).await?;
    for node in &all {
        bench.ready(node).await?;
    }
    let machine = bench.machine(&all[0]).await?;
    bench.world.occupy(&machine).await?;
    bench.world.lose(&machine).await?;
    let lost = silent(bench, &all[0]).await?;
    ensure!(lost.uid == machine.uid && lost.owner == machine.owner, "it is told as another's: {lost:?}");
    let outcome = bench.release(Doomed::of(&lost), Drain::Skip).await?;
    ensure!(matches!(outcome, ReleaseOutcome::Refused(_)), "it is given back: {outcome:?}");
    ensure!(bench.world.stands(&machine.name, &machine.uid).await?, "it is free");
    let next = bench.node(9);
    let answer = bench.ask(&next).await?;
    ensure!(matches!(answer, Launched::NoneLeft { .. }), "while it is lost: {answer:?}");

    bench.world.bring_back(&machine).await?;
    let back = bench.ready(&all[0]).await?;
    let outcome = bench.release(Doomed::of(&back), Drain::Wait).await?;
    ensure!(outcome == ReleaseOutcome::Started, "{outcome:?}");
    bench.gone(&all[0]).await?;
    eventually(|| async {
        match bench.ask(&next).await? {
            Launched::NoneLeft { message } if message.contains("carries pod") => Ok(()),
            other => bail!("while something runs there: {other:?}"),
        }
    })
    .await?;

    bench.world.vacate(&machine).await?;
    let taken = eventually(|| async {
        match bench.ask(&next).await? {
            Launched::Requested { machine_uid } => Ok(machine_uid),
            other => bail!("{}: {other:?}", next.name_any()),
        }
    })
    .await
    .context("it is back and empty")?;
    ensure!(taken == machine.uid, "another one than was lost");
    bench.clean_up(&[all, vec![next]].concat()).await
}
