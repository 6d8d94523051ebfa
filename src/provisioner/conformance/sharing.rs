//! Cases about what more than one has to do with: two processes, two pools, an administrator who wants his machines back.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use kube::ResourceExt as _;

use super::{STOCK, bench::Bench, eventually};
use crate::provisioner::{Doomed, Drain, Launched, ReleaseOutcome, Supply};

/// A process died after it had asked, and before anybody had written down for what.
pub(super) async fn a_process_that_has_just_started_finds_what_was_asked_for(
    bench: &Bench<'_>,
) -> Result<()> {
    let nodes = bench.nodes(1..=2);
    let before = bench.ensure(&nodes).await?;
    let after = bench.restarted().await?;
    ensure!(after.ensure(&nodes).await? == before, "other machines were asked for");
    for node in &nodes {
        after.ready(node).await?;
    }
    ensure!(after.observe().await?.machines.len() == 2, "other than two machines");
    after.clean_up(&nodes).await
}

pub(super) async fn two_pools_that_ask_at_once_never_get_one_machine(bench: &Bench<'_>) -> Result<()> {
    let rival = bench.rival();
    let (ours, theirs) = (bench.nodes(1..=3), rival.nodes(1..=3));
    let ask_all = async |bench: &Bench<'_>, nodes: &[_]| -> Result<(Vec<String>, usize)> {
        let (mut got, mut refused) = (Vec::new(), 0);
        for node in nodes {
            match bench.ask(node).await? {
                Launched::Requested { machine_uid } => got.push(machine_uid),
                Launched::NoneLeft { .. } => refused += 1,
                other => bail!("answered {other:?}"),
            }
        }
        Ok((got, refused))
    };
    let (first, second) = tokio::join!(ask_all(bench, &ours), ask_all(&rival, &theirs));
    let ((first, refused), (second, refused_too)) = (first?, second?);
    let all: BTreeSet<_> = first.iter().chain(&second).collect();
    ensure!(all.len() == first.len() + second.len(), "given twice: {first:?} and {second:?}");
    let expected = if bench.finds() { STOCK } else { 6 };
    ensure!(all.len() == expected, "{} machines of {expected}", all.len());
    ensure!(refused + refused_too + expected == 6, "{refused} and {refused_too} were refused");
    bench.clean_up(&ours).await?;
    rival.clean_up(&theirs).await
}

pub(super) async fn what_is_set_aside_for_one_pool_is_kept_from_another(bench: &Bench<'_>) -> Result<()> {
    let (ours, rival) = (bench.nodes(1..=2), bench.rival());
    let Some(Supply { counted, .. }) = bench.engine.count(&bench.pool, &ours[0].spec).await? else {
        ensure!(!bench.finds(), "machines are found and not counted");
        return Ok(());
    };
    let stock = i64::try_from(STOCK)?;
    ensure!((counted.free, counted.matching) == (stock, stock), "{counted:?}");
    let theirs = rival.nodes(1..=3);
    let aside = rival.engine.set_aside(&rival.pool, &theirs[0].spec, 3).await?.context("not counted")?;
    ensure!(aside.counted.free == stock, "what is set aside for itself is free: {aside:?}");
    let left = bench.engine.set_aside(&bench.pool, &ours[0].spec, 2).await?.context("not counted")?;
    ensure!(left.counted.free == 1, "{left:?}");
    ensure!(left.counted.message.contains(&rival.pool.name), "nobody is named: {left:?}");

    bench.ensure(&ours[..1]).await?;
    ensure!(matches!(bench.ask(&ours[1]).await?, Launched::NoneLeft { .. }), "the rival's machine is taken");
    rival.ensure(&theirs).await?;
    bench.clean_up(&ours).await?;
    rival.clean_up(&theirs).await
}

pub(super) async fn a_machine_is_given_back_as_it_was_found(bench: &Bench<'_>) -> Result<()> {
    let before = bench.world.looks(&bench.pool).await?;
    let nodes = bench.nodes(1..=3);
    bench.ensure(&nodes).await?;
    for node in &nodes {
        bench.ready(node).await?;
    }
    ensure!(bench.world.looks(&bench.pool).await? != before, "nothing is seen of a machine that is taken");
    for node in &nodes {
        let machine = bench.machine(node).await?;
        let outcome = bench.release(Doomed::of(&machine), Drain::Wait).await?;
        ensure!(outcome == ReleaseOutcome::Started, "{outcome:?}");
        bench.gone(node).await?;
    }
    let after = bench.world.looks(&bench.pool).await?;
    ensure!(after == before, "left behind:\n{after:#}\nfound:\n{before:#}");
    Ok(())
}

pub(super) async fn a_machine_that_was_given_back_is_taken_again(bench: &Bench<'_>) -> Result<()> {
    let all = bench.nodes(1..=i64::try_from(STOCK)?);
    bench.ensure(&all).await?;
    let next = bench.node(9);
    ensure!(matches!(bench.ask(&next).await?, Launched::NoneLeft { .. }), "more than there are");
    for node in &all {
        bench.ready(node).await?;
    }
    let machine = bench.machine(&all[2]).await?;
    bench.release(Doomed::of(&machine), Drain::Wait).await?;
    let taken = eventually(|| async {
        match bench.ask(&next).await? {
            Launched::Requested { machine_uid } => Ok(machine_uid),
            other => bail!("{}: {other:?}", next.name_any()),
        }
    })
    .await?;
    ensure!(taken == machine.uid, "another one than was given back");
    bench.clean_up(&[all, vec![next]].concat()).await
}
