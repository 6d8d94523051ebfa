//! Carries out the first half of a plan: claims, marks and directives.
//!
//! In: the scope the plan was made from, and its actions. Out: what conflicted or failed. An action that finds the world
//! changed is given up, never adapted; the next plan decides anew. Each action is one file's function.

mod allocate;
mod drop_claim;
mod fresh;
mod node_marks;
mod run_marks;
mod take_back;

pub use allocate::rehearse_allocation;
pub use fresh::fresh_run;
pub use run_marks::write_queue;

use futures::StreamExt as _;
use futures::stream;
use trainyard_planner::Action;

use super::observe::Scope;
use super::{CONCURRENT_WRITES, Context, Outcome, Undone, notices};

/// Carries out `actions` in order: those of one kind that follow each other touch different objects and go together.
pub async fn execute(context: &Context, scope: &Scope, actions: &[Action]) -> Outcome {
    let mut outcome = Outcome::default();
    scope.set_allocating(actions.iter().filter_map(allocated_run).collect());
    for batch in batches(actions) {
        let actions: Vec<_> = batch.iter().map(|action| named(context, scope, action)).collect();
        let results: Vec<_> = stream::iter(actions).buffer_unordered(CONCURRENT_WRITES).collect().await;
        for (action, result) in results {
            outcome.add(action, &scope.snapshot.cluster, result);
        }
    }
    outcome
}

fn allocated_run(action: &Action) -> Option<String> {
    match action {
        Action::Allocate { run, .. } => Some(run.uid.clone()),
        _ => None,
    }
}

/// The actions in order, in batches of which all may go at once.
fn batches(actions: &[Action]) -> Vec<&[Action]> {
    let mut batches = Vec::new();
    let mut start = 0;
    for at in 1..=actions.len() {
        let goes_on = at < actions.len()
            && actions[start..at].iter().all(|before| may_go_together(before, &actions[at]));
        if !goes_on {
            batches.push(&actions[start..at]);
            start = at;
        }
    }
    batches
}

async fn named(context: &Context, scope: &Scope, action: &Action) -> (&'static str, Result<(), Undone>) {
    let result = carry_out(context, scope, action).await;
    if result.is_ok() {
        notices::tell_of_action(context, scope, action);
    }
    (name(action), result)
}

/// Two allocations of one plan may share a node, as may two dropped claims; they then go one after the other.
fn may_go_together(a: &Action, b: &Action) -> bool {
    match (a, b) {
        (Action::Allocate { nodes: a, .. }, Action::Allocate { nodes: b, .. }) => {
            !a.iter().any(|node| b.contains(node))
        }
        (Action::DropClaim { node: a, .. }, Action::DropClaim { node: b, .. }) => a != b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

async fn carry_out(context: &Context, scope: &Scope, action: &Action) -> Result<(), Undone> {
    let done = match action {
        Action::Allocate { run, attempt, nodes, shares } => {
            allocate::allocate(context, scope, run, *attempt, nodes, shares).await
        }
        Action::DropClaim { node, run, attempt, basis } => {
            return drop_claim::drop_claim(context, scope, node, run, *attempt, *basis).await;
        }
        Action::Retire { node, reason } => node_marks::retire(context, scope, node, *reason).await,
        Action::Unretire { node } => node_marks::unretire(context, scope, node).await,
        Action::Release { node } => node_marks::release(context, scope, node).await,
        Action::Directive { run, attempt, kind, reason, culprit } => {
            run_marks::direct(context, scope, run, *attempt, (*kind, *reason), culprit.as_ref()).await
        }
        Action::Hold { run, hold } => run_marks::hold(context, scope, run, hold).await,
        Action::GiveUp { run } => run_marks::give_up(context, scope, run).await,
        // The planner puts these into the second half: they need the report stored first.
        Action::RequestNode { .. } | Action::Forget { .. } | Action::ReleaseFinalizer => {
            super::afterwards::carry_out(context, scope, action).await
        }
    };
    done.map_err(Undone::Failed)
}

/// The action's name, for logs.
pub fn name(action: &Action) -> &'static str {
    match action {
        Action::RequestNode { .. } => "RequestNode",
        Action::Allocate { .. } => "Allocate",
        Action::DropClaim { .. } => "DropClaim",
        Action::Retire { .. } => "Retire",
        Action::Unretire { .. } => "Unretire",
        Action::Release { .. } => "Release",
        Action::Forget { .. } => "Forget",
        Action::Directive { .. } => "Directive",
        Action::Hold { .. } => "Hold",
        Action::GiveUp { .. } => "GiveUp",
        Action::ReleaseFinalizer => "ReleaseFinalizer",
    }
}
