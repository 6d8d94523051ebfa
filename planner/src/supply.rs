//! What can still be had for waiting runs: idle nodes, parts of nodes, nodes on their way, room for new ones.
//!
//! In: the world after upkeep. Runs take from it in queue order, so that a node, coming or there, is never counted twice.
//! Taking for later (`promise`) keeps a node for a run that waits for more of them; reserving keeps it for the run that
//! waits for busy nodes, and lets only those pass that end in time.

mod stock;

use crate::capacity::Capacity;
use crate::snapshot::RequestedShare;

/// How near a machine is to being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Ready,
    Coming,
    /// To be asked for by this plan.
    New,
    /// To be asked for when leaving nodes have made room.
    Later,
}

/// One machine that is there, comes or could be asked for.
struct Bin {
    stage: Stage,
    free: Capacity,
    /// Nothing is taken of it.
    empty: bool,
    reserved: bool,
    service: Service,
}

/// What a machine may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// It takes tenants as long as something of it is free.
    Open,
    /// It stays for its tenants and takes no more.
    Draining,
    /// It leaves or is broken.
    None,
}

/// How many of something are free for everyone, and how many are reserved.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    open: i64,
    reserved: i64,
}

impl Count {
    fn within(self, reach: Reach) -> i64 {
        match reach {
            Reach::Open => self.open,
            Reach::Reserved => self.open + self.reserved,
        }
    }

    fn take(&mut self, wanted: i64) {
        let open = wanted.min(self.open);
        self.open -= open;
        self.reserved -= wanted - open;
    }

    fn reserve(&mut self, wanted: i64) {
        self.open -= wanted;
        self.reserved += wanted;
    }
}

/// What a run may take of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// What nobody has reserved.
    Open,
    /// That, and what is reserved from a time before which the run must have ended.
    Reserved,
}

/// Machines set apart for a run that starts when all are ready.
#[derive(Debug, Default)]
pub(crate) struct Promise {
    /// Bins that exist.
    pub bins: Vec<usize>,
    /// Those of them that are ready.
    pub ready: i64,
    /// Those that are not.
    pub coming: i64,
    /// To be asked for.
    pub new: i64,
    /// To be asked for later: room that leaving nodes still take.
    pub leaving: i64,
    /// Some of the ready ones are reserved for another run.
    pub on_reserved: bool,
    /// Some of those that have to boot are.
    pub new_on_reserved: bool,
}

/// See the module.
pub(crate) struct Supply {
    /// First the nodes of the world, by the same index; then new ones.
    bins: Vec<Bin>,
    /// Empty ready bins, best first; may name some that are taken since.
    ready: Vec<usize>,
    /// Empty coming bins, best first; likewise.
    coming: Vec<usize>,
    ready_count: Count,
    coming_count: Count,
    room: Count,
    leaving: Count,
    replaceable: i64,
    new_capacity: Capacity,
    new: i64,
    later: i64,
    /// Shares that found no place, with the smallest number of nodes that failed: supply only shrinks.
    hopeless: Vec<(Capacity, Reach, i64)>,
}

/// So many different failed shares are remembered. Each is compared with each waiting run; more of them would cost more than
/// they save.
const MOST_HOPELESS: usize = 16;

impl Supply {
    /// Nodes on which a run could start at once, or none. `preferred` are tried first.
    pub(crate) fn find_now(
        &mut self,
        share: &RequestedShare,
        count: i64,
        reach: Reach,
        preferred: &[usize],
    ) -> Option<Vec<usize>> {
        match share {
            RequestedShare::WholeNode if self.ready_count.within(reach) < count => None,
            RequestedShare::WholeNode => {
                let mut found = self.empty_bins(Stage::Ready, reach);
                found.sort_by_key(|at| (!preferred.contains(at), self.bins[*at].reserved));
                found.truncate(count as usize);
                Some(found)
            }
            RequestedShare::Part(share) => {
                if self.is_hopeless(share, count, reach) {
                    return None;
                }
                let mut found = self.fitting(share, Stage::Ready, reach);
                found.sort_by_key(|at| !preferred.contains(at));
                found.truncate(count as usize);
                (found.len() as i64 == count).then_some(found)
            }
        }
    }

    /// Takes nodes for a run that starts now.
    pub(crate) fn take_now(&mut self, share: &RequestedShare, nodes: &[usize]) {
        for at in nodes {
            self.take(*at, share);
        }
    }

    /// Machines with which a run could start later without waiting for any other run, or none. `reach` is for what is
    /// ready, `reach_new` for what has to boot: a machine that was asked for a moment ago needs as long as one that is
    /// asked for now.
    pub(crate) fn find_later(
        &mut self,
        share: &RequestedShare,
        count: i64,
        reach: Reach,
        reach_new: Reach,
    ) -> Option<Promise> {
        let fits_new = match share {
            RequestedShare::WholeNode => true,
            RequestedShare::Part(share) => self.new_capacity.holds(share),
        };
        let room = if fits_new { self.room.within(reach_new) } else { 0 };
        let leaving = if fits_new { self.leaving.open } else { 0 };
        let bins = match share {
            RequestedShare::WholeNode => {
                let existing = self.ready_count.within(reach) + self.coming_count.within(reach_new);
                if existing + room + leaving < count {
                    return None;
                }
                let mut bins = self.empty_bins(Stage::Ready, reach);
                bins.sort_by_key(|at| self.bins[*at].reserved);
                let mut coming = self.empty_bins(Stage::Coming, reach_new);
                coming.sort_by_key(|at| self.bins[*at].reserved);
                bins.extend(coming);
                bins
            }
            RequestedShare::Part(share) => {
                if self.is_hopeless(share, count, reach) {
                    return None;
                }
                let mut bins = self.fitting(share, Stage::Ready, reach);
                bins.extend(self.fitting(share, Stage::Coming, reach_new));
                bins.extend(self.fitting(share, Stage::New, reach_new));
                bins.extend(self.fitting(share, Stage::Later, reach_new));
                if (bins.len() as i64) + room + leaving < count {
                    self.note_hopeless(share, count, reach_new);
                    return None;
                }
                bins
            }
        };
        let mut promise = Promise { bins, ..Promise::default() };
        promise.bins.truncate(count as usize);
        let lacking = count - promise.bins.len() as i64;
        promise.new = lacking.min(room);
        promise.leaving = lacking - promise.new;
        promise.ready = promise.bins.iter().filter(|at| self.bins[**at].stage == Stage::Ready).count() as i64;
        promise.coming = promise.bins.len() as i64 - promise.ready;
        let on_reserved = |ready: bool| {
            let mut taken = promise.bins.iter().map(|at| &self.bins[*at]);
            taken.any(|bin| bin.reserved && (bin.stage == Stage::Ready) == ready)
        };
        (promise.on_reserved, promise.new_on_reserved) =
            (on_reserved(true), on_reserved(false) || promise.new > self.room.open);
        Some(promise)
    }

    /// Sets the machines of a promise apart.
    pub(crate) fn keep(&mut self, share: &RequestedShare, promise: &Promise) {
        for at in &promise.bins {
            self.take(*at, share);
        }
        self.room.take(promise.new);
        self.leaving.take(promise.leaving);
        // A gang is asked for whole: while nodes that leave take a part of its room, the rest is only kept free for it.
        let waits_for_room =
            promise.leaving > 0 || promise.bins.iter().any(|at| self.bins[*at].stage == Stage::Later);
        let (stage, wanted) =
            if waits_for_room { (Stage::Later, &mut self.later) } else { (Stage::New, &mut self.new) };
        *wanted += promise.new + promise.leaving;
        for _ in 0..promise.new + promise.leaving {
            let at = self.bins.len();
            self.bins.push(Bin {
                stage,
                free: self.new_capacity.clone(),
                empty: false,
                reserved: false,
                service: Service::Open,
            });
            self.take(at, share);
        }
    }

    /// So many nodes that leave after their runs can be replaced within the maximum.
    pub(crate) fn replaceable(&self) -> i64 {
        self.replaceable
    }

    /// How many machines are to be asked for.
    pub(crate) fn new_machines(&self) -> i64 {
        self.new
    }

    /// How many are to be asked for once leaving nodes have made room.
    pub(crate) fn later_machines(&self) -> i64 {
        self.later
    }

    /// How many empty nodes are ready, reserved or not.
    pub(crate) fn ready(&self) -> i64 {
        self.ready_count.within(Reach::Reserved)
    }

    /// Reserves what a run that waits for busy nodes could already have: all that is empty, for a whole-node run.
    /// Gives the machines among it that exist or are to be asked for, and how many are still lacking.
    pub(crate) fn reserve_open(&mut self, share: &RequestedShare, count: i64) -> (Vec<usize>, i64) {
        let mut bins: Vec<usize> = match share {
            RequestedShare::WholeNode => {
                let mut bins = self.empty_bins(Stage::Ready, Reach::Open);
                bins.extend(self.empty_bins(Stage::Coming, Reach::Open));
                bins
            }
            RequestedShare::Part(share) => {
                let stages = [Stage::Ready, Stage::Coming, Stage::New, Stage::Later];
                stages.iter().flat_map(|stage| self.fitting(share, *stage, Reach::Open)).collect()
            }
        };
        bins.truncate(count as usize);
        let mut lacking = count - bins.len() as i64;
        for at in &bins {
            self.reserve(*at);
        }
        let fits_new = match share {
            RequestedShare::WholeNode => true,
            RequestedShare::Part(share) => self.new_capacity.holds(share),
        };
        if fits_new {
            for count in [&mut self.room, &mut self.leaving] {
                let taken = lacking.min(count.open);
                count.reserve(taken);
                lacking -= taken;
            }
        }
        (bins, lacking)
    }

    /// Reserves one machine.
    pub(crate) fn reserve(&mut self, at: usize) {
        let bin = &mut self.bins[at];
        if std::mem::replace(&mut bin.reserved, true) || !bin.empty {
            return;
        }
        match bin.stage {
            Stage::Ready => self.ready_count.reserve(1),
            Stage::Coming => self.coming_count.reserve(1),
            Stage::New | Stage::Later => {}
        }
    }

    /// Reserves so many machines that are yet to be asked for, all of which runs before wait for.
    pub(crate) fn reserve_awaited(&mut self, share: &RequestedShare, count: i64) {
        let fits = match share {
            RequestedShare::WholeNode => true,
            RequestedShare::Part(share) => self.new_capacity.holds(share),
        };
        let new = self.bins.iter_mut().filter(|bin| bin.stage >= Stage::New && fits);
        new.take(count as usize).for_each(|bin| bin.reserved = true);
    }

    /// What of a machine nobody has and nobody was promised; nothing to be said of one that takes no more tenants.
    pub(crate) fn left(&self, at: usize) -> Option<&Capacity> {
        let bin = &self.bins[at];
        (bin.service == Service::Open).then_some(&bin.free)
    }

    /// True for a node that stays or can be called back.
    pub(crate) fn is_usable(&self, at: usize) -> bool {
        self.bins[at].service != Service::None
    }

    /// How near it is.
    pub(crate) fn stage(&self, at: usize) -> Stage {
        self.bins[at].stage
    }

    /// True when the node is reserved.
    pub(crate) fn is_reserved(&self, at: usize) -> bool {
        self.bins[at].reserved
    }

    /// The capacity of a machine that does not exist yet.
    pub(crate) fn new_capacity(&self) -> &Capacity {
        &self.new_capacity
    }

    fn take(&mut self, at: usize, share: &RequestedShare) {
        let bin = &mut self.bins[at];
        bin.free = match share {
            RequestedShare::WholeNode => Capacity::default(),
            RequestedShare::Part(share) => bin.free.minus(share),
        };
        if std::mem::replace(&mut bin.empty, false) {
            let count = match bin.stage {
                Stage::Ready => &mut self.ready_count,
                Stage::Coming => &mut self.coming_count,
                Stage::New | Stage::Later => return,
            };
            if bin.reserved {
                count.reserved -= 1;
            } else {
                count.open -= 1;
            }
        }
    }

    fn empty_bins(&self, stage: Stage, reach: Reach) -> Vec<usize> {
        let order = if stage == Stage::Ready { &self.ready } else { &self.coming };
        let usable = |at: &&usize| {
            let bin = &self.bins[**at];
            bin.empty && (reach == Reach::Reserved || !bin.reserved)
        };
        order.iter().filter(usable).copied().collect()
    }

    /// Bins with so much free, the tightest first, so that whole nodes stay whole.
    fn fitting(&self, share: &Capacity, stage: Stage, reach: Reach) -> Vec<usize> {
        let mut found: Vec<_> = self
            .bins
            .iter()
            .enumerate()
            .filter(|(_, bin)| bin.stage == stage && bin.service == Service::Open && bin.free.holds(share))
            .filter(|(_, bin)| reach == Reach::Reserved || !bin.reserved)
            .map(|(at, bin)| {
                let accelerators: i64 = bin.free.accelerators.values().sum();
                (bin.reserved, bin.empty, accelerators, bin.free.cpu_millis, bin.free.memory_bytes, at)
            })
            .collect();
        found.sort_unstable();
        // Among empty ones the order of whole nodes holds.
        let order = if stage == Stage::Ready { &self.ready } else { &self.coming };
        let rank = |at: usize| order.iter().position(|other| *other == at);
        let (touched, empty): (Vec<_>, Vec<_>) = found.into_iter().partition(|entry| !entry.1);
        let mut empty: Vec<_> = empty.into_iter().map(|entry| (entry.0, rank(entry.5), entry.5)).collect();
        empty.sort_unstable();
        touched.into_iter().map(|entry| entry.5).chain(empty.into_iter().map(|entry| entry.2)).collect()
    }

    fn is_hopeless(&self, share: &Capacity, count: i64, reach: Reach) -> bool {
        self.hopeless.iter().any(|(failed, failed_reach, least)| {
            count >= *least && reach <= *failed_reach && share.holds(failed)
        })
    }

    fn note_hopeless(&mut self, share: &Capacity, count: i64, reach: Reach) {
        if self.hopeless.len() < MOST_HOPELESS {
            self.hopeless.push((share.clone(), reach, count));
        }
    }
}
