//! The first act: four machines come with the queue, are used again while they are warm, and go.

use std::collections::BTreeSet;

use jiff::Timestamp;
use trainyard_api::cluster_node::NodeState;
use trainyard_api::run_status::RunPhase;

use crate::demo::observe::Look;

/// The Cluster of this act.
pub const POOL: &str = "a100";
/// Its runs.
pub const RUNS: usize = 4;

/// What has been seen so far.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that must be seen; they depend on nothing"
)]
pub(super) struct Elastic {
    nodes_seen: BTreeSet<String>,
    preparing_seen: bool,
    all_four_ran: bool,
    countdown_seen: bool,
    leaving_seen: bool,
    warm_reuse_seen: bool,
    gang_waited: bool,
    partial_gang: Option<String>,
    gang_started: Option<Timestamp>,
    urgent_started: Option<Timestamp>,
    ran_on: BTreeSet<(String, String)>,
}

impl Elastic {
    /// Takes in the next look at its Cluster.
    pub fn see(&mut self, look: &Look) {
        for node in &look.nodes {
            self.nodes_seen.insert(node.name.clone());
            self.preparing_seen |= node.state == Some(NodeState::Preparing);
            self.leaving_seen |= node.state == Some(NodeState::Leaving);
            self.countdown_seen |= node.leaves_in.is_some();
            for run in &node.runs {
                let other = self.ran_on.iter().any(|(known, before)| *known == node.name && before != run);
                self.warm_reuse_seen |= other;
                self.ran_on.insert((node.name.clone(), run.clone()));
            }
        }
        let running = look.nodes.iter().filter(|node| !node.runs.is_empty()).count();
        self.all_four_ran |= running == 4;
        for run in &look.runs {
            if run.name == "gang" && run.phase == RunPhase::Queued {
                self.gang_waited = true;
                let held =
                    look.nodes.iter().filter(|node| node.runs.iter().any(|name| name == "gang")).count();
                // A look is not one moment: all four claims and the allocation may be written while it is taken.
                if held > 0 && held < 3 && running < 4 && self.partial_gang.is_none() {
                    self.partial_gang =
                        Some(format!("the gang held {held} of its 4 nodes while it was queued"));
                }
            }
            match run.name.as_str() {
                "gang" => self.gang_started = self.gang_started.or(run.started),
                "urgent" => self.urgent_started = self.urgent_started.or(run.started),
                _ => {}
            }
        }
    }

    /// What did not happen.
    pub fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.partial_gang.iter().cloned().collect();
        let mut must = |happened: bool, what: &str| {
            if !happened {
                missing.push(what.to_owned());
            }
        };
        must(self.preparing_seen, "no node was seen preparing");
        must(self.all_four_ran, "four nodes never worked at once");
        must(
            self.nodes_seen.len() == 4,
            &format!("4 machines should have been enough, {} were asked for", self.nodes_seen.len()),
        );
        must(self.warm_reuse_seen, "no warm node was taken by a second run");
        must(self.gang_waited, "the gang of four did not wait");
        must(
            self.urgent_started < self.gang_started && self.urgent_started.is_some(),
            "the High run did not overtake the gang",
        );
        must(self.countdown_seen, "no idle timer was seen counting down");
        must(self.leaving_seen, "no node was seen leaving");
        missing
    }
}
