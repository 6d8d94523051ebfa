//! EASY backfill: the first run that must wait for running runs gets nodes reserved and a time; a run behind it may use
//! them meanwhile if its user promised that it ends before.
//!
//! Made anew with every plan and never stored: a reservation is what follows from the queue, not a promise to anyone.

use jiff::{SignedDuration, Timestamp};

use crate::capacity::Capacity;
use crate::clock;
use crate::snapshot::{Machine, QueuedRun, RequestedShare};
use crate::supply::{Reach, Stage, Supply};
use crate::wait::Wait;
use crate::world::{Ends, NodeState, World};

/// So much time a machine that is not ready yet, or yet to be asked for, is given to boot, when a run shall use it before a reservation
/// begins. As the longest boot limit of the engines (15 minutes) and some: a machine that comes too late is paid for in vain, a
/// chance that is missed costs only a later start.
const BOOT_ALLOWANCE: SignedDuration = SignedDuration::from_mins(20);

/// The nodes set aside for one run.
pub(crate) struct Reservation<'a> {
    pub run: &'a QueuedRun,
    idle: i64,
    coming: i64,
    /// All others, if none is promised.
    busy: i64,
    /// How many of its nodes are to come from runs that wait before it.
    promised: i64,
    /// When all of them are free at the latest; `None` when nobody can know.
    free_at: Option<Timestamp>,
    /// The same, if it follows from limits that users wrote.
    pub promised_by_users: Option<Timestamp>,
}

impl Reservation<'_> {
    /// What its run waits for; `first` is the first run that waits.
    pub(crate) fn wait(&self, run: &QueuedRun, first: &QueuedRun) -> Wait {
        if self.promised > 0 {
            return Wait::BehindInQueue { higher_priority: first.priority > run.priority };
        }
        Wait::NodesBusy {
            needed: run.node_count,
            idle: self.idle,
            coming: self.coming,
            busy: self.busy,
            free_at: self.promised_by_users,
        }
    }
}

/// What a run behind a reservation may take.
pub(crate) struct Window {
    pub existing: Reach,
    pub new: Reach,
    existing_closes: Option<Timestamp>,
    new_closes: Option<Timestamp>,
}

impl Window {
    /// The window of `run` at `now`. It only closes: the reservation's time stands still while the run's end moves on.
    pub(crate) fn of(run: &QueuedRun, reservation: Option<&Reservation>, now: Timestamp) -> Self {
        let free_at = reservation.and_then(|reservation| reservation.free_at);
        let existing_closes = free_at.zip(run.user_limit).map(|(time, limit)| clock::before(time, limit));
        let new_closes = existing_closes.map(|time| clock::before(time, BOOT_ALLOWANCE));
        let reach = |closes: Option<Timestamp>| match closes {
            Some(time) if now < time => Reach::Reserved,
            _ => Reach::Open,
        };
        Self { existing: reach(existing_closes), new: reach(new_closes), existing_closes, new_closes }
    }

    /// Somebody came through it to what exists: when it closes, the plan is another one.
    pub(crate) fn note_end_for_existing(&self, world: &mut World) {
        self.existing_closes.into_iter().for_each(|closes| world.note_instant(closes));
    }

    /// The same for what is to be asked for.
    pub(crate) fn note_end_for_new(&self, world: &mut World) {
        self.new_closes.into_iter().for_each(|closes| world.note_instant(closes));
    }
}

/// Reserves everything that `run` could have already, and the busy nodes that are free first.
pub(crate) fn reserve<'a>(world: &mut World, supply: &mut Supply, run: &'a QueuedRun) -> Reservation<'a> {
    let (open, lacking) = supply.reserve_open(&run.share, run.node_count);
    let [mut idle, mut coming] = [0, 0];
    for at in &open {
        match supply.stage(*at) {
            Stage::Ready => idle += 1,
            Stage::Coming | Stage::New => coming += 1,
            Stage::Later => {}
        }
    }
    if world.snapshot.policy.growth_blocked.is_some() || supply.is_irreplaceable(run.node_count) {
        // What leaves now cannot be had again, and it is all that this run can hope for.
        for at in open.into_iter().filter(|at| supply.stage(*at) <= Stage::Coming) {
            world.keep(at);
        }
    }
    let mut busy: Vec<(Ends, usize)> = world
        .nodes
        .iter()
        .enumerate()
        .filter(|(at, state)| !state.is_gone() && !state.node.may_come_back() && !supply.is_reserved(*at))
        .filter_map(|(at, state)| Some((fits_from(state, supply.left(at), &run.share)?, at)))
        .collect();
    busy.sort_unstable();
    note_overtaking(world, &busy);
    let mut replaceable = supply.replaceable();
    busy.retain(|(_, at)| {
        let stays = world.nodes[*at].stays();
        replaceable -= i64::from(!stays);
        stays || replaceable >= 0
    });
    busy.truncate(lacking as usize);
    let found = busy.len() as i64;
    let awaited = busy.iter().filter(|(ends, _)| *ends == Ends::Awaited).count() as i64;
    // Sorted: the last to be free decides, and is unknown if any is. Runs whose pods are going have no time at all.
    let free_at = match busy.last() {
        Some((Ends::At { time, .. }, _)) if found == lacking => Some(*time),
        _ => None,
    };
    let only_promises = busy.iter().all(|(ends, _)| !matches!(ends, Ends::At { by_default: true, .. }));
    let is_there = |at: usize| world.nodes[at].stays() && world.nodes[at].node.machine == Machine::Ready;
    let all_there = idle + lacking == run.node_count && busy.iter().all(|(_, at)| is_there(*at));
    for (_, at) in &busy {
        supply.reserve(*at);
    }
    supply.reserve_awaited(&run.share, lacking - found);
    Reservation {
        run,
        idle,
        coming,
        busy: found,
        promised: lacking - found + awaited,
        free_at,
        promised_by_users: free_at.filter(|_| only_promises && all_there),
    }
}

/// The ends of runs that are about to start move on and overtake ends that stand still; then other nodes are reserved.
fn note_overtaking(world: &mut World, busy: &[(Ends, usize)]) {
    let starting = |at: usize| {
        world.nodes[at].tenants.iter().any(|tenant| match world.active.get(tenant.run.uid.as_str()) {
            Some(run) => run.started.is_none(),
            None => true,
        })
    };
    let time = |ends: &Ends| match ends {
        Ends::At { time, .. } => Some(*time),
        Ends::Soon | Ends::Unknown | Ends::Awaited => None,
    };
    let (moving, standing): (Vec<_>, Vec<_>) =
        busy.iter().filter_map(|(ends, at)| Some((time(ends)?, *at))).partition(|(_, at)| starting(*at));
    // Both are sorted by time.
    let overtaken = moving.iter().filter_map(|(moves, _)| {
        let next = standing.get(standing.partition_point(|(stands, _)| stands < moves))?;
        Some(clock::after(world.now, next.0.duration_since(*moves)))
    });
    // One instant after: at the instant itself both end at the same time.
    if let Some(first) = overtaken.min() {
        world.note_instant(first);
        world.note_instant(clock::after(first, SignedDuration::from_nanos(1)));
    }
}

/// When so many tenants have left the node that `share` fits beside what is promised of it; `None` if it never does, and of a
/// node that nobody has or was promised. `left` is what neither tenants nor promises have, absent where all must leave first.
fn fits_from(state: &NodeState, left: Option<&Capacity>, share: &RequestedShare) -> Option<Ends> {
    let mut ends: Vec<_> = state.tenants.iter().map(|tenant| (tenant.ends, &*tenant.share)).collect();
    ends.sort_unstable();
    let last = if state.promised { Some(Ends::Awaited) } else { ends.last().map(|(ends, _)| *ends) };
    match share {
        RequestedShare::WholeNode => last,
        RequestedShare::Part(share) => {
            if !state.node.capacity.holds(share) {
                return None;
            }
            let found = left.and_then(|left| {
                let mut free = left.clone();
                ends.iter().find_map(|(ends, tenant)| {
                    free = free.plus(tenant);
                    free.holds(share).then_some(*ends)
                })
            });
            found.or(last)
        }
    }
}
