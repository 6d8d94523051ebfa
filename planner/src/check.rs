//! What holds for every plan, as named functions.
//!
//! In: a snapshot, a time, and the plan that was made of them. Out: nothing, or a sentence that names what is wrong.
//! Used by property tests, simulations and debug builds. They share no code with what makes plans, and judge the outcome:
//! what was promised to users and to the protocol, not how it was reached.

mod actions;
mod asked;
mod repeated;
mod service;

use jiff::Timestamp;

use crate::action::Plan;
use crate::snapshot::{Machine, Node, Snapshot};

pub use actions::*;
pub use asked::*;
pub use repeated::*;
pub use service::*;

/// What is wrong, or nothing.
pub type Verdict = Result<(), String>;

/// A judgement of one plan.
pub type Invariant = fn(&Snapshot, Timestamp, &Plan) -> Verdict;

/// Everything that can be judged from one plan alone.
pub const INVARIANTS: &[(&str, Invariant)] = &[
    ("requests_stay_within_maximum", requests_stay_within_maximum),
    ("requests_stay_within_the_stock", requests_stay_within_the_stock),
    ("minimum_is_kept", minimum_is_kept),
    ("refusals_are_waited_out", refusals_are_waited_out),
    ("ordinals_only_grow", ordinals_only_grow),
    ("claimed_nodes_are_not_released", claimed_nodes_are_not_released),
    ("only_what_leaves_is_released", only_what_leaves_is_released),
    ("occupied_nodes_are_not_released", occupied_nodes_are_not_released),
    ("only_what_is_gone_is_forgotten", only_what_is_gone_is_forgotten),
    ("final_marks_stay", final_marks_stay),
    ("live_claims_are_not_dropped", live_claims_are_not_dropped),
    ("directives_are_given_once_to_live_attempts", directives_are_given_once_to_live_attempts),
    ("a_deleted_cluster_starts_nothing", a_deleted_cluster_starts_nothing),
    ("deadlines_are_kept", deadlines_are_kept),
    ("gangs_start_whole", gangs_start_whole),
    ("runs_start_on_usable_nodes_only", runs_start_on_usable_nodes_only),
    ("capacity_is_not_exceeded", capacity_is_not_exceeded),
    ("first_waiting_run_could_not_start", first_waiting_run_could_not_start),
    ("reservation_is_not_delayed", reservation_is_not_delayed),
    ("every_wait_has_a_reason", every_wait_has_a_reason),
    ("every_node_has_a_reason", every_node_has_a_reason),
    ("a_held_pool_starts_nothing", a_held_pool_starts_nothing),
    ("a_frozen_pool_keeps_its_nodes", a_frozen_pool_keeps_its_nodes),
    ("every_run_on_hold_says_so", every_run_on_hold_says_so),
    ("as_few_runs_as_needed_are_stopped", as_few_runs_as_needed_are_stopped),
    ("only_what_is_asked_for_is_removed", only_what_is_asked_for_is_removed),
    ("wake_is_ahead", wake_is_ahead),
];

/// The first invariant that does not hold, with its name.
pub fn violation(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Option<String> {
    INVARIANTS
        .iter()
        .find_map(|(name, holds)| holds(snapshot, now, plan).err().map(|what| format!("{name}: {what}")))
}

/// Turns a condition into a verdict.
fn require(condition: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if condition { Ok(()) } else { Err(otherwise()) }
}

/// A node that neither leaves nor is broken.
fn serves(node: &Node) -> bool {
    node.retired.is_none()
        && !node.released
        && matches!(node.machine, Machine::Coming | Machine::Ready | Machine::NotReady)
}
