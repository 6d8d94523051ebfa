//! Nodes that shall leave: above the maximum, needed by nobody, idle for too long.

use std::cmp::Reverse;

use jiff::Timestamp;

use crate::clock;
use crate::snapshot::{Machine, RetireReason};
use crate::world::{Ends, World};

/// Retires what is above the maximum: nodes on their way first, the youngest first, then idle ones, the longest idle first.
/// Runs are never disturbed: for what is still too much, the nodes that are free first take no new work.
pub(crate) fn to_maximum(world: &mut World) {
    let mut excess = world.staying() - world.maximum;
    if excess <= 0 {
        return;
    }
    let mut free: Vec<usize> = (0..world.nodes.len()).filter(|at| is_free(world, *at)).collect();
    free.sort_by_key(|at| {
        let state = &world.nodes[*at];
        let coming = state.node.machine == Machine::Coming;
        let age = if coming { Reverse(state.node.ordinal) } else { Reverse(0) };
        (!coming, age, state.node.machine == Machine::Ready, state.idle_from.is_none(), state.idle_from, *at)
    });
    for at in free {
        if excess == 0 {
            return;
        }
        world.retire(at, RetireReason::ScaleDown);
        excess -= 1;
    }
    let mut busy: Vec<(Ends, Reverse<usize>)> = (0..world.nodes.len())
        .filter(|at| world.nodes[*at].stays())
        .filter(|at| !world.nodes[*at].tenants.is_empty())
        .map(|at| {
            let last = world.nodes[at].tenants.iter().map(|tenant| tenant.ends).max();
            (last.unwrap_or(Ends::Unknown), Reverse(at))
        })
        .collect();
    busy.sort_unstable();
    for (_, Reverse(at)) in busy.into_iter().take(excess as usize) {
        world.nodes[at].draining = true;
    }
}

/// Retires, down to the minimum, idle nodes that no run counts on any more and whose timer has ended. Before the queue is
/// served and anything else is given up: what was about to leave may take their place in this plan, not in the next one.
pub(crate) fn stalled(world: &mut World) {
    let mut surplus = world.staying() - world.minimum;
    for at in 0..world.nodes.len() {
        let state = &world.nodes[at];
        let Some(until) = state.trusted_until().filter(|_| surplus > 0 && is_free(world, at)) else {
            continue;
        };
        let timer = clock::after(state.idle_from.unwrap_or(world.now), world.snapshot.policy.idle_timeout);
        let leaves = timer.max(until);
        if leaves <= world.now {
            world.retire(at, RetireReason::Idle);
            surplus -= 1;
        } else {
            world.note_instant(leaves);
        }
    }
}

/// What shrinking came to.
#[derive(Default)]
pub(crate) struct Shrunk {
    /// When the next idle node leaves if nothing changes.
    pub next: Option<Timestamp>,
    /// How many unpromised idle nodes stay only because of the minimum.
    pub surplus: i64,
}

/// Retires, down to the minimum, what no waiting run counts on: nodes on their way at once, idle ones when their timer
/// has ended.
///
/// Nodes reserved for a run that waits for busy ones are not promised, and leave on their timer like others: the run
/// could not start on them, alone or with what is coming, but only after another run has ended. When that is, is known at best
/// from a limit, which is when the other run must have ended and seldom when it does: to keep nodes for it would let one
/// long run beside a large gang hold the rest of the pool idle for days, at full price. They are asked for again, as a
/// whole gang, when the busy ones are free; what is lost is one boot. Whoever has short gaps between gangs says so with
/// `idleSecondsBeforeScaleDown`.
///
/// A node on its way that nobody waits for (its run was cancelled, or a busy node was free first) is given back at once,
/// not booted and then watched for the idle time: it has served nobody yet, so nothing is lost but a boot that is only half paid,
/// and a machine that was never registered has no pods to look after.
pub(crate) fn idle(world: &mut World, requested: i64) -> Shrunk {
    let mut surplus = world.staying() + requested - world.minimum;
    let free = |world: &World, machine: fn(Machine) -> bool| -> Vec<usize> {
        (0..world.nodes.len())
            .filter(|at| {
                let state = &world.nodes[*at];
                is_free(world, *at) && !state.promised && machine(state.node.machine)
            })
            .collect()
    };
    let initial = world.initial_last_ordinal();
    for at in free(world, |machine| machine == Machine::Coming).into_iter().rev() {
        if surplus <= 0 {
            break;
        }
        // One that the Cluster was to begin with is waited for, and leaves on its timer.
        if Some(world.nodes[at].node.ordinal) <= initial {
            continue;
        }
        world.retire(at, RetireReason::NotNeeded);
        surplus -= 1;
    }
    let mut idle = free(world, |machine| matches!(machine, Machine::Ready | Machine::NotReady));
    idle.sort_by_key(|at| (world.nodes[*at].idle_from.is_none(), world.nodes[*at].idle_from, *at));
    let mut next = None;
    for at in idle {
        if surplus <= 0 {
            break;
        }
        let idle_from = world.nodes[at].idle_from;
        let leaves = clock::after(idle_from.unwrap_or(world.now), world.snapshot.policy.idle_timeout);
        if leaves <= world.now {
            world.retire(at, RetireReason::Idle);
            surplus -= 1;
            continue;
        }
        next = Some(leaves);
        // The timer of a node that this plan empties has not begun: it is no instant of this snapshot.
        if idle_from.is_some() {
            world.note_instant(leaves);
        }
        break;
    }
    Shrunk { next, surplus: surplus.max(0) }
}

fn is_free(world: &World, at: usize) -> bool {
    let state = &world.nodes[at];
    state.stays() && state.tenants.is_empty()
}
