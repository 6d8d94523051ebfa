//! A plan as text: for terminals and for scenario files that people review.
//!
//! One line for each action, run and node, times to the second in UTC, empty parts left out.

use std::fmt;

use crate::action::{Action, DropBasis, Plan};
use crate::capacity::Capacity;
use crate::identity::{NodeName, Zone};
use crate::report::{HeldUp, NodeReport, PoolReport, Report, RunReport};
use crate::snapshot::Backoff;
use crate::wait::because;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { actions, report, afterwards, wake_at } = self;
        for action in actions {
            writeln!(f, "do     {action}")?;
        }
        for action in afterwards {
            writeln!(f, "after  {action}")?;
        }
        write!(f, "{report}")?;
        match wake_at {
            Some(time) => writeln!(f, "wake   {time:.0}"),
            None => writeln!(f, "wake   when something changes"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, runs, nodes } = self;
        write!(f, "{pool}")?;
        runs.iter().try_for_each(|run| writeln!(f, "run    {run}"))?;
        nodes.iter().try_for_each(|node| writeln!(f, "node   {node}"))
    }
}

impl fmt::Display for PoolReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            current_nodes,
            target_nodes,
            counts: _,
            initial_last_ordinal: _,
            resizing,
            queued,
            active,
            oldest_queued,
            next_scale_down,
            backoff,
            last_ordinal,
            zone,
            held_up,
            shortage: _,
            health,
            message,
        } = self;
        let state = if *resizing { "resizing" } else { "steady" };
        write!(f, "pool   {health:?}: {message}; {current_nodes} of {target_nodes} nodes, {state}")?;
        write!(f, ", {queued} queued, {active} active, last ordinal {last_ordinal}")?;
        if let Some(Zone(zone)) = zone {
            write!(f, ", zone {zone}")?;
        }
        if let Some(time) = oldest_queued {
            write!(f, ", oldest {time:.0}")?;
        }
        if let Some(time) = next_scale_down {
            write!(f, ", next leaves {time:.0}")?;
        }
        writeln!(f)?;
        if let Some(HeldUp { nodes, message }) = held_up {
            writeln!(f, "held up {nodes}: {message}")?;
        }
        for Backoff { cause, zone, count, until, message } in backoff {
            let zone = zone.as_ref().map_or("", |zone| zone.0.as_str());
            let why = because(message);
            writeln!(f, "refusal {cause:?} {zone} count {count} until {until:.0}{why}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, position, wait, estimated_start, gang_since, hold: _ } = self;
        write!(f, "{position}. {run} {:?}: {wait}", wait.reason())?;
        if let Some(time) = estimated_start {
            write!(f, " [starts by {time:.0}]")?;
        }
        if let Some(time) = gang_since {
            write!(f, " [since {time:.0}]")?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, reason, message } = self;
        write!(f, "{node} {reason:?}: {message}")
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestNode { ordinal, zone: None } => write!(f, "request node {ordinal}"),
            Self::RequestNode { ordinal, zone: Some(zone) } => {
                write!(f, "request node {ordinal} in zone {zone}")
            }
            Self::Allocate { run, attempt, nodes, shares } => {
                write!(f, "start {run} attempt {attempt} on {}", Listed(nodes, shares))
            }
            Self::DropClaim { node, run, attempt, basis } => {
                let basis = match basis {
                    DropBasis::PodsGone => "its pods are gone",
                    DropBasis::NotAllocated => "never allocated",
                    DropBasis::RunGone => "the run is gone",
                };
                write!(f, "drop the claim of {run} attempt {attempt} on {node}: {basis}")
            }
            Self::Retire { node, reason } => write!(f, "retire {node}: {reason:?}"),
            Self::Unretire { node } => write!(f, "call back {node}"),
            Self::Release { node } => write!(f, "release {node}"),
            Self::Forget { node } => write!(f, "forget {node}"),
            Self::Directive { run, attempt, kind, reason, culprit } => {
                write!(f, "tell {run} attempt {attempt}: {kind:?} ({reason:?}")?;
                match culprit {
                    Some(node) => write!(f, ", {node})"),
                    None => f.write_str(")"),
                }
            }
            Self::Hold { run, hold } => {
                write!(f, "hold {run} until {:.0} (hold {})", hold.until, hold.count)
            }
            Self::GiveUp { run } => write!(f, "give up {run}: its queueDeadline has passed"),
            Self::ReleaseFinalizer => f.write_str("let the cluster go"),
        }
    }
}

/// Nodes with the share taken of each, where shares differ from one another or one share stands for all.
struct Listed<'a>(&'a [NodeName], &'a [Capacity]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(nodes, shares) = self;
        for (at, (node, share)) in nodes.iter().zip(*shares).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{node}")?;
            // Said once for a row of equal shares.
            if shares.get(at + 1) != Some(share) {
                write!(f, " ({share})")?;
            }
        }
        Ok(())
    }
}
