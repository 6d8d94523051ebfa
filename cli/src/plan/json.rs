//! The answer for programs: what was resolved of each Cluster, and the plan as the planner gives it.

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;
use trainyard_api::cluster_node::{Engine, VmSizeFacts};
use trainyard_planner::Plan;

use crate::world::Aside;
use crate::world::{Pool, World};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    now: Timestamp,
    clusters: Vec<OfCluster<'a>>,
    runs_without_cluster: &'a [Aside],
    assumptions: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfCluster<'a> {
    cluster: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<Resolved<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused<'a>>,
    plan: &'a Plan,
    not_in_queue: &'a [Aside],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resolved<'a> {
    vm_size: &'a VmSizeFacts,
    provisioning_class: &'a str,
    engine: &'a Engine,
}

#[derive(Serialize)]
struct Refused<'a> {
    code: &'a str,
    message: &'a str,
}

/// The answer as JSON.
pub fn answer(world: &World) -> anyhow::Result<String> {
    let answer = Answer {
        now: world.now,
        clusters: world.pools.iter().map(of_cluster).collect(),
        runs_without_cluster: &world.homeless,
        assumptions: &world.assumptions,
    };
    let mut text = serde_json::to_string_pretty(&answer).context("the plan cannot be written as JSON")?;
    text.push('\n');
    Ok(text)
}

fn of_cluster(pool: &Pool) -> OfCluster<'_> {
    OfCluster {
        cluster: &pool.key,
        resolved: pool.catalogue.as_ref().ok().map(|resolved| Resolved {
            vm_size: &resolved.size,
            provisioning_class: &resolved.class.name,
            engine: &resolved.engine,
        }),
        refused: pool
            .catalogue
            .as_ref()
            .err()
            .map(|refusal| Refused { code: refusal.code.as_str(), message: &refusal.message }),
        plan: &pool.plan,
        not_in_queue: &pool.aside,
    }
}
