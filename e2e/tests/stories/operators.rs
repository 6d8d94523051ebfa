//! The operator is killed, restarted and replaced, and nobody notices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use trainyard_api::run_status::RunPhase;
use trainyard_e2e::controlplane::Mark;
use trainyard_e2e::stories::{PATIENCE, Random, Story, budgets, cluster, run};

const KILLS: usize = 20;

/// What is the same whether or not anybody was killed: phase and budgets of each run, and machines made.
#[derive(Debug, PartialEq)]
struct Ending {
    runs: Vec<(&'static str, RunPhase, (i32, i32))>,
    machines: usize,
}

/// From nothing to four machines; a pair, one that needs a second attempt, one that is cancelled while it runs, a gang
/// that waits for all of them; and back to nothing.
async fn one_wave(story: &Story, wave: usize) -> Result<Ending> {
    let name = |role: &str| format!("{role}-{wave}");
    let before = story.stage.plane.audit_mark().await?;
    // All four are asked for at the start: otherwise their number would depend on which run is done first.
    let grown = json!({"minNodes": 4, "idleSecondsBeforeScaleDown": 3600});
    story.edit_cluster("pool", json!({"scale": grown})).await?;
    story.submit(run(&name("pair")).on("pool").nodes(2).lasting("2s")).await?;
    story.submit(run(&name("flaky")).on("pool").lasting("1s").exiting("1,0").user_retries(1)).await?;
    story.submit(run(&name("endless")).on("pool")).await?;
    story.run_comes_to(&name("endless"), RunPhase::Running).await?;
    story.submit(run(&name("gang")).on("pool").nodes(4).lasting("1s")).await?;
    story.cancel(&name("endless")).await?;
    let mut runs = Vec::new();
    for (role, phase) in [
        ("pair", RunPhase::Completed),
        ("flaky", RunPhase::Completed),
        ("endless", RunPhase::Canceled),
        ("gang", RunPhase::Completed),
    ] {
        let ended = story.run_comes_to(&name(role), phase).await?;
        runs.push((role, phase, budgets(&ended)));
    }
    let shrunk = json!({"minNodes": 0, "idleSecondsBeforeScaleDown": 1});
    story.edit_cluster("pool", json!({"scale": shrunk})).await?;
    story.cluster_rests_with("pool", 0).await?;
    story.no_machine_is_left().await?;
    Ok(Ending { runs, machines: machines_made(story, before).await? })
}

/// Counted by the names that anybody wrote to, as Karpenter does with each of them. Not by creations: the log shows no 201 for one
/// whose client was killed before the answer. Nor by ordinals: an operator killed after it reserved one does not use it.
async fn machines_made(story: &Story, since: Mark) -> Result<usize> {
    story.stage.plane.audit_mark().await?;
    let events = story.stage.plane.audit_log()?.since(since)?;
    let machines = events.iter().filter(|event| event.is_write() && event.resource.starts_with("nodeclaims"));
    let names: BTreeSet<&str> =
        machines.map(|event| event.name.as_str()).filter(|name| !name.is_empty()).collect();
    Ok(names.len())
}

#[tokio::test]
async fn twenty_kills_change_nothing_but_the_time_it_takes() -> Result<()> {
    let story = Story::begin_apart("twenty kills").await?;
    story.create_cluster(cluster("pool").max(4)).await?;
    let mut random = Random::from_environment();
    eprintln!("twenty kills: TRAINYARD_SEED={}", random.seed);

    let (kills, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let killing = async {
        while kills.load(Ordering::Relaxed) < KILLS && !over.load(Ordering::Relaxed) {
            tokio::time::sleep(random.up_to(Duration::from_millis(1500))).await;
            story.stage.kill_operator(0).await?;
            kills.fetch_add(1, Ordering::Relaxed);
            story.stage.start_operator(0).await?;
        }
        anyhow::Ok(())
    };
    // Wave after wave until all kills have hit one, so that no kill is wasted on a story that is over.
    let telling = async {
        let mut endings = Vec::new();
        while kills.load(Ordering::Relaxed) < KILLS {
            let ending = one_wave(&story, endings.len()).await;
            over.store(ending.is_err(), Ordering::Relaxed);
            endings.push(ending?);
        }
        anyhow::Ok(endings)
    };
    let (killed, endings) = tokio::join!(killing, telling);
    killed?;
    let endings = endings?;
    let calm = story.elsewhere("calm").await?;
    calm.create_cluster(cluster("pool").max(4)).await?;
    let expected = one_wave(&calm, 0).await?;
    for (wave, ending) in endings.iter().enumerate() {
        assert_eq!(*ending, expected, "wave {wave} of {} did not end as without kills", endings.len());
    }
    assert_eq!(expected.machines, 4);
    eprintln!("twenty kills: {} waves", endings.len());
    Ok(())
}

#[tokio::test]
async fn a_pod_that_succeeds_while_nobody_looks_is_a_success() -> Result<()> {
    let story = Story::begin_apart("success unseen").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("training").on("pool").lasting("15s")).await?;
    story.run_comes_to("training", RunPhase::Running).await?;
    story.stage.kill_operator(0).await?;
    trainyard_e2e::controlplane::eventually("the pod to succeed", PATIENCE, || async {
        let pods = story.pods().list(&kube::api::ListParams::default()).await?;
        let phase = pods.items[0].status.as_ref().and_then(|status| status.phase.clone());
        ensure!(phase.as_deref() == Some("Succeeded"), "{phase:?}");
        Ok(())
    })
    .await?;
    let unseen = story.runs().get("training").await?;
    assert_eq!(unseen.status.unwrap().phase, Some(RunPhase::Running), "the operator was down");

    story.stage.start_operator(0).await?;
    let done = story.run_comes_to("training", RunPhase::Completed).await?;
    assert_eq!(done.status.as_ref().unwrap().exit_code, Some(0));
    assert_eq!(budgets(&done), (0, 0));
    Ok(())
}

#[tokio::test]
async fn the_idle_timer_survives_a_restart_and_a_change_of_leaders() -> Result<()> {
    let idle = jiff::SignedDuration::from_mins(1);
    let story = Story::begin_apart("idle timer").await?;
    story.create_cluster(cluster("pool").max(1).idle_seconds(60)).await?;
    story.submit(run("training").on("pool").lasting("1s")).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    let idle_since = story
        .expect("the idle clock to run", || async {
            let node = story.nodes_of("pool").await?.pop();
            node.and_then(|node| node.spec.idle_since).context("it does not")
        })
        .await?
        .0;
    let leaves = idle_since + idle;
    let announced = |cluster: &trainyard_api::cluster::Cluster| {
        let status = cluster.status.as_ref()?;
        status.next_scale_down_time.as_ref().map(|time| time.0)
    };
    story
        .cluster_shows("pool", "to announce when the node leaves", |pool| announced(pool) == Some(leaves))
        .await?;

    story.stage.kill_operator(0).await?;
    story.stage.start_operator(0).await?;
    story.cluster_shows("pool", "to announce the same time", |pool| announced(pool) == Some(leaves)).await?;

    // The second one waits for the lease of the first to expire, which takes 15 seconds.
    story.stage.start_operator(1).await?;
    story.stage.kill_operator(0).await?;
    let node = story.nodes_of("pool").await?.pop().context("the node has left too early")?;
    assert_eq!(node.spec.idle_since.map(|time| time.0), Some(idle_since));
    let left = story
        .expect("the node to leave", || async {
            let nodes = story.nodes_of("pool").await?;
            ensure!(nodes.iter().all(|node| node.spec.retired.is_some()), "it stays");
            Ok(now())
        })
        .await?;
    assert!(left >= leaves, "it left at {left}, before {leaves}");
    let late = left.duration_since(leaves);
    assert!(late < jiff::SignedDuration::from_secs(15), "it left {late} late: the clock was started anew");
    story.cluster_rests_with("pool", 0).await?;
    story.no_machine_is_left().await
}

#[allow(clippy::disallowed_methods, reason = "the operator acts by the real time")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
