//! What can still be had for waiting runs: idle nodes, parts of nodes, nodes on their way, room for new ones.
//!
//! In: the world after upkeep. Runs take from it in queue order, so that a node, coming or there, is never counted twice.
//! Taking for later (`promise`) keeps a node for a run that waits for more of them; reserving keeps it for the run that
//! waits for busy nodes, and lets only those pass that end in time.

mod hopeless;
mod shelf;
mod size;
mod stock;

use crate::capacity::Capacity;
use crate::snapshot::RequestedShare;
use hopeless::Hopeless;
use shelf::Shelf;

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

/// In the order in which machines are taken.
const STAGES: [Stage; 4] = [Stage::Ready, Stage::Coming, Stage::New, Stage::Later];

/// One machine that is there, comes or could be asked for.
struct Bin {
    stage: Stage,
    free: Capacity,
    /// Nothing is taken of it.
    empty: bool,
    /// Among empty ones: the least is taken first.
    rank: usize,
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

/// So many of what is offered, those first that are preferred; none if there are not so many.
fn chosen(offered: impl Iterator<Item = usize>, count: i64, preferred: &[usize]) -> Option<Vec<usize>> {
    let count = count as usize;
    let found: Vec<usize> = if preferred.is_empty() {
        offered.take(count).collect()
    } else {
        let (first, others): (Vec<_>, Vec<_>) = offered.partition(|at| preferred.contains(at));
        first.into_iter().chain(others).take(count).collect()
    };
    (found.len() == count).then_some(found)
}

/// See the module.
pub(crate) struct Supply {
    /// First the nodes of the world, by the same index; then new ones.
    bins: Vec<Bin>,
    /// The bins that take tenants, by stage.
    shelves: [Shelf; STAGES.len()],
    /// Somebody asks for parts: else nobody asks what is left of a bin that is not empty.
    sharing: bool,
    room: Count,
    leaving: Count,
    replaceable: i64,
    /// See [`Supply::is_irreplaceable`].
    obtainable: i64,
    /// See [`Supply::attainable`].
    attainable: i64,
    new_capacity: Capacity,
    new: i64,
    later: i64,
    hopeless: Hopeless,
}

impl Supply {
    /// True for a run that finds nothing, neither now nor later, because another one found nothing that asked for no more.
    pub(crate) fn is_hopeless(&self, share: &RequestedShare, count: i64, reach: Reach) -> bool {
        match share {
            RequestedShare::WholeNode => false,
            RequestedShare::Part(share) => self.hopeless.contains(share, count, reach),
        }
    }

    /// Nodes on which a run could start at once, or none. `preferred` are tried first.
    pub(crate) fn find_now(
        &self,
        share: &RequestedShare,
        count: i64,
        reach: Reach,
        preferred: &[usize],
    ) -> Option<Vec<usize>> {
        let ready = self.shelf(Stage::Ready);
        match share {
            RequestedShare::WholeNode if ready.empty_count(reach) < count => None,
            RequestedShare::WholeNode => chosen(ready.empty(reach), count, preferred),
            RequestedShare::Part(share) => chosen(ready.holding(share, reach, &self.bins), count, preferred),
        }
    }

    /// How many machines would have to be asked for beside ready ones that nobody has reserved; none when there is no open room
    /// for so many.
    pub(crate) fn new_for_open(&self, share: &RequestedShare, count: i64) -> Option<i64> {
        let ready = self.shelf(Stage::Ready);
        let (there, fits_new) = match share {
            RequestedShare::WholeNode => (ready.empty_count(Reach::Open), true),
            RequestedShare::Part(share) => {
                let holding = ready.holding(share, Reach::Open, &self.bins).take(count as usize);
                (holding.count() as i64, self.new_capacity.holds(share))
            }
        };
        let new = (count - there).max(0);
        let room = if fits_new { self.room.open.max(0) } else { 0 };
        (new <= room).then_some(new)
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
        let wanted = count as usize;
        let bins: Vec<_> = match share {
            RequestedShare::WholeNode => {
                let [ready, coming] = [self.shelf(Stage::Ready), self.shelf(Stage::Coming)];
                let existing = ready.empty_count(reach) + coming.empty_count(reach_new);
                if existing + room + leaving < count {
                    return None;
                }
                ready.empty(reach).chain(coming.empty(reach_new)).take(wanted).collect()
            }
            RequestedShare::Part(share) => {
                let reach_of = |stage| if stage == Stage::Ready { reach } else { reach_new };
                let holding = |stage| self.shelf(stage).holding(share, reach_of(stage), &self.bins);
                STAGES.into_iter().flat_map(holding).take(wanted).collect()
            }
        };
        if (bins.len() as i64) + room + leaving < count {
            if let RequestedShare::Part(share) = share {
                self.hopeless.note(share, count, reach_new);
            }
            return None;
        }
        let mut promise = Promise { bins, ..Promise::default() };
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
            let free = self.new_capacity.clone();
            self.bins.push(Bin {
                stage,
                free,
                empty: false,
                rank: 0,
                reserved: false,
                service: Service::Open,
            });
            self.take(at, share);
        }
    }

    /// So many nodes can serve at the same time, whatever runs and leaves now.
    pub(crate) fn attainable(&self) -> i64 {
        self.attainable
    }

    /// True when so many nodes can be had only as long as none of those that serve leaves.
    pub(crate) fn is_irreplaceable(&self, count: i64) -> bool {
        count > self.obtainable
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
        self.shelf(Stage::Ready).empty_count(Reach::Reserved)
    }

    /// Reserves what a run that waits for busy nodes could already have: all that is empty, for a whole-node run.
    /// Gives the machines among it that exist or are to be asked for, and how many are still lacking.
    pub(crate) fn reserve_open(&mut self, share: &RequestedShare, count: i64) -> (Vec<usize>, i64) {
        let wanted = count as usize;
        let bins: Vec<usize> = match share {
            RequestedShare::WholeNode => STAGES
                .into_iter()
                .flat_map(|stage| self.shelf(stage).empty(Reach::Open))
                .take(wanted)
                .collect(),
            RequestedShare::Part(share) => {
                let holding = |stage| self.shelf(stage).holding(share, Reach::Open, &self.bins);
                STAGES.into_iter().flat_map(holding).take(wanted).collect()
            }
        };
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
        self.change(at, |bin| bin.reserved = true);
    }

    /// Reserves so many machines that are yet to be asked for, all of which runs before wait for.
    pub(crate) fn reserve_awaited(&mut self, share: &RequestedShare, count: i64) {
        let fits = match share {
            RequestedShare::WholeNode => true,
            RequestedShare::Part(share) => self.new_capacity.holds(share),
        };
        let new = (0..self.bins.len()).filter(|at| self.bins[*at].stage >= Stage::New && fits);
        let awaited: Vec<_> = new.take(count as usize).collect();
        awaited.into_iter().for_each(|at| self.reserve(at));
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
        self.change(at, |bin| {
            bin.empty = false;
            bin.free = match share {
                RequestedShare::WholeNode => Capacity::default(),
                RequestedShare::Part(share) => bin.free.minus(share),
            };
        });
    }

    /// Changes a bin, and its place on the shelf.
    fn change(&mut self, at: usize, change: impl FnOnce(&mut Bin)) {
        let bin = &mut self.bins[at];
        let shelf = &mut self.shelves[bin.stage as usize];
        shelf.take_off(at, bin);
        change(bin);
        if bin.empty || (self.sharing && bin.service == Service::Open) {
            shelf.put(at, bin);
        }
    }

    fn shelf(&self, stage: Stage) -> &Shelf {
        &self.shelves[stage as usize]
    }
}
