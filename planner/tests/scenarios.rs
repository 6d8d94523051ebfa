//! Stories as text files: what happens, and after each `plan` the whole plan, as lines that begin with `|`.
//!
//! `UPDATE_SCENARIOS=1 cargo test -p trainyard-planner --test scenarios` writes the plans anew; review the difference.
//! Every plan is carried out faithfully; every plan must keep all promises and leave nothing to do.
//!
//! The words of a story (times are `12:03` or `12:03:10`, durations `90s`, `5m`, `2h`):
//!
//! ```text
//! cluster max 4 min 0 idle 2m zones a b      at 12:00      plan
//! submit NAME [nodes 2] [high|low] [limit 1h] [patience 20m] [deadline 2h] [gpus 2]
//! max 2    min 1    idle 5m    delete-cluster    growth blocked|free    stock 2 WORDS
//! priority NAME high    cancel NAME    suspend NAME    resume NAME    delete-run NAME
//! launch NAME    ending NAME    finish NAME    requeue NAME    given-up NAME
//! occupied 1 12:08    free 1
//! ready 1 2    fail 1 StockOut    gone 1    lost 1    silent 1    cordon 1    delete-node 1    lose-claim 1
//! ```
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Whether to update is asked of the environment.

#[allow(dead_code, reason = "`decisions` uses all of it")]
mod fixture;
#[allow(dead_code, reason = "`histories` uses all of it")]
mod world;

use std::path::Path;

use jiff::SignedDuration;
use trainyard_planner::{
    Deallocation, FailureCause, GrowthBlock, Lifetime, Machine, Occupied, Placement, PoolHold, Priority,
    Removal, RemovalKind, RequestedShare, Stock, Zone, check, effect, plan,
};

use fixture::{at, gpus};
use world::World;

datatest_stable::harness! {
    { test = scenario, root = "tests/scenarios", pattern = r"\.txt$" },
}

#[allow(clippy::needless_pass_by_value)] // The harness gives it so.
fn scenario(path: &Path, text: String) -> datatest_stable::Result<()> {
    let mut world = World::new(at("12:00"));
    let mut told = String::new();
    for line in text.lines().filter(|line| !line.starts_with('|')) {
        told += line;
        told += "\n";
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["plan"] => told += &carry_out(&mut world)?,
            words => {
                happen(&mut world, words).ok_or_else(|| format!("{}: what is {line:?}?", path.display()))?;
            }
        }
    }
    if std::env::var_os("UPDATE_SCENARIOS").is_some() {
        std::fs::write(path, &told)?;
    } else if told != text {
        let first = told.lines().zip(text.lines()).position(|(one, other)| one != other);
        let at = first.unwrap_or_else(|| told.lines().count().min(text.lines().count()));
        let line = |text: &str| text.lines().nth(at).unwrap_or("(end)").to_owned();
        return Err(format!(
            "{}:{}: expected\n  {}\ngot\n  {}\nUPDATE_SCENARIOS=1 writes the plans anew.\nAll of it:\n{told}",
            path.display(),
            at + 1,
            line(&text),
            line(&told)
        )
        .into());
    }
    Ok(())
}

/// Plans, carries the plan out, and says all of it.
fn carry_out(world: &mut World) -> Result<String, String> {
    let made = plan(&world.live, world.now);
    if let Some(broken) = check::violation(&world.live, world.now, &made) {
        return Err(format!("{broken}\n{made}"));
    }
    check::planning_again_changes_nothing(&world.live, world.now, &made)?;
    check::wake_is_needed(&world.live, &made)?;
    world.live = effect::apply(&world.live, &made, world.now);
    let day = format!("{:.10}T", at("12:00").to_string());
    let text = made.to_string().replace(&day, "");
    Ok(text.lines().flat_map(|line| ["| ", line, "\n"]).collect())
}

/// One line of a story; `None` when it is not understood.
fn happen(world: &mut World, words: &[&str]) -> Option<()> {
    let policy = &mut world.live.policy;
    match *words {
        ["at", time] => world.now = at(time),
        ["cluster", ref settings @ ..] => configure(world, settings)?,
        ["max" | "min" | "idle" | "initial" | "hold" | "deallocation", _] => configure(world, words)?,
        ["remove", node] => ask_away(world, node, RemovalKind::Remove)?,
        ["rehearse", node] => ask_away(world, node, RemovalKind::RehearsePreemption)?,
        ["stock", free, ref message @ ..] => {
            policy.stock = Some(Stock { free: free.parse().ok()?, message: message.join(" ") });
        }
        ["growth", "free"] => policy.growth_blocked = None,
        ["growth", "blocked"] => {
            let message = "create the ProvisioningClass \"fast\" or name another".into();
            policy.growth_blocked = Some(GrowthBlock { code: "ProvisioningClassNotFound".into(), message });
        }
        ["delete-cluster"] => world.live.lifetime = Lifetime::Deleting,
        ["submit", name, ref wishes @ ..] => submit(world, name, wishes)?,
        ["priority", name, priority] => world.queued(name)?.priority = parse_priority(priority)?,
        ["cancel" | "suspend" | "given-up", name] => world.withdraw(name),
        ["resume", name] => resume(world, name),
        ["delete-run", name] => world.vanish(name),
        ["launch", name] => world.launch(name),
        ["ending", name] => world.ending(name),
        ["finish", name] => world.finish(name),
        ["requeue", name] => world.requeue(name),
        ["fail", node, cause] => world.fail(node.parse().ok()?, parse_cause(cause)?, Machine::Failed),
        ["preempted", node] => world.fail(node.parse().ok()?, FailureCause::Preempted, Machine::Gone),
        ["lost", node] => world.fail(node.parse().ok()?, FailureCause::Lost, Machine::Gone),
        ["silent" | "cordon", node] => world.silence(node.parse().ok()?),
        ["occupied", node, until] => {
            let occupied = Occupied { pod: "team/left-over".into(), until: at(until) };
            world.node(node.parse().ok()?)?.occupied = Some(occupied);
        }
        ["free", node] => world.node(node.parse().ok()?)?.occupied = None,
        ["delete-node", node] => world.node(node.parse().ok()?)?.deleted = true,
        ["lose-claim", node] => world.node(node.parse().ok()?)?.claims.clear(),
        ["ready", ref nodes @ ..] => {
            for node in nodes {
                world.ready(node.parse().ok()?);
            }
        }
        ["gone", ref nodes @ ..] => {
            for node in nodes {
                world.destroyed(node.parse().ok()?);
            }
        }
        _ => return None,
    }
    Some(())
}

fn configure(world: &mut World, mut settings: &[&str]) -> Option<()> {
    let policy = &mut world.live.policy;
    loop {
        settings = match settings {
            [] => return Some(()),
            ["zones", zones @ ..] => {
                policy.placement =
                    Placement::SameZone(zones.iter().map(|zone| Zone((*zone).into())).collect());
                &[]
            }
            ["max", count, rest @ ..] => {
                policy.max_nodes = count.parse().ok()?;
                rest
            }
            ["min", count, rest @ ..] => {
                policy.min_nodes = count.parse().ok()?;
                rest
            }
            ["initial", count, rest @ ..] => {
                policy.initial_nodes = count.parse().ok()?;
                rest
            }
            ["hold", word, rest @ ..] => {
                policy.hold = match *word {
                    "None" => PoolHold::None,
                    "NoNewRuns" => PoolHold::NoNewRuns,
                    "Freeze" => PoolHold::Freeze,
                    _ => return None,
                };
                rest
            }
            ["deallocation", word, rest @ ..] => {
                policy.deallocation = match *word {
                    "Requeue" => Deallocation::Requeue,
                    "Terminate" => Deallocation::Terminate,
                    _ => return None,
                };
                rest
            }
            ["idle", time, rest @ ..] => {
                policy.idle_timeout = duration(time)?;
                rest
            }
            _ => return None,
        }
    }
}

fn ask_away(world: &mut World, node: &str, kind: RemovalKind) -> Option<()> {
    let node = world.node(node.parse().ok()?)?.name.clone();
    world.live.removals.push(Removal { node, kind });
    Some(())
}

fn submit(world: &mut World, name: &str, mut wishes: &[&str]) -> Option<()> {
    let (mut understood, now) = (Some(()), world.now);
    world.submit(name, |run| {
        understood = loop {
            wishes = match wishes {
                [] => break Some(()),
                ["nodes", count, rest @ ..] => {
                    run.node_count = count.parse().unwrap();
                    rest
                }
                ["gpus", count, rest @ ..] => {
                    run.share = RequestedShare::Part(gpus(count.parse().unwrap()));
                    rest
                }
                ["limit", time, rest @ ..] => {
                    run.user_limit = duration(time);
                    rest
                }
                ["deadline", time, rest @ ..] => {
                    run.give_up_at = Some(now + duration(time).unwrap());
                    rest
                }
                ["patience", time, rest @ ..] => {
                    run.gang_timeout = duration(time).unwrap();
                    rest
                }
                [priority, rest @ ..] => match parse_priority(priority) {
                    Some(priority) => {
                        run.priority = priority;
                        rest
                    }
                    None => break None,
                },
            }
        }
    });
    understood
}

/// A suspended run is wanted again, at its old place.
fn resume(world: &mut World, name: &str) {
    world.begin_to_wait(name);
    let mut run = world.runs[name].clone();
    let last = world.live.ended.iter().filter(|ended| ended.run == run.id).map(|ended| ended.attempt).max();
    run.next_attempt = last.unwrap_or(0) + 1;
    world.live.queued.push(run);
}

fn parse_priority(word: &str) -> Option<Priority> {
    Some(match word {
        "high" => Priority::High,
        "normal" => Priority::Normal,
        "low" => Priority::Low,
        _ => return None,
    })
}

fn parse_cause(word: &str) -> Option<FailureCause> {
    Some(match word {
        "Lost" => FailureCause::Lost,
        "StockOut" => FailureCause::StockOut,
        "Quota" => FailureCause::Quota,
        "Timeout" => FailureCause::Timeout,
        "Unusable" => FailureCause::Unusable,
        _ => return None,
    })
}

fn duration(word: &str) -> Option<SignedDuration> {
    let (count, unit) = word.split_at(word.len() - 1);
    let count: i64 = count.parse().ok()?;
    Some(match unit {
        "s" => SignedDuration::from_secs(count),
        "m" => SignedDuration::from_mins(count),
        "h" => SignedDuration::from_hours(count),
        _ => return None,
    })
}
