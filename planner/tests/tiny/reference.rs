//! What the design allows, by trying everything: the rules of its section on the planner's policy, read sentence by sentence.
//!
//! * *Order*: priority, then time. Runs that are held, or larger than maximum or node, are passed over.
//! * A run that can *starts*. Of the nodes that hold it, those are taken on which least is left over (*best fit*).
//! * *Growth*, for runs that fit under the maximum: whole gangs only, and never a new node while one that is idle or on its way
//!   would do. Nodes on their way, leaving and unusable ones count against the maximum. What a run counts on is its own.
//! * *The first run that does not fit gets a reservation: its nodes and the time they are free.* The nodes are any set that is
//!   free soonest, and may include machines to be asked for later, for which room is kept. *A run behind it may start now
//!   only on other nodes, or on those nodes if it must end before that time by a limit its user wrote.*
//!
//! What these sentences leave open is tried each way, so the answer is a set of outcomes: ties; which of several soonest
//! sets is reserved; how long a machine takes to boot; whether an end that only the default limit tells counts as a time;
//! whether a reservation of parts keeps the whole node or only the parts; whether a silent node is waited for or replaced;
//! whether a run that is short enough counts on machines that are kept for another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{DEFAULT_LIMIT, Node, Run, SIZE, Standing, World};

/// One bit for each node, by its place in the world. Machines that are asked for come after them.
pub type NodeSet = u32;

/// Later than everything.
const NEVER: i64 = i64::MAX;

/// From here on machines are numbered that are asked for when others have gone.
const LATER: usize = 16;

/// What a plan may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// Runs that start, by their place in the queue, and where.
    pub starts: BTreeMap<usize, NodeSet>,
    /// How many machines are asked for.
    pub requested: i64,
    /// When a run that waits for running ones is told to start at the latest, in minutes.
    pub estimate: Option<i64>,
}

/// Every outcome that the design allows.
pub fn allowed(world: &World) -> BTreeSet<Outcome> {
    let mut order: Vec<usize> = (0..world.queue.len()).collect();
    order.sort_by_key(|run| (Reverse(world.queue[*run].priority), *run));
    let mut found = BTreeSet::new();
    let differs = |differs: bool| if differs { &[false, true][..] } else { &[false] };
    for keeps_whole_nodes in differs(world.queue.iter().any(|run| run.share.is_some())).iter().copied() {
        for silent_is_replaced in
            differs(world.nodes.iter().any(|node| node.standing == Standing::Silent)).iter().copied()
        {
            Rules { world, order: &order, keeps_whole_nodes, silent_is_replaced, found: &mut found }
                .serve(0, &Story::default());
        }
    }
    found
}

/// One reading of the rules.
struct Rules<'a> {
    world: &'a World,
    order: &'a [usize],
    /// The reservation of a run of parts keeps the whole of its nodes; otherwise the parts.
    keeps_whole_nodes: bool,
    silent_is_replaced: bool,
    found: &'a mut BTreeSet<Outcome>,
}

/// What was decided so far.
#[derive(Clone, Default)]
struct Story {
    starts: BTreeMap<usize, NodeSet>,
    kept: Vec<Kept>,
    /// Machines that are asked for; they are numbered after the nodes there are.
    new: i64,
    /// Room that is kept for machines that are asked for later.
    places: i64,
    /// Machines that are asked for when nodes that are of no use have gone.
    replacements: i64,
    /// How many such machines a run counts on that needs nothing else.
    later: usize,
    /// The first run that does not fit has its reservation, and this start at the latest.
    headed: bool,
    estimate: Option<i64>,
}

/// A part of a node that a waiting run counts on.
#[derive(Clone, Copy)]
struct Kept {
    node: usize,
    share: i64,
    /// When it is free, as far as running runs are concerned.
    time: i64,
    /// When it is free again, in the words of a run's limit.
    limit: Option<i64>,
    /// A run whose user wrote a limit below this ends before it is needed.
    admits: i64,
    /// Nobody else has a part of that node.
    alone: bool,
}

/// A set of nodes that the first run that does not fit could wait for.
#[derive(Clone, Copy)]
struct Candidate {
    nodes: NodeSet,
    /// Machines to be asked for later.
    later: i64,
    /// Some of these have to boot, or are counted on by a run that waits for others that have to.
    boots: bool,
    awaited: bool,
    /// When they are free at the latest, by any limit.
    time: i64,
    /// By limits that users wrote only.
    promised: i64,
}

impl Rules<'_> {
    fn room(&self) -> i64 {
        self.world.max - self.world.counted()
    }

    /// All nodes there are, are asked for now, and are asked for later.
    fn nodes(&self, story: &Story) -> impl Iterator<Item = usize> + use<> {
        let there = self.world.nodes.len() + story.new as usize;
        (0..there).chain(LATER..LATER + story.later)
    }

    /// A node, or a machine that is asked for.
    fn node(&self, node: usize) -> Node {
        self.world.nodes.get(node).cloned().unwrap_or_else(|| super::node(Standing::Coming))
    }

    /// Nodes of use, now or later, and machines that are asked for.
    fn serves(&self, node: usize) -> bool {
        match self.node(node).standing {
            Standing::Ready | Standing::Coming => true,
            Standing::Silent => !self.silent_is_replaced,
            Standing::Leaving | Standing::Unusable => false,
        }
    }

    fn is_ready(&self, node: usize) -> bool {
        self.node(node).standing == Standing::Ready
    }

    /// What a run takes of a node.
    fn share(&self, run: Run, node: usize) -> i64 {
        run.share.unwrap_or(self.node(node).size)
    }

    /// Who has parts of a node: share, and end at the latest.
    fn users(&self, story: &Story, node: usize, default_limit: i64) -> Vec<(i64, i64)> {
        let tenants = self.node(node).tenants.into_iter();
        let tenants = tenants.map(|tenant| (tenant.share, tenant.promise.unwrap_or(default_limit - 60)));
        let started = story.starts.iter().filter(|(_, nodes)| has(**nodes, node));
        let started = started.map(|(run, _)| self.world.queue[*run]);
        let started = started.map(|run| (self.share(run, node), run.limit.unwrap_or(default_limit)));
        tenants.chain(started).collect()
    }

    /// When a node holds the run at the latest: after all who have parts of it, and `beside` or after those who count on parts
    /// of it. `NEVER` when it is too small for that.
    fn free_at(&self, story: &Story, run: Run, node: usize, default_limit: i64, beside: bool) -> i64 {
        let mut users = self.users(story, node, default_limit);
        let kept = story.kept.iter().filter(|kept| kept.node == node);
        let end = |kept: &Kept| if beside { NEVER } else { kept.limit.unwrap_or(default_limit) };
        users.extend(kept.map(|kept| (kept.share, end(kept))));
        let mut times: Vec<i64> = users.iter().map(|(_, end)| *end).chain([0]).collect();
        times.sort_unstable();
        let holds = |time: &i64| {
            let taken = if beside { at(&users, (*time).min(NEVER - 1)) } else { at(&users, *time) };
            self.node(node).size - taken >= self.share(run, node)
        };
        times.into_iter().find(holds).unwrap_or(NEVER)
    }

    /// What is left over when the run is on the node beside what is kept there, if it fits. `borrows`: it may take what is
    /// kept for a time after its end.
    fn left_over(&self, story: &Story, run: Run, node: usize, borrows: bool) -> Option<i64> {
        let ends_before = |kept: &&Kept| borrows && run.limit.is_some_and(|limit| limit < kept.admits);
        let kept: Vec<&Kept> =
            story.kept.iter().filter(|kept| kept.node == node && !ends_before(kept)).collect();
        let users = self.users(story, node, DEFAULT_LIMIT);
        let left = |time: i64| {
            let kept = kept.iter().filter(|kept| kept.time <= time);
            let kept: Vec<_> = kept.map(|kept| (kept.share, kept.limit.unwrap_or(DEFAULT_LIMIT))).collect();
            self.node(node).size - at(&users, time) - at(&kept, time) - self.share(run, node)
        };
        let fits = kept.iter().all(|kept| !kept.alone && left(kept.time) >= 0);
        let now = left(0);
        (fits && now >= 0).then_some(now)
    }

    /// The nodes among these that hold the run beside what is kept, and those that do because it ends in time.
    fn holding(&self, story: &Story, run: Run, nodes: impl Fn(usize) -> bool) -> [Vec<(usize, i64)>; 2] {
        let (mut open, mut lent) = (Vec::new(), Vec::new());
        for node in self.nodes(story).filter(|node| nodes(*node)) {
            if let Some(left) = self.left_over(story, run, node, false) {
                open.push((node, left));
            } else if let Some(left) = self.left_over(story, run, node, true) {
                lent.push((node, left));
            }
        }
        [open, lent]
    }

    /// The queue in its order.
    fn serve(&mut self, at: usize, story: &Story) {
        let Some(&place) = self.order.get(at) else {
            let requested = self.with_minimum(story.new);
            let Story { starts, estimate, .. } = story.clone();
            self.found.insert(Outcome { starts, requested, estimate });
            return;
        };
        let run = self.world.queue[place];
        if run.held || run.nodes > self.world.max || run.share.is_some_and(|share| share > SIZE) {
            return self.serve(at + 1, story);
        }
        let starts = choices(&self.holding(story, run, |node| self.is_ready(node)), run.nodes);
        let mut next: Vec<Story> = starts
            .into_iter()
            .map(|nodes| {
                let mut story = story.clone();
                story.starts.insert(place, nodes);
                story
            })
            .collect();
        if next.is_empty() {
            let grown = self.growths(story, run, false);
            if grown.iter().all(|next| next.replacements > story.replacements) {
                next = if story.headed { Vec::new() } else { self.reservations(story, run) };
                if next.is_empty() {
                    next.push(story.clone());
                }
            }
            next.extend(grown);
            next.extend(self.growths(story, run, true));
        }
        next.iter().for_each(|story| self.serve(at + 1, story));
    }

    /// Every way to complete a run with machines that are on their way or are asked for.
    fn growths(&self, story: &Story, run: Run, borrows: bool) -> Vec<Story> {
        let [ready, lent] = self.holding(story, run, |node| self.is_ready(node));
        let waited_for = |node| !self.is_ready(node) && self.serves(node);
        let [coming, lent_coming] = self.holding(story, run, waited_for);
        if borrows && lent.len() + lent_coming.len() == 0 && story.places == 0 {
            return Vec::new();
        }
        let with = |open: Vec<_>, lent| if borrows { [open, lent].concat() } else { open };
        let (ready, coming) = (with(ready, lent), with(coming, lent_coming));

        let asked = (run.nodes - (ready.len() + coming.len()) as i64).max(0);
        let kept = if borrows && run.limit.is_some() { 0 } else { story.places };
        let (mut now, mut later) = (asked, vec![(0, 0)]);
        if story.new + asked > self.room() - kept {
            (now, later) = (0, self.later(story, asked));
            if borrows || later.iter().all(|(_, replacements)| *replacements == 0) {
                return Vec::new();
            }
        }
        let first =
            if now == asked { self.world.nodes.len() + story.new as usize } else { LATER + story.later };
        let new: NodeSet = (0..asked as usize).map(|more| 1 << (first + more)).sum();
        let mut found = Vec::new();
        for nodes in choices(&[ready, coming], run.nodes - asked) {
            for admits in self.limits_after(0) {
                for (places, replacements) in &later {
                    let kept = members(nodes | new).map(|node| Kept {
                        node,
                        share: self.share(run, node),
                        time: 0,
                        limit: run.limit,
                        admits,
                        alone: false,
                    });
                    let mut story = story.clone();
                    story.new += now;
                    story.later += (asked - now) as usize;
                    story.places += places;
                    story.replacements += replacements;
                    story.kept.extend(kept);
                    found.push(story);
                }
            }
        }
        found
    }

    /// How many of so many machines that are asked for later have room, and how many replace nodes that are of no use.
    fn later(&self, story: &Story, count: i64) -> Vec<(i64, i64)> {
        let useless = self.nodes(story).filter(|node| !self.serves(*node)).count() as i64;
        let (room, useless) = (self.room() - story.new - story.places, useless - story.replacements);
        (0..=count.min(room))
            .map(|places| (places, count - places))
            .filter(|(_, rest)| *rest <= useless)
            .collect()
    }

    /// Every reservation that the first run that does not fit may get.
    fn reservations(&self, story: &Story, run: Run) -> Vec<Story> {
        let serving: Vec<usize> = self.nodes(story).filter(|node| self.serves(*node)).collect();
        let candidates: Vec<_> =
            subsets(&serving).filter_map(|nodes| self.candidate(story, run, nodes)).collect();
        // Nobody knows how long those take that wait for machines first.
        let is_soonest = |one: &Candidate, time: fn(&Candidate) -> i64| {
            let mut known = candidates.iter().filter(|other| !other.awaited && other.boots <= one.boots);
            !known.any(|other| time(other) < time(one))
        };
        let soonest = candidates
            .iter()
            .filter(|one| is_soonest(one, |of| of.time) || is_soonest(one, |of| of.promised));
        soonest.flat_map(|candidate| self.reserve(story, run, candidate)).collect()
    }

    /// What becomes of a run when it waits for these nodes and for machines to be asked for later; nothing, if that is of no use.
    fn candidate(&self, story: &Story, run: Run, nodes: NodeSet) -> Option<Candidate> {
        let later = run.nodes - i64::from(nodes.count_ones());
        if later < 0 || self.later(story, later).is_empty() {
            return None;
        }
        // Beside runs that count on parts of a node, if there is room; else after them.
        let time = |node: usize, default: i64| {
            let beside = self.free_at(story, run, node, default, true);
            if beside < NEVER - DEFAULT_LIMIT {
                beside
            } else {
                self.free_at(story, run, node, default, false)
            }
        };
        let awaited = members(nodes).any(|node| {
            story.kept.iter().any(|kept| kept.node == node)
                && self.free_at(story, run, node, DEFAULT_LIMIT, true) >= NEVER - DEFAULT_LIMIT
        });
        let boots = awaited || later > 0 || members(nodes).any(|node| !self.is_ready(node));
        let last = |default| members(nodes).map(|node| time(node, default)).max().unwrap_or(0);
        let candidate =
            Candidate { nodes, later, boots, awaited, time: last(DEFAULT_LIMIT), promised: last(NEVER) };
        (candidate.time < NEVER).then_some(candidate)
    }

    /// The reservation of these nodes, in each way it may be understood.
    fn reserve(&self, story: &Story, run: Run, candidate: &Candidate) -> Vec<Story> {
        let Candidate { nodes, later, boots, awaited, time, promised } = *candidate;
        let is_promised = promised < NEVER - DEFAULT_LIMIT;
        let mut admitted = BTreeSet::from([time]);
        if boots {
            admitted.extend(self.limits_after(time));
        }
        if awaited || !is_promised {
            admitted.extend(self.limits_after(0));
        }
        // The end of a run that starts only now still moves.
        let moves = story.starts.values().any(|started| started & nodes != 0);
        let estimates: &[_] = match (is_promised && !boots, moves) {
            (false, _) => &[None],
            (true, false) => &[Some(time)],
            (true, true) => &[Some(time), None],
        };
        let mut found = Vec::new();
        for admits in admitted {
            for (places, replacements) in self.later(story, later) {
                for estimate in estimates {
                    let kept = members(nodes).map(|node| Kept {
                        node,
                        share: self.share(run, node),
                        time,
                        limit: Some(NEVER),
                        admits,
                        alone: self.keeps_whole_nodes,
                    });
                    let mut story = Story { headed: true, estimate: *estimate, ..story.clone() };
                    story.places += places;
                    story.replacements += replacements;
                    story.kept.extend(kept);
                    found.push(story);
                }
            }
        }
        found
    }

    /// How late something that takes nobody knows how long from `time` may be thought to be, as far as that makes a
    /// difference to a run of the queue.
    fn limits_after(&self, time: i64) -> BTreeSet<i64> {
        let limits = self.world.queue.iter().filter_map(|run| run.limit);
        limits.filter(|limit| *limit >= time).map(|limit| limit + 1).chain([time]).collect()
    }

    /// Never below the minimum, except for lack of room.
    fn with_minimum(&self, requested: i64) -> i64 {
        let serving = (0..self.world.nodes.len()).filter(|node| self.serves(*node)).count() as i64;
        requested.max((self.world.min - serving).min(self.room()))
    }
}

/// All sets of `count` nodes that are a best fit: within each group, none is left out on which less would be left over.
fn choices<const N: usize>(groups: &[Vec<(usize, i64)>; N], count: i64) -> Vec<NodeSet> {
    let all: Vec<usize> = groups.iter().flatten().map(|(node, _)| *node).collect();
    let is_best = |set: NodeSet| {
        groups.iter().all(|group| {
            let left = |inside: bool| {
                group.iter().filter(move |(node, _)| has(set, *node) == inside).map(|(_, left)| *left)
            };
            left(true).max().zip(left(false).min()).is_none_or(|(inside, outside)| inside <= outside)
        })
    };
    subsets(&all).filter(|set| i64::from(set.count_ones()) == count && is_best(*set)).collect()
}

/// How much of a node is used at a time.
fn at(users: &[(i64, i64)], time: i64) -> i64 {
    users.iter().filter(|(_, end)| *end > time).map(|(share, _)| share).sum()
}

fn has(set: NodeSet, node: usize) -> bool {
    set & (1 << node) != 0
}

fn members(set: NodeSet) -> impl Iterator<Item = usize> {
    (0..32).filter(move |node| has(set, *node))
}

fn subsets(nodes: &[usize]) -> impl Iterator<Item = NodeSet> + use<> {
    let bits: Vec<NodeSet> = nodes.iter().map(|node| 1 << node).collect();
    (0..1_u32 << bits.len())
        .map(move |mask| bits.iter().enumerate().filter(|(at, _)| has(mask, *at)).map(|(_, bit)| bit).sum())
}
