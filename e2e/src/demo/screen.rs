//! Shows a look: redrawn in place on a terminal, as lines of what changed elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use tokio::time::Instant;
use trainyard_api::cluster_node::NodeState;
use trainyard_api::run_status::RunPhase;

use super::observe::{Look, MachineRow, NodeRow, RunRow};

/// Where the demonstration is shown.
pub struct Screen {
    terminal: bool,
    start: Instant,
    shown: Look,
    drawn_lines: usize,
}

impl Screen {
    /// Standard output.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            start: Instant::now(),
            shown: Look::default(),
            drawn_lines: 0,
        }
    }

    /// A sentence of the narrator.
    pub fn say(&mut self, sentence: &str) {
        self.clear();
        self.line(&format!("▸ {sentence}"));
    }

    /// The next look.
    pub fn show(&mut self, look: Look) {
        if look == self.shown {
            return;
        }
        self.clear();
        for change in changes(&self.shown, &look) {
            self.line(&change);
        }
        if self.terminal {
            self.draw(&look);
        }
        self.shown = look;
    }

    fn line(&self, text: &str) {
        let elapsed = self.start.elapsed().as_secs_f64();
        println!("{elapsed:6.1}s  {text}");
    }

    fn clear(&mut self) {
        if self.drawn_lines > 0 {
            print!("\x1b[{}F\x1b[J", self.drawn_lines);
            self.drawn_lines = 0;
        }
    }

    /// Finished runs and Clusters without nodes are not worth a line of a terminal that may have 24.
    fn draw(&mut self, look: &Look) {
        let mut text = String::new();
        let rule = "─".repeat(76);
        let _ = writeln!(text, "{rule}");
        for pool in &look.pools {
            let nodes: Vec<_> = look.nodes.iter().filter(|node| node.pool == pool.name).collect();
            let runs = look.runs.iter().filter(|run| run.pool == pool.name);
            let runs: Vec<_> = runs.filter(|run| run.phase != RunPhase::Completed).collect();
            let _ = writeln!(
                text,
                "  Cluster {}  {}/{} nodes  Ready {}  {}",
                pool.name, pool.nodes, pool.max, pool.ready, pool.message
            );
            for node in nodes {
                let _ = writeln!(text, "    {:<18} {:<10} {}", node.name, state(node), on_it(node));
            }
            for run in runs {
                let _ = writeln!(
                    text,
                    "  Run {:<12} {:<10} {}",
                    run.name,
                    run.phase,
                    shortened(&run.message, 48)
                );
            }
        }
        for machine in look.machines.iter().filter(|machine| machine.lent_to.is_some()) {
            let _ = writeln!(text, "  Found {}  {}", machine.name, whose(machine));
        }
        self.drawn_lines = text.lines().count();
        print!("{text}");
        let _ = std::io::stdout().flush();
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        text.to_owned()
    } else {
        text.chars().take(length - 1).chain(['…']).collect()
    }
}

fn state(node: &NodeRow) -> &'static str {
    node.state.map_or("Requested", NodeState::as_str)
}

/// How full it is, and who is on it: `■■■■□□□□ 4 of 8 GPUs: a, b, c, d`.
fn on_it(node: &NodeRow) -> String {
    match (node.runs.as_slice(), node.leaves_in) {
        ([], Some(seconds)) => format!("leaves in {seconds} s"),
        ([], None) => String::new(),
        (runs, _) => {
            let (used, all) = (node.in_use.max(0) as usize, node.accelerators.max(0) as usize);
            let bar = "■".repeat(used) + &"□".repeat(all.saturating_sub(used));
            format!("{bar} {used} of {all} GPUs: {}", runs.join(", "))
        }
    }
}

fn whose(machine: &MachineRow) -> String {
    match (&machine.lent_to, machine.as_found) {
        (Some(cluster), _) => format!("lent to Cluster {cluster}, by labels and a taint"),
        (None, true) => "nobody's, as it was found".to_owned(),
        (None, false) => "nobody's, but not as it was found".to_owned(),
    }
}

/// What a person would notice between two looks.
fn changes(before: &Look, after: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &after.nodes {
        let known = before.nodes.iter().find(|known| known.name == node.name);
        match known {
            None => lines.push(format!("node  {}: requested", node.name)),
            Some(known) if known.state != node.state || known.runs != node.runs => {
                let on_it = if node.runs.is_empty() { String::new() } else { format!("  {}", on_it(node)) };
                lines.push(format!("node  {}: {}{on_it}", node.name, state(node)));
            }
            Some(_) => {}
        }
    }
    for node in before.nodes.iter().filter(|node| !after.nodes.iter().any(|now| now.name == node.name)) {
        lines.push(format!("node  {}: gone", node.name));
    }
    for run in &after.runs {
        let known = before.runs.iter().find(|known| known.name == run.name);
        if known.is_none_or(|known| {
            known.phase != run.phase || (run.phase == RunPhase::Queued && known.message != run.message)
        }) {
            lines.push(run_line(run));
        }
    }
    for pool in &after.pools {
        let known = before.pools.iter().find(|known| known.name == pool.name);
        if known.is_none_or(|known| (known.nodes, known.ready) != (pool.nodes, pool.ready)) {
            lines.push(format!(
                "pool  {}: {} of {} nodes, Ready {}: {}",
                pool.name, pool.nodes, pool.max, pool.ready, pool.message
            ));
        }
    }
    for machine in &after.machines {
        if before.machines.iter().find(|known| known.name == machine.name) != Some(machine) {
            lines.push(format!("found {}: {}", machine.name, whose(machine)));
        }
    }
    let leaving = next_leave(after);
    if let Some((node, seconds)) = leaving.filter(|now| next_leave(before) != Some(*now) && now.1 % 2 == 0) {
        lines.push(format!("idle  {node} leaves in {seconds} s"));
    }
    lines
}

fn next_leave(look: &Look) -> Option<(&str, i64)> {
    look.nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), node.leaves_in?)))
        .min_by_key(|(_, seconds)| *seconds)
}

fn run_line(run: &RunRow) -> String {
    let message = if run.message.is_empty() { String::new() } else { format!(": {}", run.message) };
    format!("run   {}: {}{message}", run.name, run.phase)
}
