//! Promises that need more than one plan: each plans again, otherwise, and compares.

use jiff::Timestamp;

use super::{Verdict, require};
use crate::action::{Action, Plan};
use crate::effect;
use crate::plan;
use crate::snapshot::{QueuedRun, RequestedShare, Snapshot};

/// Carrying out a plan and planning again gives no further action.
pub fn planning_again_changes_nothing(snapshot: &Snapshot, now: Timestamp, first: &Plan) -> Verdict {
    let again = plan(&effect::apply(snapshot, first, now), now);
    require(again.all_actions().next().is_none(), || {
        let more: Vec<_> = again.all_actions().collect();
        format!("{more:?} after {:?}", first.all_actions().collect::<Vec<_>>())
    })
}

/// Until `wake_at` the same snapshot gives the same actions. Judged at `time`.
pub fn wake_is_honest(snapshot: &Snapshot, now: Timestamp, first: &Plan, time: Timestamp) -> Verdict {
    if time < now || first.wake_at.is_some_and(|wake| wake <= time) {
        return Ok(());
    }
    let later = plan(snapshot, time);
    require(actions_without_times(first) == actions_without_times(&later), || {
        format!(
            "wake at {:?}, and at {time} there is {:?} instead of {:?}",
            first.wake_at,
            later.all_actions().collect::<Vec<_>>(),
            first.all_actions().collect::<Vec<_>>()
        )
    })
}

/// At `wake_at` the same snapshot gives other actions.
pub fn wake_is_needed(snapshot: &Snapshot, first: &Plan) -> Verdict {
    let Some(wake) = first.wake_at else { return Ok(()) };
    let later = plan(snapshot, wake);
    require(actions_without_times(first) != actions_without_times(&later), || {
        format!("nothing is new at {wake}: {:?}", first.all_actions().collect::<Vec<_>>())
    })
}

/// `reordered` holds the same things in another order, and gives the same plan.
pub fn order_of_input_is_nothing(reordered: &Snapshot, now: Timestamp, first: &Plan) -> Verdict {
    let other = plan(reordered, now);
    require(other == *first, || format!("{other:?} instead of {first:?}"))
}

/// One more run of one node never means fewer nodes. Judged where no run is a gang.
pub fn more_demand_never_means_fewer_nodes(
    snapshot: &Snapshot,
    now: Timestamp,
    first: &Plan,
    more: &QueuedRun,
) -> Verdict {
    let single = |run: &QueuedRun| run.node_count == 1 && run.share == RequestedShare::WholeNode;
    if !single(more) || !snapshot.queued.iter().all(single) {
        return Ok(());
    }
    let mut busier = snapshot.clone();
    busier.queued.push(more.clone());
    let (before, after) = (first.report.pool.target_nodes, plan(&busier, now).report.pool.target_nodes);
    require(after >= before, || format!("{before} nodes without {}, {after} with it", more.id))
}

/// A run that is given up takes nothing from anybody: without it the same is done. Claims of a start that was begun go
/// either way, on other grounds.
pub fn who_is_given_up_takes_nothing(snapshot: &Snapshot, now: Timestamp, first: &Plan) -> Verdict {
    let mut without = snapshot.clone();
    without.queued.retain(|run| !run.given_up && run.give_up_at.is_none_or(|deadline| deadline > now));
    let about_others = |plan: &Plan| -> Vec<Action> {
        let own = |action: &Action| matches!(action, Action::GiveUp { .. } | Action::DropClaim { .. });
        plan.all_actions().filter(|action| !own(action)).cloned().collect()
    };
    let (with, without) = (about_others(first), about_others(&plan(&without, now)));
    require(with == without, || format!("{with:?}, and {without:?} without those that are given up"))
}

/// The time until which a run is held follows from the time of the plan, and is no other action.
fn actions_without_times(plan: &Plan) -> Vec<Action> {
    plan.all_actions()
        .cloned()
        .map(|mut action| {
            if let Action::Hold { hold, .. } = &mut action {
                hold.until = Timestamp::UNIX_EPOCH;
            }
            action
        })
        .collect()
}
