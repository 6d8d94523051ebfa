//! Carries plans out as the protocol says: each write only if what it relied on is still so, stopping at the first that
//! is not, and, when told, crashing between any two writes.

use std::collections::BTreeMap;

use trainyard_planner::{
    Action, Claim, DirectiveReason, DropBasis, Machine, Node, NodeName, Plan, Progress, QueuedRun, Retired,
    RunId, Snapshot, effect,
};

use super::World;

/// What stops the executor.
pub struct Stopped;

type Written = Result<(), Stopped>;

/// One pass of the cluster controller over a plan that was made of `seen`.
pub struct Executor<'w> {
    world: &'w mut World,
    /// Each node's specification as the plan saw it, and as this pass changed it.
    expected: BTreeMap<NodeName, Node>,
    seen: Snapshot,
    /// Writes until the crash.
    writes_left: usize,
}

impl<'w> Executor<'w> {
    pub fn new(world: &'w mut World, seen: Snapshot, writes_left: usize) -> Self {
        let expected = seen.nodes.iter().map(|node| (node.name.clone(), node.clone())).collect();
        Self { world, expected, seen, writes_left }
    }

    /// Actions, then the report, then what comes after it.
    pub fn carry_out(mut self, plan: &Plan) -> Written {
        plan.actions.iter().try_for_each(|action| self.act(action))?;
        self.store_report(plan)?;
        plan.afterwards.iter().try_for_each(|action| self.act(action))
    }

    fn write(&mut self) -> Written {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(Stopped)?;
        Ok(())
    }

    /// The Cluster's status carries the resourceVersion it was read with.
    fn store_report(&mut self, plan: &Plan) -> Written {
        self.write()?;
        let live = &mut self.world.live;
        if live.last_ordinal != self.seen.last_ordinal
            || live.backoff != self.seen.backoff
            || live.zone != self.seen.zone
        {
            return Err(Stopped);
        }
        // A run's own status, too: what was not seen is not written over.
        let fresh =
            live.queued.iter().all(|run| {
                self.seen.queued.iter().all(|seen| {
                    seen.id != run.id || (&seen.hold, seen.gang_since) == (&run.hold, run.gang_since)
                }) || plan
                    .actions
                    .iter()
                    .any(|action| matches!(action, Action::Hold { run: held, .. } if *held == run.id))
            });
        if !fresh {
            return Err(Stopped);
        }
        effect::store_report(live, plan);
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Written {
        let now = self.world.now;
        match action {
            Action::Allocate { run, attempt, nodes, shares } => {
                for (name, share) in nodes.iter().zip(shares) {
                    let claim = Claim { run: run.clone(), attempt: *attempt, share: share.clone() };
                    self.change(name, |node| {
                        let usable =
                            node.machine == Machine::Ready && !node.deleted && node.failure.is_none();
                        if !usable || node.retired.is_some() || node.released {
                            return Err(Stopped);
                        }
                        node.idle_since = None;
                        if !node.claims.contains(&claim) {
                            node.claims.push(claim);
                        }
                        Ok(())
                    })?;
                }
                self.write()?;
                let waits = self
                    .world
                    .live
                    .queued
                    .iter()
                    .any(|queued| queued.id == *run && queued.next_attempt == *attempt);
                if !waits {
                    return Err(Stopped);
                }
                effect::apply_action(&mut self.world.live, action, now);
                Ok(())
            }
            Action::DropClaim { node, run, attempt, basis } => {
                if !self.holds(node, run, *attempt, *basis) {
                    return Err(Stopped);
                }
                self.change(node, |node| {
                    node.claims.retain(|claim| claim.run != *run || claim.attempt != *attempt);
                    if node.claims.is_empty() {
                        node.idle_since = Some(now);
                    }
                    Ok(())
                })
            }
            Action::Retire { node, reason } => self.change(node, |node| {
                node.retired = Some(Retired { at: now, reason: *reason });
                Ok(())
            }),
            Action::Unretire { node } => self.change(node, |node| {
                node.retired = None;
                Ok(())
            }),
            Action::Release { node } => {
                let pods = self
                    .world
                    .live
                    .active
                    .iter()
                    .any(|run| run.progress >= Progress::Launched && run.nodes.contains(node));
                self.change(node, |node| {
                    if pods || !node.claims.is_empty() {
                        return Err(Stopped);
                    }
                    node.released = true;
                    Ok(())
                })
            }
            Action::Forget { node } => {
                self.change(node, |node| {
                    if node.machine == Machine::Gone && node.claims.is_empty() {
                        Ok(())
                    } else {
                        Err(Stopped)
                    }
                })?;
                self.world.live.nodes.retain(|other| other.name != *node);
                Ok(())
            }
            Action::Directive { run, attempt, reason, .. } => {
                self.write()?;
                let withdrawn = *reason == DirectiveReason::Withdrawn;
                let claimed = self.world.is_fully_claimed(run, *attempt);
                let takes = self.world.live.active.iter().any(|active| {
                    active.id == *run
                        && active.attempt == *attempt
                        && active.directive.is_none()
                        && active.progress != Progress::Ended
                        && !(withdrawn && (claimed || active.progress != Progress::Allocated))
                });
                if !takes {
                    return Err(Stopped);
                }
                effect::apply_action(&mut self.world.live, action, now);
                Ok(())
            }
            Action::GiveUp { run } => {
                self.write()?;
                // The Run's own version: whoever began to wait anew meanwhile has a new deadline.
                let as_seen = |one: &Snapshot| one.queued.iter().find(|queued| queued.id == *run).cloned();
                let (seen, live) = (as_seen(&self.seen), as_seen(&self.world.live));
                let deadline =
                    |run: &Option<QueuedRun>| run.as_ref().map(|run| (run.give_up_at, run.next_attempt));
                if live.is_none() || deadline(&seen) != deadline(&live) {
                    return Err(Stopped);
                }
                effect::apply_action(&mut self.world.live, action, now);
                Ok(())
            }
            Action::Hold { .. } | Action::RequestNode { .. } => {
                self.write()?;
                effect::apply_action(&mut self.world.live, action, now);
                Ok(())
            }
            Action::ReleaseFinalizer => {
                self.write()?;
                if self.world.live.nodes.is_empty() {
                    effect::apply_action(&mut self.world.live, action, now);
                }
                Ok(())
            }
        }
    }

    /// A write on a node, with the resourceVersion of what the plan saw of it.
    fn change(&mut self, name: &NodeName, change: impl FnOnce(&mut Node) -> Written) -> Written {
        self.write()?;
        let expected = self.expected.get_mut(name).ok_or(Stopped)?;
        let live = self.world.live.nodes.iter_mut().find(|node| node.name == *name).ok_or(Stopped)?;
        let spec = |node: &Node| (node.claims.clone(), node.idle_since, node.retired.clone(), node.released);
        if spec(live) != spec(expected) {
            return Err(Stopped);
        }
        change(live)?;
        expected.clone_from(live);
        Ok(())
    }

    /// Fresh reads: is that so?
    fn holds(&self, node: &NodeName, run: &RunId, attempt: i64, basis: DropBasis) -> bool {
        let live = &self.world.live;
        let over = live.ended.iter().any(|ended| ended.run == *run && ended.attempt >= attempt);
        let active = live.active.iter().find(|active| active.id == *run);
        match basis {
            DropBasis::PodsGone => over && active.is_none_or(|active| active.attempt != attempt),
            DropBasis::NotAllocated => {
                active.is_none_or(|active| active.attempt != attempt || !active.nodes.contains(node))
            }
            DropBasis::RunGone => {
                active.is_none() && !over && live.queued.iter().all(|queued| queued.id != *run)
            }
        }
    }
}
