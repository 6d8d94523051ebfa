//! Serving the queue: who starts now, who waits for machines, who waits for other runs.
//!
//! Runs are served in order. One that cannot start takes what it waits for out of the supply, so that no later run and no
//! idle timer takes it away: the machines it needs if they can be had without waiting for a run (a promise), or, for the
//! first that must wait for running runs, their nodes from the time they are free (a reservation).

use std::collections::BTreeMap;

use crate::backfill::{self, Reservation};
use crate::capacity::Capacity;
use crate::deadline;
use crate::gang;
use crate::growth::Growth;
use crate::identity::RunId;
use crate::report::RunReport;
use crate::snapshot::{Hold, Lifetime, PoolHold, QueuedRun, RequestedShare};
use crate::supply::{Promise, Stage, Supply};
use crate::wait::{Machines, Wait};
use crate::world::World;

/// Runs up to this place are told the name of the run before them. Names change with every run that finishes, and the status of
/// thousands shall not be rewritten for that.
const NAMED_POSITIONS: usize = 20;

/// A run that does not start in this plan; its place is known when all are.
fn waits(run: &QueuedRun, wait: Wait) -> RunReport {
    RunReport {
        run: run.id.clone(),
        position: 0,
        wait,
        estimated_start: None,
        gang_since: None,
        hold: run.hold.clone(),
    }
}

/// Serves the queue in order. Those that wait, in that order, are returned.
pub(crate) fn serve<'a>(
    world: &mut World<'a>,
    queue: &[&'a QueuedRun],
    supply: &mut Supply,
    growth: &Growth,
) -> Vec<RunReport> {
    let mut waiting = Vec::with_capacity(queue.len());
    let mut reservation: Option<Reservation<'a>> = None;
    let mut sizes = Sizes::default();
    let mut first: Option<&QueuedRun> = None;
    for run in queue.iter().copied() {
        if let Some(passed_over) = pass_over(world, supply, growth, &mut sizes, run, waiting.len()) {
            waiting.push(passed_over);
            continue;
        }
        let window = backfill::Window::of(run, reservation.as_ref(), world.now);
        let preferred: Vec<usize> = world
            .unfinished
            .get(run.id.uid.as_str())
            .map(|begun| begun.iter().map(|(at, _)| *at).collect())
            .unwrap_or_default();
        let may_fit = !supply.is_hopeless(&run.share, run.node_count, window.existing);
        if may_fit
            && let Some(nodes) = supply.find_now(&run.share, run.node_count, window.existing, &preferred)
        {
            if nodes.iter().any(|at| supply.is_reserved(*at)) {
                window.note_end_for_existing(world);
            }
            supply.take_now(&run.share, &nodes);
            world.allocate(run, nodes);
            continue;
        }
        if may_fit
            && let Some(promise) = supply.find_later(&run.share, run.node_count, window.existing, window.new)
        {
            if promise.on_reserved {
                window.note_end_for_existing(world);
            }
            if promise.new_on_reserved {
                window.note_end_for_new(world);
            }
            let mut since = gang::since(run, world.now);
            if gang::is_over(run, since, world.now) && is_counted_free(world, supply, growth, run) {
                // It asks for other machines than those it has waited for.
                since = world.now;
            }
            if gang::is_over(run, since, world.now) {
                let hold = gang::next_hold(run, world.now);
                world.hold(run, hold.clone());
                waiting.push(RunReport { hold: Some(hold.clone()), ..waits(run, held(world, run, &hold)) });
                continue;
            }
            gang::note_timeout(world, run);
            let wait = machines_wait(world, supply, growth, run, &promise);
            keep(world, supply, run, &promise);
            first.get_or_insert(run);
            let hold = gang::ended_hold(run, world.now);
            waiting.push(RunReport { gang_since: Some(since), hold, ..waits(run, wait) });
            continue;
        }
        if let Some(wait) = needs_blocked_growth(world, supply, &mut sizes, run) {
            waiting.push(waits(run, wait));
            continue;
        }
        waiting.push(match &reservation {
            None => {
                let made = backfill::reserve(world, supply, run);
                let mut entry = waits(run, made.wait(run, first.unwrap_or(run)));
                entry.estimated_start = made.promised_by_users;
                reservation = Some(made);
                entry
            }
            Some(holder) => waits(run, behind(supply, run, holder, waiting.len())),
        });
    }
    let owner = world.snapshot.cluster.split_once('/').map_or("", |(namespace, _)| namespace);
    for (position, report) in (1..).zip(&mut waiting) {
        report.position = position;
        report.wait.tell_in(&report.run.namespace, owner);
    }
    waiting
}

/// Serves nobody, because the Cluster is on hold. In order of the queue. Deadlines pass all the same.
pub(crate) fn hold_back(world: &mut World, queue: &[&QueuedRun], hold: PoolHold) -> Vec<RunReport> {
    let wait = if world.snapshot.lifetime == Lifetime::Wanted {
        Wait::ClusterOnHold { hold }
    } else {
        Wait::ClusterDeleting
    };
    let mut wait_of =
        |run: &QueuedRun| if deadline::is_over(world, run) { Wait::QueueDeadline } else { wait.clone() };
    let waiting = queue.iter().map(|run| waits(run, wait_of(run)));
    (1..).zip(waiting).map(|(position, report)| RunReport { position, ..report }).collect()
}

/// Runs that cannot be served whatever there is.
fn pass_over<'a>(
    world: &mut World<'a>,
    supply: &Supply,
    growth: &Growth,
    sizes: &mut Sizes<'a>,
    run: &'a QueuedRun,
    position: usize,
) -> Option<RunReport> {
    let wait = if deadline::is_over(world, run) {
        Wait::QueueDeadline
    } else if world.snapshot.lifetime != Lifetime::Wanted {
        Wait::ClusterDeleting
    } else if run.node_count > world.written.maximum {
        exceeds_maximum(world, run)
    } else if let Some(hold) = run.hold.as_ref().filter(|hold| hold.until > world.now)
        && !is_cut_short(world, supply, growth, run, hold)
    {
        world.note_instant(hold.until);
        held(world, run, hold)
    } else if run.node_count > supply.attainable() {
        // Nothing is kept for it: a half gang would keep from others what it cannot use.
        let words = || world.snapshot.policy.stock.as_ref().map(|stock| stock.message.clone());
        let message = if position < NAMED_POSITIONS { words().unwrap_or_default() } else { String::new() };
        Wait::NoFreeMachines { needed: run.node_count, there: world.total() - world.quarantined, message }
    } else {
        exceeds_node_size(world, supply, sizes, run)?
    };
    Some(waits(run, wait))
}

fn exceeds_maximum(world: &World, run: &QueuedRun) -> Wait {
    let needed = run.node_count;
    match &world.snapshot.policy.max_limited {
        Some(limit) => {
            Wait::GrowthBlocked { needed, code: limit.code.clone(), message: limit.message.clone() }
        }
        None => Wait::ExceedsMaxNodes { needed, maximum: world.written.maximum },
    }
}

fn held(world: &World, run: &QueuedRun, hold: &Hold) -> Wait {
    let is_counted = world.snapshot.policy.stock.is_some();
    Wait::CapacityHold { needed: run.node_count, until: hold.until, count: hold.count, is_counted }
}

/// Whether a gang stands aside no longer, because its machines are there.
fn is_cut_short(world: &mut World, supply: &Supply, growth: &Growth, run: &QueuedRun, hold: &Hold) -> bool {
    if !is_counted_free(world, supply, growth, run) {
        return false;
    }
    let earliest = gang::earliest_end(hold);
    world.note_instant(earliest);
    earliest <= world.now
}

/// Whether all its machines are there for the taking, where machines are counted: ready ones that nobody before it takes, and
/// free ones that may be asked for now. A gang stands aside for want of machines, and then it wants none. What comes or
/// leaves does not count, it has waited for that; nor does what is free while a back-off says that such machines do not serve.
fn is_counted_free(world: &mut World, supply: &Supply, growth: &Growth, run: &QueuedRun) -> bool {
    if world.snapshot.policy.stock.is_none() {
        return false;
    }
    match (supply.new_for_open(&run.share, run.node_count), &growth.refused) {
        (None, _) => false,
        (Some(new), Some(refusal)) if new > 0 => {
            world.note_instant(refusal.until);
            false
        }
        (Some(_), _) => true,
    }
}

/// How many of the nodes that stay are large enough for a share; counted once for each share and over each capacity, because
/// whole queues ask alike and most nodes of a pool are alike.
#[derive(Default)]
struct Sizes<'a> {
    known: BTreeMap<&'a RequestedShare, i64>,
    /// So many nodes of each capacity stay.
    nodes: Option<BTreeMap<&'a Capacity, i64>>,
}

impl<'a> Sizes<'a> {
    fn large_enough(&mut self, world: &World<'a>, supply: &Supply, share: &'a RequestedShare) -> i64 {
        let nodes = self.nodes.get_or_insert_with(|| {
            let usable = world.nodes.iter().enumerate().filter(|(at, _)| supply.is_usable(*at));
            usable.fold(BTreeMap::new(), |mut nodes, (_, state)| {
                *nodes.entry(&state.node.capacity).or_default() += 1;
                nodes
            })
        });
        let is_large = |capacity: &Capacity| match share {
            RequestedShare::WholeNode => true,
            RequestedShare::Part(share) => capacity.holds(share),
        };
        let count = || nodes.iter().filter(|(capacity, _)| is_large(capacity)).map(|(_, count)| count).sum();
        *self.known.entry(share).or_insert_with(count)
    }
}

fn exceeds_node_size<'a>(
    world: &World<'a>,
    supply: &Supply,
    sizes: &mut Sizes<'a>,
    run: &'a QueuedRun,
) -> Option<Wait> {
    let RequestedShare::Part(share) = &run.share else { return None };
    let fits =
        supply.new_capacity().holds(share) || sizes.large_enough(world, supply, &run.share) >= run.node_count;
    (!fits).then(|| Wait::ExceedsNodeSize {
        share: Box::new(share.clone()),
        node: Box::new(supply.new_capacity().clone()),
    })
}

/// A run that needs more nodes than there are, while none can be asked for before a person acts, reserves nothing: its
/// nodes might stand idle for days.
fn needs_blocked_growth<'a>(
    world: &World<'a>,
    supply: &Supply,
    sizes: &mut Sizes<'a>,
    run: &'a QueuedRun,
) -> Option<Wait> {
    let block = world.snapshot.policy.growth_blocked.as_ref()?;
    (run.node_count > sizes.large_enough(world, supply, &run.share)).then(|| Wait::GrowthBlocked {
        needed: run.node_count,
        code: block.code.clone(),
        message: block.message.clone(),
    })
}

fn machines_wait(
    world: &World,
    supply: &Supply,
    growth: &Growth,
    run: &QueuedRun,
    promise: &Promise,
) -> Wait {
    let coming_since = promise
        .bins
        .iter()
        .filter(|at| supply.stage(**at) == Stage::Coming)
        .filter_map(|at| world.nodes.get(*at))
        .map(|state| state.node.requested_at)
        .min();
    // A part of a machine that an earlier run of this queue made wanted is not on its way yet.
    let shared = promise.bins.iter().filter(|at| supply.stage(**at) >= Stage::New).count() as i64;
    let machines = Machines {
        needed: run.node_count,
        idle: promise.ready,
        coming: promise.coming - shared,
        coming_since,
        new: promise.new + shared,
        leaving: promise.leaving,
    };
    match &growth.refused {
        Some(refusal) if machines.new + promise.leaving > 0 => Wait::CapacityBackoff {
            machines,
            cause: refusal.cause,
            until: refusal.until,
            message: refusal.message.clone(),
        },
        _ if promise.leaving > 0 => Wait::NodesLeaving(machines),
        _ => Wait::NodesComing(machines),
    }
}

/// Takes what was promised out of the supply.
fn keep(world: &mut World, supply: &mut Supply, run: &QueuedRun, promise: &Promise) {
    for at in &promise.bins {
        if *at < world.nodes.len() {
            world.keep(*at);
        }
    }
    supply.keep(&run.share, promise);
}

fn behind(supply: &Supply, run: &QueuedRun, holder: &Reservation, position: usize) -> Wait {
    let could_start = run.share == RequestedShare::WholeNode && supply.ready() >= run.node_count;
    if could_start {
        let holder: Option<RunId> = (position < NAMED_POSITIONS).then(|| holder.run.id.clone());
        Wait::BehindReservation { holder }
    } else {
        Wait::BehindInQueue { higher_priority: holder.run.priority > run.priority }
    }
}
