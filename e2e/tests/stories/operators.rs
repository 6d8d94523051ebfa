//! The operator is killed, restarted and replaced, and nobody notices.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use trainyard_api::run_status::RunPhase;
use trainyard_e2e::stories::{PATIENCE, Random, Story, budgets, cluster, run};

const KILLS: usize = 20;

/// What is the same whether or not anybody was killed: phase and budgets of each run, and machines asked for.
#[derive(Debug, PartialEq)]
struct Ending {
    runs: Vec<(&'static str, RunPhase, (i32, i32))>,
}

/// A gang that waits, one that needs a second attempt, one that is cancelled while it runs.
async fn one_wave(story: &Story, wave: usize) -> Result<Ending> {
    let name = |role: &str| format!("{role}-{wave}");
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
    Ok(Ending { runs })
}

async fn to_zero(story: &Story) -> Result<i64> {
    story.edit_cluster("pool", json!({"scale": {"idleSecondsBeforeScaleDown": 1}})).await?;
    let rested = story.cluster_rests_with("pool", 0).await?;
    story.no_machine_is_left().await?;
    Ok(rested.status.unwrap().last_node_ordinal)
}

#[tokio::test]
async fn twenty_kills_change_nothing_but_the_time_it_takes() -> Result<()> {
    let story = Story::begin_apart("twenty kills").await?;
    let pool = cluster("pool").max(4).idle_seconds(3600);
    story.create_cluster(pool.clone()).await?;
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
    let machines = to_zero(&story).await?;

    let calm = story.elsewhere("calm").await?;
    calm.create_cluster(pool).await?;
    let calm_ending = one_wave(&calm, 0).await?;
    let calm_machines = to_zero(&calm).await?;

    for (wave, ending) in endings.iter().enumerate() {
        assert_eq!(
            *ending,
            calm_ending,
            "wave {wave} of {} ended otherwise than without kills",
            endings.len()
        );
    }
    assert_eq!(machines, calm_machines, "machines asked for");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_succeeds_while_nobody_looks_is_a_success() -> Result<()> {
    let story = Story::begin_apart("success unseen").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("training").on("pool").lasting("3s")).await?;
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
