//! Plans within what is there, where machines are found and not made.
//!
//! What a plan asks for is set aside before anything is written, so that of two Clusters that see the same free machines
//! one takes a whole gang and the other waits: neither gets half of one. If less is free than was counted, the plan is made
//! again with that.

use jiff::Timestamp;
use trainyard_model::node::found::Counted;
use trainyard_model::snapshot::awaiting;
use trainyard_planner::{Action, Plan};

use super::Context;
use super::afterwards::{FIRST_ORDINAL, node_spec};
use super::observe::{self, Scope};

/// How often a plan is made anew because another Cluster was faster. After that this one waits for the next change.
const TRIES: usize = 3;

/// The plan for what was observed. Where that could not be had, the scope is left as the plan saw it.
pub async fn plan(context: &Context, scope: &mut Scope, now: Timestamp) -> Plan {
    for _ in 0..TRIES {
        let plan = trainyard_planner::plan(&scope.snapshot, now);
        let requests = requests(&plan);
        if requests == 0 {
            return plan;
        }
        let wanted = {
            let nodes: Vec<_> = scope.nodes.values().map(AsRef::as_ref).collect();
            requests + awaiting(&nodes)
        };
        match set_aside(context, scope, wanted).await {
            None => return plan,
            Some(counted) if counted.free >= wanted => return plan,
            Some(counted) => scope.recount(counted),
        }
    }
    let message = scope.counted.take().map(|counted| counted.message).unwrap_or_default();
    scope.recount(Counted { message, ..Counted::default() });
    trainyard_planner::plan(&scope.snapshot, now)
}

fn requests(plan: &Plan) -> i64 {
    plan.all_actions().filter(|action| matches!(action, Action::RequestNode { .. })).count() as i64
}

/// What there is now; as many as were wanted when they are set aside. None where nothing is counted.
async fn set_aside(context: &Context, scope: &mut Scope, wanted: i64) -> Option<Counted> {
    scope.counted.as_ref()?;
    let (cluster, resolved) = (scope.cluster.as_ref()?, scope.catalogue.as_ref().ok()?);
    let engine = context.engines.of(&resolved.engine)?;
    let spec = node_spec(cluster, resolved, FIRST_ORDINAL, None)?;
    let pool = observe::pool(&scope.key, cluster);
    match engine.set_aside(&pool, &spec, wanted).await {
        Ok(supply) => {
            let supply = supply?;
            scope.recheck_at = super::earliest([scope.recheck_at, supply.again_at]);
            Some(supply.counted)
        }
        Err(error) => {
            tracing::warn!(cluster = %scope.key, %error, "machines could not be set aside");
            scope.recheck_at = super::earliest([scope.recheck_at, super::soon(context.clock.now())]);
            Some(Counted { message: error.to_string(), ..Counted::default() })
        }
    }
}
