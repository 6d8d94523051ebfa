//! What every engine must do, as cases that run against each: in memory, on a double, on the real thing.
//!
//! In: a [`World`], the engine with levers on what is behind it. Out: the first broken promise, by name. Each case uses a
//! pool of its own, so that they can share one world. No case waits for a fixed time; [`eventually`] asks until the
//! answer is right or [`PATIENCE`] is over.

mod bench;
mod lost;
mod sharing;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use kube::{Api, Client, ResourceExt as _, core::DeserializeGuard};
use trainyard_api::{ClusterNode, cluster_node::Engine};
use trainyard_model::node::seen::{GivenUp, Machine, Owner};

pub use self::bench::karpenter_block;
use self::{
    bench::{Bench, pool, uid},
    lost::{
        a_lost_machine_is_removed_without_waiting_for_what_runs_there,
        a_lost_machine_that_was_found_is_nobodys_until_it_is_back_and_empty,
    },
    sharing::{
        a_machine_is_given_back_as_it_was_found, a_machine_that_was_given_back_is_taken_again,
        a_process_that_has_just_started_finds_what_was_asked_for,
        two_pools_that_ask_at_once_never_get_one_machine,
        what_is_set_aside_for_one_pool_is_kept_from_another,
    },
};
use super::{
    Capabilities, Doomed, Drain, Launched, Origin, Pool, Provisioner, RefusalCode, Release, ReleaseOutcome,
    Validity, Wanted,
};
use crate::{
    kubernetes::{cache::Cache, watch::Watch},
    tasks::Tasks,
    telemetry::{metrics::Metrics, readiness::Readiness},
};

/// How long a case waits for what an engine does in its own time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An engine, and levers on what is behind it.
#[async_trait]
pub trait World: Send + Sync {
    /// The engine, its watches started.
    fn engine(&self) -> Arc<dyn Provisioner>;

    /// Another engine on the same world, as a process has it that has just started.
    async fn restarted(&self) -> Result<Arc<dyn Provisioner>>;

    /// The block with which usable machines are made for this pool, or found.
    fn block(&self, pool: &Pool) -> Engine;

    /// Where machines are found: puts [`STOCK`] of them there for this pool. Called once before each case.
    async fn stock(&self, _: &Pool) -> Result<()> {
        Ok(())
    }

    /// Where machines are found: all that can be seen of them and must be the same once they are given back.
    async fn looks(&self, _: &Pool) -> Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }

    /// From now on launches for this pool are refused so; `None` ends it. Returns what the reason must contain: these
    /// words, where a test can put words into the mouth of what is behind the engine.
    async fn refuse(&self, pool: &Pool, cause: Option<(GivenUp, &str)>) -> Result<String>;

    /// Removes a machine as somebody else would who may.
    async fn remove_behind(&self, machine: &Machine) -> Result<()>;

    /// Makes an object of the engine's kind under this name, with labels of nobody here. Returns its UID.
    async fn take_name(&self, name: &str) -> Result<String>;

    /// Whether the object under this name still has this UID and is not being deleted.
    async fn stands(&self, name: &str, uid: &str) -> Result<bool>;

    /// Puts something there that does not go by itself: a drain of this machine does not end until it is skipped, and where
    /// machines are found nobody may have it.
    async fn occupy(&self, machine: &Machine) -> Result<()>;

    /// Where machines are found: takes that away again.
    async fn vacate(&self, _: &Machine) -> Result<()> {
        Ok(())
    }

    /// Nothing is heard of this machine any more, and what is there stays as it is.
    async fn lose(&self, machine: &Machine) -> Result<()>;

    /// Where machines are found: it is heard of again, with all that was there.
    async fn bring_back(&self, _: &Machine) -> Result<()> {
        Ok(())
    }

    /// Makes the class of this pool's nodes missing, or gives it back. Returns the name by which it is told.
    async fn break_class(&self, pool: &Pool, broken: bool) -> Result<String>;
}

/// The ClusterNodes, as the node controller follows them for its engines.
pub fn cluster_nodes(client: Client, tasks: &mut Tasks) -> Cache<ClusterNode> {
    Watch::guarded("clusternodes", Api::<DeserializeGuard<ClusterNode>>::all(client)).whole().start(
        tasks,
        &Readiness::default(),
        &Metrics::new(),
    )
}

/// So many machines a pool finds, where machines are found.
pub const STOCK: usize = 4;

/// Runs every case; the error says which promise is broken.
pub async fn run(world: &dyn World) -> Result<()> {
    let Capabilities { drains, tells, origin, .. } = world.engine().capabilities();
    macro_rules! cases {
        ($($case:ident $(if $can:expr)?),+ $(,)?) => {$(
            let is_possible = true $(&& $can)?;
            if is_possible {
            let bench = Bench::new(world, pool(stringify!($case)));
            world.stock(&bench.pool).await.context("putting machines there")?;
            bench.stocked().await?;
            tracing::info!(case = stringify!($case), "conformance");
            $case(&bench).await.with_context(|| stringify!($case).replace('_', " "))?;
            }
        )+};
    }
    cases!(
        machines_come_as_they_should_and_carry_our_uids,
        more_can_be_asked_for_while_some_are_on_their_way,
        asking_twice_makes_one,
        a_smaller_set_removes_nothing,
        a_machine_that_was_seen_and_is_gone_is_not_made_again,
        release_removes_exactly_what_it_is_given,
        release_of_what_is_gone_is_no_error,
        release_by_another_uid_touches_nothing,
        release_for_another_node_touches_nothing,
        a_name_taken_by_a_stranger_is_neither_adopted_nor_removed if origin == Origin::Made,
        a_refused_launch_comes_to_nothing_and_leaves_its_reason if tells.contains(&GivenUp::StockOut),
        a_quota_is_told_from_a_stock_out if tells.contains(&GivenUp::Quota),
        one_refused_launch_harms_no_other,
        a_machine_removed_by_others_is_seen_to_be_gone,
        a_machine_without_its_node_object_is_still_told,
        pools_do_not_see_each_other,
        a_hanging_drain_can_be_skipped if drains,
        a_lost_machine_is_removed_without_waiting_for_what_runs_there if origin == Origin::Made,
        a_lost_machine_that_was_found_is_nobodys_until_it_is_back_and_empty if origin == Origin::Found,
        a_missing_class_is_refused_before_anything_is_asked_for,
        a_process_that_has_just_started_finds_what_was_asked_for,
        two_pools_that_ask_at_once_never_get_one_machine,
        what_is_set_aside_for_one_pool_is_kept_from_another,
        a_machine_is_given_back_as_it_was_found if origin == Origin::Found,
        a_machine_that_was_given_back_is_taken_again if origin == Origin::Found,
    );
    Ok(())
}

/// Asks until the answer is `Ok`; the last error is the reason when it never is.
pub async fn eventually<T, F, R>(mut ask: F) -> Result<T>
where
    F: FnMut() -> R,
    R: Future<Output = Result<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error.context(format!("still so after {} s", PATIENCE.as_secs())));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn machines_come_as_they_should_and_carry_our_uids(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes(1..=3);
    let uids = bench.ensure(&nodes).await?;
    for (node, machine_uid) in nodes.iter().zip(&uids) {
        let machine = bench.ready(node).await?;
        let finds = bench.finds();
        ensure!(finds || machine.name == node.name_any(), "the machine is called {}", machine.name);
        ensure!(finds == machine.found, "found: {}", machine.found);
        ensure!(machine.uid == *machine_uid, "ensure answered {machine_uid}, observed is {}", machine.uid);
        ensure!(finds || machine.provider_id.is_some(), "no identity: {machine:?}");
        ensure!(machine.zone.is_some(), "no zone: {machine:?}");
        let seen = machine.node.as_ref().context("no Node")?;
        let owner = Owner::of(&seen.labels).context("the Node does not carry our labels")?;
        ensure!(owner.uid == uid(node), "the Node names {owner:?}");
        ensure!(
            seen.taints
                .iter()
                .any(|taint| taint.key == node.spec.taint.key && taint.value == node.spec.taint.value),
            "the Node lacks the class's taint: {:?}",
            seen.taints
        );
        ensure!(seen.allocatable.devices.get("nvidia.com/gpu") == Some(&1), "{:?}", seen.allocatable);
    }
    ensure!(bench.observe().await?.machines.len() == 3, "other than three machines");
    bench.clean_up(&nodes).await
}

async fn more_can_be_asked_for_while_some_are_on_their_way(bench: &Bench<'_>) -> Result<()> {
    let first = bench.nodes(1..=2);
    bench.ensure(&first).await?;
    let all = bench.nodes(1..=4);
    bench.ensure(&all).await?;
    for node in &all {
        bench.ready(node).await?;
    }
    ensure!(bench.observe().await?.machines.len() == 4, "other than four machines");
    bench.clean_up(&all).await
}

async fn asking_twice_makes_one(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    let first = bench.ensure(&nodes).await?;
    let again = bench.ensure(&nodes).await?;
    ensure!(first == again, "{first:?} and then {again:?}");
    let machine = bench.ready(&nodes[0]).await?;
    ensure!(bench.ensure(&nodes).await? == [machine.uid], "another one once it is ready");
    ensure!(bench.observe().await?.machines.len() == 1, "other than one machine");
    bench.clean_up(&nodes).await
}

async fn a_smaller_set_removes_nothing(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes(1..=2);
    bench.ensure(&nodes).await?;
    bench.ready(&nodes[0]).await?;
    bench.ready(&nodes[1]).await?;
    bench.ensure(&nodes[..1]).await?;
    bench.ensure(&[]).await?;
    ensure!(
        bench.engine.look_up(&bench.pool, &nodes[1]).await?.is_some_and(|one| one.deleting_since.is_none())
    );
    bench.clean_up(&nodes).await
}

async fn a_machine_that_was_seen_and_is_gone_is_not_made_again(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    bench.ensure(&nodes).await?;
    let machine = bench.ready(&nodes[0]).await?;
    bench.release(Doomed::of(&machine), Drain::Wait).await?;
    bench.gone(&nodes[0]).await?;
    let wanted = [Wanted { node: Arc::clone(&nodes[0]), machine: Some(machine.uid) }];
    let answers = bench.engine.ensure(&bench.pool, &wanted).await?;
    ensure!(answers.is_empty(), "an answer about a machine that was not missing: {answers:?}");
    bench.gone(&nodes[0]).await
}

async fn release_removes_exactly_what_it_is_given(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes(1..=3);
    bench.ensure(&nodes).await?;
    for node in &nodes {
        bench.ready(node).await?;
    }
    let middle = bench.machine(&nodes[1]).await?;
    let outcome = bench.release(Doomed::of(&middle), Drain::Wait).await?;
    ensure!(outcome == ReleaseOutcome::Started, "{outcome:?}");
    bench.gone(&nodes[1]).await?;
    for node in [&nodes[0], &nodes[2]] {
        let machine = bench.ready(node).await?;
        ensure!(machine.deleting_since.is_none(), "{} goes, too", machine.name);
    }
    bench.clean_up(&nodes).await
}

async fn release_of_what_is_gone_is_no_error(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    bench.ensure(&nodes).await?;
    let machine = bench.ready(&nodes[0]).await?;
    bench.release(Doomed::of(&machine), Drain::Wait).await?;
    // While it goes, and after.
    bench.release(Doomed::of(&machine), Drain::Wait).await?;
    bench.gone(&nodes[0]).await?;
    let outcome = bench.release(Doomed::of(&machine), Drain::Wait).await?;
    ensure!(outcome == ReleaseOutcome::AlreadyGone, "{outcome:?}");
    Ok(())
}

async fn release_by_another_uid_touches_nothing(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    bench.ensure(&nodes).await?;
    let machine = bench.ready(&nodes[0]).await?;
    let stale = Doomed { uid: "00000000-0000-4000-8000-000000000000".to_owned(), ..Doomed::of(&machine) };
    let outcome = bench.release(stale, Drain::Skip).await?;
    ensure!(outcome == ReleaseOutcome::AlreadyGone, "the one that was meant is gone: {outcome:?}");
    ensure!(bench.world.stands(&machine.name, &machine.uid).await?, "the machine of that name went");
    bench.clean_up(&nodes).await
}

async fn release_for_another_node_touches_nothing(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    bench.ensure(&nodes).await?;
    let machine = bench.ready(&nodes[0]).await?;
    let owner = machine.owner.clone().map(|owner| Owner { uid: "another".to_owned(), ..owner });
    let outcome = bench.release(Doomed { owner, ..Doomed::of(&machine) }, Drain::Skip).await?;
    ensure!(matches!(outcome, ReleaseOutcome::Refused(_)), "{outcome:?}");
    ensure!(bench.world.stands(&machine.name, &machine.uid).await?, "it went all the same");
    bench.clean_up(&nodes).await
}

async fn a_name_taken_by_a_stranger_is_neither_adopted_nor_removed(bench: &Bench<'_>) -> Result<()> {
    let node = bench.node(1);
    let stranger = bench.world.take_name(&node.name_any()).await?;
    let wanted = [Wanted { node: Arc::clone(&node), machine: None }];
    let answers = bench.engine.ensure(&bench.pool, &wanted).await?;
    let answer = answers.into_iter().next().context("no answer")?.result?;
    ensure!(matches!(&answer, Launched::NameTaken { message } if !message.is_empty()), "{answer:?}");
    ensure!(bench.engine.look_up(&bench.pool, &node).await?.is_none(), "it is taken for the node's machine");
    let doomed = Doomed { name: node.name_any(), uid: stranger.clone(), backed: true, owner: None };
    let outcome = bench.release(doomed, Drain::Skip).await?;
    ensure!(matches!(outcome, ReleaseOutcome::Refused(_)), "release: {outcome:?}");
    ensure!(bench.world.stands(&node.name_any(), &stranger).await?, "the stranger's object was removed");
    Ok(())
}

/// An engine that knows at once says so; another one makes an object that vanishes, and gives the reason then.
async fn refused(bench: &Bench<'_>, cause: GivenUp, words: &str) -> Result<()> {
    let words = &bench.world.refuse(&bench.pool, Some((cause, words))).await?;
    let nodes = bench.nodes([1]);
    let machine_uid = match bench.ask(&nodes[0]).await? {
        Launched::Requested { machine_uid } => machine_uid,
        Launched::NoneLeft { message } => {
            bench.world.refuse(&bench.pool, None).await?;
            ensure!(cause == GivenUp::StockOut, "a {cause:?} is told as a stock-out");
            ensure!(message.contains(words), "`{message}` lacks `{words}`");
            return bench.gone(&nodes[0]).await;
        }
        other => bail!("answered {other:?}"),
    };
    bench.gone(&nodes[0]).await?;
    let said = eventually(|| async {
        let observed = bench.observe().await?;
        observed.last_words.into_iter().find(|said| said.uid == machine_uid).context("no last words")
    })
    .await?;
    bench.world.refuse(&bench.pool, None).await?;
    ensure!(said.cause == cause, "understood as {:?}: {}", said.cause, said.message);
    ensure!(said.message.contains(words), "`{}` lacks `{words}`", said.message);
    ensure!(said.name == nodes[0].name_any(), "about {}", said.name);
    Ok(())
}

async fn a_refused_launch_comes_to_nothing_and_leaves_its_reason(bench: &Bench<'_>) -> Result<()> {
    refused(bench, GivenUp::StockOut, "no machine of this size in zone-a").await
}

async fn a_quota_is_told_from_a_stock_out(bench: &Bench<'_>) -> Result<()> {
    refused(bench, GivenUp::Quota, "SubscriptionQuotaReached: family quota is 12 vCPUs").await
}

async fn one_refused_launch_harms_no_other(bench: &Bench<'_>) -> Result<()> {
    let first = bench.nodes([1]);
    bench.ensure(&first).await?;
    bench.ready(&first[0]).await?;
    bench.world.refuse(&bench.pool, Some((GivenUp::StockOut, "sold out"))).await?;
    let second = bench.nodes([2]);
    bench.ask(&second[0]).await?;
    bench.gone(&second[0]).await?;
    bench.world.refuse(&bench.pool, None).await?;
    let third = bench.nodes([3]);
    bench.ensure(&third).await?;
    bench.ready(&third[0]).await?;
    bench.ready(&first[0]).await?;
    bench.clean_up(&[first, third].concat()).await
}

async fn a_machine_removed_by_others_is_seen_to_be_gone(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    bench.ensure(&nodes).await?;
    let machine = bench.ready(&nodes[0]).await?;
    bench.world.remove_behind(&machine).await?;
    bench.gone(&nodes[0]).await
}

/// A machine whose ClusterNode no longer exists must still be told, or nobody would ever remove it.
async fn a_machine_without_its_node_object_is_still_told(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([7]);
    bench.ensure(&nodes).await?;
    bench.ready(&nodes[0]).await?;
    // Nobody here holds a ClusterNode: the pool's UID alone finds it.
    let anonymous = Pool { namespace: String::new(), name: String::new(), uid: bench.pool.uid.clone() };
    let observed = bench.engine.observe(&anonymous).await?;
    let owner = observed.machines.first().and_then(|machine| machine.owner.clone()).context("not told")?;
    ensure!(owner.name == nodes[0].name_any() && owner.namespace == bench.pool.namespace, "{owner:?}");
    bench.clean_up(&nodes).await
}

async fn pools_do_not_see_each_other(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    bench.ensure(&nodes).await?;
    let machine = bench.ready(&nodes[0]).await?;
    let other = pool("some_other_pool");
    ensure!(bench.engine.observe(&other).await?.machines.is_empty(), "another pool sees it");
    let answers = bench
        .engine
        .release(&other, &[Release { machine: Box::new(Doomed::of(&machine)), drain: Drain::Skip }])
        .await;
    let outcome = answers.into_iter().next().context("no answer")?.result?;
    ensure!(matches!(outcome, ReleaseOutcome::Refused(_)), "another pool releases it: {outcome:?}");
    ensure!(bench.world.stands(&machine.name, &machine.uid).await?, "another pool removed it");
    bench.clean_up(&nodes).await
}

async fn a_hanging_drain_can_be_skipped(bench: &Bench<'_>) -> Result<()> {
    let nodes = bench.nodes([1]);
    bench.ensure(&nodes).await?;
    let machine = bench.ready(&nodes[0]).await?;
    bench.world.occupy(&machine).await?;
    bench.release(Doomed::of(&machine), Drain::Wait).await?;
    let hanging = eventually(|| async {
        let machine = bench.machine(&nodes[0]).await?;
        ensure!(machine.deleting_since.is_some(), "not going yet");
        Ok(machine)
    })
    .await?;
    ensure!(!hanging.drain_skipped, "the drain is cut short already");
    bench.release(Doomed::of(&hanging), Drain::Skip).await?;
    bench.gone(&nodes[0]).await
}

async fn a_missing_class_is_refused_before_anything_is_asked_for(bench: &Bench<'_>) -> Result<()> {
    let node = bench.node(1);
    let validity = bench.engine.validate(&bench.pool, &node.spec.engine).await?;
    ensure!(validity == Validity::Usable, "a usable class: {validity:?}");
    let name = bench.world.break_class(&bench.pool, true).await?;
    let refusal = eventually(|| async {
        match bench.engine.validate(&bench.pool, &node.spec.engine).await? {
            Validity::Refused(refusal) => Ok(refusal),
            Validity::Usable => bail!("a missing class is called usable"),
        }
    })
    .await;
    bench.world.break_class(&bench.pool, false).await?;
    let refusal = refusal?;
    ensure!(refusal.code == RefusalCode::ClassNotFound, "{refusal:?}");
    ensure!(refusal.message.contains(&name), "{name} is not named: {}", refusal.message);
    eventually(|| async {
        let validity = bench.engine.validate(&bench.pool, &node.spec.engine).await?;
        ensure!(validity == Validity::Usable, "mended, and still {validity:?}");
        Ok(())
    })
    .await
}
