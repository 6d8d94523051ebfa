//! Whole histories: users, machines and controllers act in any order, plans are made of old snapshots and carried out
//! halfway. Whatever happens, no node is given twice or destroyed under its run; and when it stops happening, everything
//! wanted is reached and kept.
#![allow(clippy::unwrap_used)]

mod cases;
#[allow(dead_code, reason = "`decisions` uses all of it")]
mod fixture;
mod world;

use jiff::SignedDuration;
use proptest::prelude::*;
use trainyard_planner::{
    Deallocation, DirectiveKind, FailureCause, Lifetime, Machine, Placement, PoolHold, Priority, Progress,
    Removal, RemovalKind, Snapshot, Stock, Wait, Zone, check, plan,
};

use cases::cases;
use fixture::at;
use world::World;
use world::executor::Executor;

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Event {
    Submit {
        nodes: i64,
        priority: Priority,
        limit: Option<i64>,
        deadline: Option<i64>,
    },
    Withdraw(usize),
    Vanish(usize),
    GivenUp(usize),
    Prioritise(usize, Priority),
    Maximum(i64),
    Minimum(i64),
    IdleTimeout(i64),
    Deallocation(Deallocation),
    Hold(PoolHold),
    Remove(RemovalKind, usize),
    RemovalsWithdrawn,
    DeleteCluster,
    Boot(usize),
    Refuse(usize, FailureCause),
    Break(usize, FailureCause),
    Silence(usize),
    Recover(usize),
    DeleteNode(usize),
    Destroyed(usize),
    /// Others give machines back, or take some.
    Stock(i64),
    Launch(usize),
    End(usize),
    PodsGone(usize),
}

/// One step: time passes, something happens, and the controller plans from what it saw `stale` steps ago and crashes
/// after `writes`.
#[derive(Clone, Debug)]
struct Step {
    seconds: i64,
    event: Event,
    stale: usize,
    writes: usize,
}

fn event() -> impl Strategy<Value = Event> {
    let any = 0usize..6;
    let priority = || prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    let refusal =
        prop_oneof![Just(FailureCause::StockOut), Just(FailureCause::Quota), Just(FailureCause::Timeout)];
    let fault =
        prop_oneof![Just(FailureCause::Lost), Just(FailureCause::Preempted), Just(FailureCause::Unusable)];
    let deallocation = prop_oneof![
        Just(Deallocation::WaitForRunCompletion),
        Just(Deallocation::Requeue),
        Just(Deallocation::Terminate)
    ];
    let hold =
        prop_oneof![2 => Just(PoolHold::None), 1 => Just(PoolHold::NoNewRuns), 1 => Just(PoolHold::Freeze)];
    let removal = prop_oneof![Just(RemovalKind::Remove), Just(RemovalKind::RehearsePreemption)];
    prop_oneof![
        6 => (1i64..5, priority(), prop::option::of(1i64..90), prop::option::weighted(0.3, 0i64..120))
            .prop_map(|(nodes, priority, limit, deadline)| Event::Submit { nodes, priority, limit, deadline }),
        2 => any.clone().prop_map(Event::GivenUp),
        1 => any.clone().prop_map(Event::Withdraw),
        1 => any.clone().prop_map(Event::Vanish),
        1 => (any.clone(), priority()).prop_map(|(run, priority)| Event::Prioritise(run, priority)),
        1 => (0i64..6).prop_map(Event::Maximum),
        1 => (0i64..3).prop_map(Event::Minimum),
        1 => (0i64..10).prop_map(Event::IdleTimeout),
        1 => deallocation.prop_map(Event::Deallocation),
        1 => hold.prop_map(Event::Hold),
        1 => (removal, any.clone()).prop_map(|(kind, node)| Event::Remove(kind, node)),
        1 => Just(Event::RemovalsWithdrawn),
        // Rare, for it is the end of a history.
        1 => (0usize..8).prop_map(|die| if die == 0 { Event::DeleteCluster } else { Event::Boot(die) }),
        8 => any.clone().prop_map(Event::Boot),
        2 => (any.clone(), refusal).prop_map(|(node, cause)| Event::Refuse(node, cause)),
        2 => (any.clone(), fault).prop_map(|(node, cause)| Event::Break(node, cause)),
        1 => any.clone().prop_map(Event::Silence),
        1 => any.clone().prop_map(Event::Recover),
        1 => any.clone().prop_map(Event::DeleteNode),
        4 => any.clone().prop_map(Event::Destroyed),
        1 => (-3i64..4).prop_map(Event::Stock),
        6 => any.clone().prop_map(Event::Launch),
        3 => any.clone().prop_map(Event::End),
        3 => any.prop_map(Event::PodsGone),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let stale = prop_oneof![6 => Just(0usize), 2 => 1usize..4];
    let writes = prop_oneof![4 => Just(usize::MAX), 1 => 0usize..6];
    let seconds = prop_oneof![2 => 0i64..20, 2 => 20i64..400, 1 => 400i64..4_000];
    (seconds, event(), stale, writes).prop_map(|(seconds, event, stale, writes)| Step {
        seconds,
        event,
        stale,
        writes,
    })
}

/// Does nothing when there is nothing of that kind.
fn happen(world: &mut World, event: &Event) -> Option<()> {
    let ordinal = |world: &World, number: &usize, machines: &[Machine]| {
        let fit: Vec<_> = world.live.nodes.iter().filter(|node| machines.contains(&node.machine)).collect();
        (!fit.is_empty()).then(|| fit[number % fit.len()].ordinal)
    };
    let waiting = |world: &World, number: &usize| {
        let queued = &world.live.queued;
        (!queued.is_empty()).then(|| queued[number % queued.len()].id.name.clone())
    };
    let live = |world: &World, number: &usize| {
        let active = &world.live.active;
        (!active.is_empty()).then(|| active[number % active.len()].id.name.clone())
    };
    let there = [Machine::Ready, Machine::NotReady];
    match event {
        Event::Submit { nodes, priority, limit, deadline } => {
            let (name, now) = (format!("r{}", world.runs.len()), world.now);
            world.submit(&name, |run| {
                (run.node_count, run.priority) = (*nodes, *priority);
                run.user_limit = limit.map(SignedDuration::from_mins);
                run.give_up_at = deadline.map(|minutes| now + SignedDuration::from_mins(minutes));
            });
        }
        Event::Withdraw(run) => world.withdraw(&waiting(world, run)?),
        Event::GivenUp(run) => {
            let name = waiting(world, run)?;
            end_if_given_up(world, &name);
        }
        Event::Vanish(run) => world.vanish(&waiting(world, run)?),
        Event::Prioritise(run, priority) => {
            let name = waiting(world, run)?;
            world.queued(&name)?.priority = *priority;
        }
        Event::Maximum(count) => {
            world.live.policy.max_nodes = *count;
            world.live.policy.min_nodes = world.live.policy.min_nodes.min(*count);
        }
        Event::Minimum(count) => world.live.policy.min_nodes = (*count).min(world.live.policy.max_nodes),
        Event::IdleTimeout(minutes) => world.live.policy.idle_timeout = SignedDuration::from_mins(*minutes),
        Event::Deallocation(deallocation) => world.live.policy.deallocation = *deallocation,
        Event::Hold(hold) => world.live.policy.hold = *hold,
        Event::Remove(kind, node) => {
            let all = [Machine::Coming, Machine::Ready, Machine::NotReady, Machine::Failed];
            let ordinal = ordinal(world, node, &all)?;
            let node = world.node(ordinal)?.name.clone();
            world.live.removals.retain(|removal| removal.kind != *kind);
            world.live.removals.push(Removal { node, kind: *kind });
        }
        Event::RemovalsWithdrawn => world.live.removals.clear(),
        Event::DeleteCluster => world.live.lifetime = Lifetime::Deleting,
        Event::Boot(node) => world.ready(ordinal(world, node, &[Machine::Coming])?),
        Event::Refuse(node, cause) => {
            world.fail(ordinal(world, node, &[Machine::Coming])?, *cause, Machine::Failed);
        }
        Event::Break(node, cause) => {
            let after = if *cause == FailureCause::Unusable { Machine::Failed } else { Machine::Gone };
            world.fail(ordinal(world, node, &there)?, *cause, after);
        }
        Event::Silence(node) => {
            let ordinal = ordinal(world, node, &[Machine::Ready])?;
            world.silence(ordinal);
        }
        Event::Recover(node) => {
            let ordinal = ordinal(world, node, &[Machine::NotReady])?;
            world.node(ordinal)?.machine = Machine::Ready;
        }
        Event::DeleteNode(node) => {
            let ordinal = ordinal(world, node, &there)?;
            world.node(ordinal)?.deleted = true;
        }
        Event::Destroyed(number) => {
            let released: Vec<_> =
                world.live.nodes.iter().filter(|node| node.released).map(|node| node.ordinal).collect();
            let ordinal = *released.get(number % released.len().max(1))?;
            world.destroyed(ordinal);
        }
        Event::Stock(others) => {
            let stock = world.live.policy.stock.as_mut()?;
            stock.free = (stock.free + others).clamp(0, 6);
        }
        Event::Launch(run) => world.launch_if_whole(&live(world, run)?),
        Event::End(run) => world.ending(&live(world, run)?),
        Event::PodsGone(run) => {
            let name = live(world, run)?;
            answer(world, &name);
        }
    }
    Some(())
}

/// The run controller finishes an ended or told attempt.
fn answer(world: &mut World, name: &str) {
    let Some(run) = world.active(name) else { return };
    let kind = run.directive.map(|directive| directive.kind);
    match (kind, run.progress) {
        (Some(DirectiveKind::Stop | DirectiveKind::Requeue), _) => world.requeue(name),
        (Some(DirectiveKind::Fail), _) | (None, Progress::Ended) => world.finish(name),
        (None, _) => {}
    }
}

/// The run controller ends a run that was given up.
fn end_if_given_up(world: &mut World, name: &str) {
    if world.queued(name).is_some_and(|run| run.given_up) {
        world.withdraw(name);
    }
}

/// Some time after a plan, at which nothing may be new unless it said so.
const LATER: SignedDuration = SignedDuration::from_secs(77);

/// Plans from what was seen and carries it out as far as it goes. A fresh plan keeps every promise.
fn control(world: &mut World, seen: Snapshot, writes: usize) -> Result<(), TestCaseError> {
    let made = plan(&seen, world.now);
    prop_assert_eq!(check::violation(&seen, world.now, &made), None);
    prop_assert_eq!(check::planning_again_changes_nothing(&seen, world.now, &made), Ok(()));
    for time in
        made.wake_at.map(|wake| wake - SignedDuration::from_nanos(1)).into_iter().chain([world.now + LATER])
    {
        prop_assert_eq!(check::wake_is_honest(&seen, world.now, &made, time), Ok(()));
    }
    _ = Executor::new(world, seen, writes).carry_out(&made);
    prop_assert_eq!(world.is_safe(), Ok(()));
    Ok(())
}

fn begin(zones: bool, stock: Option<i64>, initial: i64) -> World {
    let mut world = World::new(at("12:00"));
    world.live.policy.stock = stock.map(|free| Stock { free, message: String::new() });
    world.live.policy.initial_nodes = initial;
    if zones {
        world.live.policy.placement = Placement::SameZone(vec![Zone("a".into()), Zone("b".into())]);
    }
    world
}

fn live_through(world: &mut World, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut past: Vec<Snapshot> = vec![world.live.clone()];
    for step in steps {
        world.now += SignedDuration::from_secs(step.seconds);
        _ = happen(world, &step.event);
        prop_assert_eq!(world.is_safe(), Ok(()));
        past.push(world.live.clone());
        let seen = past[past.len().saturating_sub(1 + step.stale)].clone();
        control(world, seen, step.writes)?;
        if world.live.lifetime == Lifetime::Gone {
            break;
        }
        past.push(world.live.clone());
    }
    Ok(())
}

/// Nothing goes wrong any more: machines boot and vanish when told, attempts start, run and end.
fn settle(world: &mut World) -> Result<(), TestCaseError> {
    for _ in 0..400 {
        for node in &mut world.live.nodes {
            match node.machine {
                Machine::Coming | Machine::NotReady if !node.released && node.failure.is_none() => {
                    (node.machine, node.not_ready_since) = (Machine::Ready, None);
                    node.first_ready.get_or_insert(world.now);
                }
                _ => {}
            }
        }
        let released: Vec<_> =
            world.live.nodes.iter().filter(|node| node.released).map(|node| node.ordinal).collect();
        released.into_iter().for_each(|ordinal| world.destroyed(ordinal));
        let names: Vec<_> = world.live.active.iter().map(|run| run.id.name.clone()).collect();
        for name in names {
            let progress = world.active(&name).unwrap().progress;
            match progress {
                _ if world.active(&name).unwrap().directive.is_some() => answer(world, &name),
                Progress::Allocated => world.launch_if_whole(&name),
                Progress::Launched => world.ending(&name),
                Progress::Ended => world.finish(&name),
            }
        }
        let waiting: Vec<_> = world.live.queued.iter().map(|run| run.id.name.clone()).collect();
        waiting.iter().for_each(|name| end_if_given_up(world, name));
        let seen = world.live.clone();
        let made = plan(&seen, world.now);
        control(world, seen.clone(), usize::MAX)?;
        if world.live.lifetime == Lifetime::Gone {
            return Ok(());
        }
        if world.live == seen && world.live.active.is_empty() {
            match made.wake_at {
                Some(wake) => world.now = wake,
                None => return Ok(()),
            }
        } else {
            world.now += SignedDuration::from_secs(5);
        }
    }
    Err(TestCaseError::fail(format!("never at rest: {}", plan(&world.live, world.now))))
}

fn is_as_wanted(world: &World) -> Result<(), TestCaseError> {
    let rest = plan(&world.live, world.now);
    if world.live.lifetime != Lifetime::Wanted {
        prop_assert_eq!(world.live.nodes.len(), 0, "{}", rest);
        return Ok(());
    }
    prop_assert_eq!(rest.all_actions().count(), 0, "{}", rest);
    let (there, policy) = (world.live.nodes.len() as i64, &world.live.policy);
    // A plan of a stale snapshot may have asked for a machine that others had taken: then more are awaited than are free.
    let free = policy.stock.as_ref().map_or(i64::MAX, |stock| stock.free.max(0));
    prop_assert_eq!(there, policy.min_nodes.min(there.saturating_add(free)), "{}", rest);
    let within_reach = policy.max_nodes.min(there.saturating_add(free));
    let needed = |run: &trainyard_planner::RunReport| match run.wait {
        Wait::ExceedsMaxNodes { needed, .. } | Wait::NoFreeMachines { needed, .. } => needed,
        _ => 0,
    };
    let impossible = |run: &trainyard_planner::RunReport| needed(run) > within_reach;
    prop_assert!(rest.report.runs.iter().all(impossible), "{}", rest);
    Ok(())
}

/// Others took the machine that a plan of an older snapshot asked for: one more is awaited than is free.
#[test]
fn what_others_have_taken_meanwhile_is_missed_and_nothing_more() {
    let step = |event, stale, writes| Step { seconds: 0, event, stale, writes };
    let submit = || Event::Submit { nodes: 1, priority: Priority::Low, limit: None, deadline: None };
    let mut world = begin(false, Some(1), 0);
    let steps = [
        step(submit(), 0, 0),
        step(Event::Stock(-1), 1, usize::MAX),
        step(Event::Boot(0), 0, usize::MAX),
        step(Event::Break(0, FailureCause::Lost), 0, usize::MAX),
    ];
    live_through(&mut world, &steps).unwrap();
    assert_eq!(world.live.policy.stock.as_ref().map(|stock| stock.free), Some(-1));
    settle(&mut world).unwrap();
    is_as_wanted(&world).unwrap();
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn whatever_happens_is_safe_and_settles(
        zones in any::<bool>(),
        stock in prop::option::of(0i64..6),
        initial in prop_oneof![1 => Just(0i64), 1 => 1i64..4],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = begin(zones, stock, initial);
        live_through(&mut world, &steps)?;
        if world.live.lifetime != Lifetime::Gone {
            // First as it is, perhaps on hold; then whoever holds it lets it go.
            settle(&mut world)?;
            world.live.policy.hold = PoolHold::None;
            settle(&mut world)?;
            is_as_wanted(&world)?;
        }
    }
}
