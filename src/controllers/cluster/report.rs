//! Stores the plan's report: `Cluster.status`, and `status.queue` of the runs that wait.
//!
//! Guarantees: what the next plan needs (ordinals, back-off, zone; a gang's clock, a hold) is stored before the plan's
//! second half is carried out. What only people read is bounded: a Cluster's status at most once a second, queue entries
//! at most ten a second per Cluster, the front of the queue first. If nothing changed, nothing is written.

use std::sync::PoisonError;

use futures::StreamExt as _;
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use serde_json::{Map, Value, json};
use trainyard_api::{
    cluster::{Cluster, ClusterStatus},
    names::FieldManager,
    run::Run,
    run_status::RunQueue,
};
use trainyard_model::snapshot::measured_capacity;
use trainyard_model::snapshot::run::{LightRun, Standing};
use trainyard_model::status::{
    pool::Circumstances,
    pool::cluster_status,
    queue::{Change, change, queue_entry},
};
use trainyard_planner::{Plan, RunReport};

use super::execute::{fresh_run, write_queue};
use super::observe::Scope;
use super::{CONCURRENT_WRITES, Context, Outcome, Undone, earliest, notices};
use crate::kubernetes::apply::{self, Seen};
use crate::kubernetes::error::{Error, ErrorKind};

/// Shortest time between two writes of one Cluster's status that nothing but people wait for.
const SHOW_EVERY: SignedDuration = SignedDuration::from_secs(1);

/// Queue entries written per Cluster and second. A thousand waiting runs then are all shown their first entry in under
/// two minutes, at a cost that an API server does not notice.
const QUEUE_WRITES_PER_SECOND: i64 = 10;

/// What came of reporting.
pub struct Reported {
    /// Whether all that the plan's second half relies on is stored.
    pub stored: bool,
    /// When what was put off may be written.
    pub rest_at: Option<Timestamp>,
    /// What conflicted or failed.
    pub outcome: Outcome,
}

/// See the module.
pub async fn report(context: &Context, scope: &Scope, plan: &Plan, now: Timestamp) -> Reported {
    let mut outcome = Outcome::default();
    let queue = store_queue(context, scope, plan, now, &mut outcome).await;
    if !queue.stored {
        // Ordinals that would not be used need not be reserved, and the next plan comes soon.
        return Reported { stored: false, rest_at: queue.rest_at, outcome };
    }
    let (pool_stored, pool_rest_at) = match store_pool(context, scope, plan, now).await {
        Ok(stored) => stored,
        Err(error) => {
            outcome.add("Cluster.status", &scope.snapshot.cluster, Err(error.into()));
            (false, None)
        }
    };
    Reported { stored: pool_stored, rest_at: earliest([queue.rest_at, pool_rest_at]), outcome }
}

/// Writes `Cluster.status` if that says something new, now or later. Returns whether what matters is stored, and when
/// to come back for the rest.
async fn store_pool(
    context: &Context,
    scope: &Scope,
    plan: &Plan,
    now: Timestamp,
) -> Result<(bool, Option<Timestamp>), Error> {
    let Some(cluster) = &scope.cluster else { return Ok((true, None)) };
    let before = cluster.status.clone().unwrap_or_default();
    let measured = measured_capacity(scope.nodes.values().filter_map(|node| node.measured.as_ref()));
    let circumstances = Circumstances {
        catalogue: scope.catalogue.as_ref(),
        limit: scope.snapshot.policy.max_limited.as_ref(),
        measured: measured.as_ref(),
        counted: scope.counted.as_ref(),
    };
    let wanted = cluster_status(cluster, &plan.report.pool, circumstances, now);
    if before == wanted {
        return Ok((true, None));
    }
    if plan.afterwards.is_empty() && !is_urgent(&before, &wanted) {
        let shown =
            context.memory.shown.lock().unwrap_or_else(PoisonError::into_inner).get(&scope.key).copied();
        let next = shown.and_then(|shown| shown.checked_add(SHOW_EVERY).ok()).filter(|next| *next > now);
        if next.is_some() {
            return Ok((true, next));
        }
    }
    let api: Api<Cluster> = Api::namespaced(context.client.clone(), &scope.key.namespace);
    let seen = Seen::of(&**cluster)?;
    let fields = json!({"status": wanted});
    let written = apply::apply_status(&api, &seen, FieldManager::ClusterStatus.as_str(), &fields).await?;
    notices::tell_of_status(context, cluster, &before, &wanted);
    context.memory.cluster_written(written, now);
    context.memory.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.key.clone(), now);
    Ok((true, None))
}

/// Whether the next plan needs what changed.
fn is_urgent(before: &ClusterStatus, wanted: &ClusterStatus) -> bool {
    before.backoff != wanted.backoff
        || before.last_node_ordinal != wanted.last_node_ordinal
        || before.zone != wanted.zone
        || before.provisioning_class != wanted.provisioning_class
}

struct QueueStored {
    stored: bool,
    rest_at: Option<Timestamp>,
}

async fn store_queue(
    context: &Context,
    scope: &Scope,
    plan: &Plan,
    now: Timestamp,
    outcome: &mut Outcome,
) -> QueueStored {
    let marked: Vec<&str> = plan.actions.iter().filter_map(marked_run).collect();
    let mut urgent: Vec<(&LightRun, &RunReport)> = Vec::new();
    let mut shown: Vec<(&LightRun, &RunReport)> = Vec::new();
    for report in &plan.report.runs {
        // A run that this plan holds or gives up was written with that a moment ago.
        if marked.contains(&report.run.uid.as_str()) {
            continue;
        }
        let Some(light) = scope.runs.get(&report.run.uid) else { continue };
        match change(light.queue.as_ref(), report) {
            // What this plan asks for in its name waits until its status can be written again.
            _ if context.refused.is_on_trial(&light.id) => urgent.push((light, report)),
            Change::Nothing => {}
            Change::Shown => shown.push((light, report)),
            Change::Remembered => urgent.push((light, report)),
        }
    }
    let mut over: Vec<&LightRun> =
        scope.runs.values().map(AsRef::as_ref).filter(|run| waits_no_more(run)).collect();
    over.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let (allowed, rest_at) = allow(context, scope, shown.len() + over.len(), now);
    let urgent_count = urgent.len();
    urgent.extend(shown);
    let entries = urgent.into_iter().map(|(light, report)| (light, Some(queue_entry(report))));
    let writes: Vec<_> = entries
        .chain(over.into_iter().map(|light| (light, None)))
        .take(urgent_count + allowed)
        .enumerate()
        .map(|(index, (light, entry))| write_nth(context, index, light, entry))
        .collect();
    let results: Vec<_> = stream::iter(writes).buffer_unordered(CONCURRENT_WRITES).collect().await;
    let mut stored = true;
    for (index, result) in results {
        stored &= result.is_ok() || index >= urgent_count;
        outcome.add("Run.status.queue", &scope.snapshot.cluster, result.map_err(Undone::Failed));
    }
    QueueStored { stored, rest_at }
}

/// Whether a run that was suspended, cancelled or refused still shows a place in the queue. With it goes the clock of its
/// gang: a run that is resumed has asked for nothing yet.
fn waits_no_more(run: &LightRun) -> bool {
    run.queue.is_some() && run.standing() == Standing::Aside
}

fn marked_run(action: &trainyard_planner::Action) -> Option<&str> {
    match action {
        trainyard_planner::Action::Hold { run, .. } | trainyard_planner::Action::GiveUp { run } => {
            Some(&run.uid)
        }
        _ => None,
    }
}

async fn write_nth(
    context: &Context,
    index: usize,
    light: &LightRun,
    entry: Option<RunQueue>,
) -> (usize, Result<(), Error>) {
    (index, write_entry(context, light, entry.as_ref()).await)
}

async fn write_entry(context: &Context, light: &LightRun, entry: Option<&RunQueue>) -> Result<(), Error> {
    match write_queue(context, light, entry).await {
        // Its user or the run controller wrote something else of it: what is said of its wait is as true as before.
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let api: Api<Run> = Api::namespaced(context.client.clone(), &light.id.namespace);
            let fresh = fresh_run(&api, light).await?;
            if fresh.standing() != light.standing() || fresh.queue != light.queue {
                return Err(error);
            }
            write_queue(context, &fresh, entry).await?;
        }
        result => result?,
    }
    if let Some(entry) = entry {
        notices::tell_of_wait(context, light, entry);
    }
    Ok(())
}

/// The merge patch that makes `status.queue` exactly this: what the entry leaves out is removed.
pub fn queue_fields(entry: Option<&RunQueue>) -> Value {
    let Some(entry) = entry else { return json!({"status": {"queue": null}}) };
    let RunQueue { position, reason, message, estimated_start, gang_since, hold, given_up } = entry;
    let mut fields = Map::new();
    fields.insert("position".into(), json!(position));
    fields.insert("reason".into(), json!(reason));
    fields.insert("message".into(), json!(message));
    fields.insert("estimatedStart".into(), json!(estimated_start));
    fields.insert("gangSince".into(), json!(gang_since));
    fields.insert("hold".into(), json!(hold));
    fields.insert("givenUp".into(), json!(given_up));
    json!({"status": {"queue": fields}})
}

/// How many queue entries a Cluster may still write: refilled with time, up to one second's worth.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    left: i64,
    since: Timestamp,
}

impl Allowance {
    fn full(now: Timestamp) -> Self {
        Self { left: QUEUE_WRITES_PER_SECOND, since: now }
    }

    /// Takes up to `wanted`; the second value says when there is more, if that was too little.
    fn take(&mut self, wanted: i64, now: Timestamp) -> (i64, Option<Timestamp>) {
        let refill = now.duration_since(self.since).as_millis() * i128::from(QUEUE_WRITES_PER_SECOND) / 1000;
        if refill > 0 {
            self.left = (i128::from(self.left) + refill).min(QUEUE_WRITES_PER_SECOND.into()) as i64;
            self.since = now;
        }
        let taken = wanted.min(self.left);
        self.left -= taken;
        let more_at = (taken < wanted).then(|| now.checked_add(SignedDuration::from_secs(1)).unwrap_or(now));
        (taken, more_at)
    }
}

fn allow(context: &Context, scope: &Scope, wanted: usize, now: Timestamp) -> (usize, Option<Timestamp>) {
    let mut allowances = context.memory.queue_writes.lock().unwrap_or_else(PoisonError::into_inner);
    let allowance = allowances.entry(scope.key.clone()).or_insert_with(|| Allowance::full(now));
    let (allowed, more_at) = allowance.take(wanted as i64, now);
    (allowed as usize, more_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("small numbers of milliseconds are timestamps")
    }

    #[test]
    fn ten_entries_a_second_are_allowed_and_the_rest_waits() {
        let mut allowance = Allowance::full(at(0));
        assert_eq!(allowance.take(4, at(0)), (4, None));
        assert_eq!(allowance.take(100, at(0)), (6, Some(at(1000))));
        assert_eq!(allowance.take(100, at(500)), (5, Some(at(1500))));
        assert_eq!(allowance.take(3, at(60_000)), (3, None));
        assert_eq!(allowance.take(100, at(60_000)), (7, Some(at(61_000))));
    }

    #[test]
    fn a_queue_entry_removes_what_it_does_not_say() {
        let entry = RunQueue { position: Some(1), ..RunQueue::default() };
        let fields = queue_fields(Some(&entry));
        assert_eq!(fields["status"]["queue"]["position"], 1);
        assert!(fields["status"]["queue"]["hold"].is_null());
        assert!(fields["status"]["queue"].as_object().is_some_and(|queue| queue.contains_key("hold")));
    }
}
