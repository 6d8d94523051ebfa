//! The answer for people.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use trainyard_api::Cluster;
use trainyard_model::catalogue::Resolved;
use trainyard_planner::{PoolHealth, PoolReport, QueuedRun, RunId, RunReport, WaitReason};

use crate::sentences::sentence;
use crate::words::counted;
use crate::world::Aside;
use crate::world::{Pool, World};

/// The answer, to be printed.
pub fn answer(world: &World) -> String {
    let mut text = String::new();
    write(&mut text, world).expect("writing to a String does not fail");
    text
}

fn write(text: &mut String, world: &World) -> fmt::Result {
    let World { now, pools, homeless, assumed_class, assumptions } = world;
    if pools.is_empty() {
        writeln!(text, "No Cluster is in the files: there is nothing to decide.\n")?;
    }
    for pool in pools {
        cluster(text, pool, assumed_class.as_deref(), *now)?;
        writeln!(text)?;
    }
    if !homeless.is_empty() {
        writeln!(text, "Runs without a Cluster")?;
        homeless.iter().try_for_each(|run| aside(text, run))?;
        writeln!(text)?;
    }
    if !assumptions.is_empty() {
        writeln!(text, "Assumed")?;
        assumptions.iter().try_for_each(|one| writeln!(text, "  - {one}"))?;
    }
    // One blank line between parts, none at the end.
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(())
}

fn cluster(text: &mut String, pool: &Pool, assumed_class: Option<&str>, now: Timestamp) -> fmt::Result {
    let Pool { key, cluster, catalogue, snapshot, plan, aside: not_queued } = pool;
    let which = if cluster.is_some() { "" } else { " (an earlier one of that name)" };
    writeln!(text, "Cluster {key}{which} at {now:.0}")?;
    match (cluster, catalogue) {
        (Some(cluster), Ok(resolved)) => resolution(text, cluster, resolved, assumed_class)?,
        (Some(_), Err(refusal)) => {
            writeln!(text, "  No node can be asked for ({}): {}", refusal.code, refusal.message)?;
        }
        (None, _) => {}
    }
    if let Some(cluster) = cluster {
        let scale = &cluster.spec.scale;
        writeln!(
            text,
            "  Scale: {} to {}; an idle node leaves after {} s",
            scale.min_nodes,
            counted(i64::from(scale.max_nodes), "node"),
            scale.idle_seconds_before_scale_down
        )?;
    }
    state(text, &plan.report.pool)?;
    let actions: Vec<String> = plan.all_actions().map(|action| sentence(action, snapshot)).collect();
    if actions.is_empty() {
        writeln!(text, "\n  Nothing would be done now.")?;
    } else {
        writeln!(text, "\n  Would be done now:")?;
        for (at, action) in actions.iter().enumerate() {
            writeln!(text, "    {}. {action}", at + 1)?;
        }
    }
    if !snapshot.active.is_empty() {
        writeln!(text, "\n  Runs at work:")?;
        for run in &snapshot.active {
            let nodes: Vec<&str> = run.nodes.iter().map(|node| node.0.as_str()).collect();
            writeln!(
                text,
                "    {} attempt {} ({:?}) on {}",
                run.id,
                run.attempt,
                run.progress,
                nodes.join(", ")
            )?;
        }
    }
    if !plan.report.runs.is_empty() {
        writeln!(text, "\n  Runs that wait:")?;
        let queued: HashMap<&RunId, &QueuedRun> = snapshot.queued.iter().map(|run| (&run.id, run)).collect();
        plan.report.runs.iter().try_for_each(|run| waiting(text, run, queued.get(&run.run).copied()))?;
    }
    if !plan.report.nodes.is_empty() {
        writeln!(text, "\n  Nodes:")?;
        for node in &plan.report.nodes {
            writeln!(text, "    {} {:?}: {}", node.node, node.reason, node.message)?;
        }
    }
    if !not_queued.is_empty() {
        writeln!(text, "\n  Not in the queue:")?;
        not_queued.iter().try_for_each(|run| aside(text, run))?;
    }
    match plan.wake_at {
        Some(time) => writeln!(text, "\n  Looks again at {time:.0}, or when something changes."),
        None => writeln!(text, "\n  Looks again when something changes."),
    }
}

fn resolution(
    text: &mut String,
    cluster: &Cluster,
    resolved: &Resolved,
    assumed: Option<&str>,
) -> fmt::Result {
    let size = &resolved.size;
    write!(
        text,
        "  Size:  {}: {}, {} of memory",
        size.size_name,
        counted(i64::from(size.vcpus), "vcpu"),
        size.memory.0
    )?;
    for accelerator in &size.accelerators {
        write!(text, ", {} {} ({})", accelerator.count, accelerator.resource_name, accelerator.product)?;
    }
    writeln!(text, "; {}", cluster.spec.vm_priority)?;
    write!(text, "  Class: {}", resolved.class.name)?;
    if assumed == Some(resolved.class.name.as_str()) {
        return writeln!(text, " (assumed)");
    }
    if let Some(karpenter) = &resolved.engine.karpenter {
        let class = &karpenter.node_class_ref;
        write!(text, ": Karpenter with {} {}", class.kind, class.name)?;
        write!(text, ", instance type {}, {}", karpenter.instance_type, karpenter.capacity_type)?;
        if !karpenter.zones.is_empty() {
            write!(text, ", zones {}", karpenter.zones.join(", "))?;
        }
    }
    if let Some(found) = &resolved.engine.static_node {
        let labels = found.node_selector.iter().map(|(key, value)| format!("{key}={value}"));
        write!(text, ": Nodes with {}", labels.collect::<Vec<_>>().join(", "))?;
        write!(text, "; whether they are free is not known here")?;
    }
    writeln!(text)
}

fn state(text: &mut String, pool: &PoolReport) -> fmt::Result {
    let health = pool.health;
    // What blocks it was said a line before.
    let message = if health == PoolHealth::Blocked { "see above" } else { &pool.message };
    let (current, target) = (pool.current_nodes, counted(pool.target_nodes, "node"));
    write!(
        text,
        "  State: {health:?}: {message}; {current} of {target}; {} queued, {} at work",
        pool.queued, pool.active
    )?;
    match &pool.zone {
        Some(zone) => writeln!(text, "; zone {zone}"),
        None => writeln!(text),
    }
}

fn waiting(text: &mut String, report: &RunReport, run: Option<&QueuedRun>) -> fmt::Result {
    write!(text, "    {}. {}", report.position, report.run)?;
    if let Some(run) = run {
        write!(text, " ({:?}, {})", run.priority, counted(run.node_count, "node"))?;
    }
    writeln!(text, " {:?}: {}", report.reason(), report.message())?;
    if let Some(time) = report.estimated_start {
        writeln!(text, "       starts at {time:.0} at the latest")?;
    }
    let deadline =
        run.and_then(|run| run.give_up_at).filter(|_| report.reason() != WaitReason::QueueDeadline);
    match deadline {
        Some(time) => {
            writeln!(text, "       ends as Failed at {time:.0} if it has not started (queueDeadline)")
        }
        None => Ok(()),
    }
}

fn aside(text: &mut String, aside: &Aside) -> fmt::Result {
    let Aside { run, reason, message } = aside;
    writeln!(text, "    {run} {reason:?}: {message}")
}
