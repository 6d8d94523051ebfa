//! What one plan costs, from a small pool to a very large one. Prints; judges nothing.
//!
//! `cargo bench -p trainyard-planner`
#![allow(clippy::disallowed_methods, missing_docs)] // A benchmark reads the clock.

mod pool;

use std::time::{Duration, Instant};

use trainyard_planner::{Snapshot, plan};

use pool::{State, now, snapshot};

/// Enough rounds for a stable median in some seconds.
const ROUNDS: usize = 30;

/// Pairs of nodes and waiting runs.
const SIZES: [(i64, i64); 4] = [(10, 100), (100, 1_000), (1_000, 10_000), (1_000, 50_000)];

fn main() {
    println!("{:>7} {:>8} {:<24} {:>10} {:>10} {:>10}", "nodes", "queued", "state", "min", "median", "max");
    for (nodes, queued) in SIZES {
        for state in State::ALL {
            let snapshot = snapshot(nodes, queued, state);
            let mut times: Vec<Duration> = (0..ROUNDS).map(|_| time(&snapshot)).collect();
            times.sort_unstable();
            let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
            println!(
                "{nodes:>7} {queued:>8} {:<24} {least:>10.1?} {median:>10.1?} {most:>10.1?}",
                state.words()
            );
        }
    }
}

fn time(snapshot: &Snapshot) -> Duration {
    let begin = Instant::now();
    let plan = plan(snapshot, now());
    let end = begin.elapsed();
    assert!(plan.report.pool.queued >= 0);
    end
}
