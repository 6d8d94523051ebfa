//! The second act: four runs of one GPU each share a machine of eight, and a gang of two whole machines works beside them.

use std::collections::{BTreeMap, BTreeSet};

use crate::demo::observe::Look;

/// The Cluster of this act.
pub const POOL: &str = "nd96";
/// Its runs.
pub const RUNS: usize = 5;
/// The run that takes whole machines.
const GANG: &str = "pretrain";
/// The others.
const SMALL: [&str; 4] = ["sweep-1", "sweep-2", "sweep-3", "sweep-4"];

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Runs that each node has had.
    had: BTreeMap<String, BTreeSet<String>>,
    /// Four of eight GPUs of one node were in use, one by each small run.
    packed: bool,
    beside: bool,
    beyond: Option<String>,
}

impl Sharing {
    /// Takes in the next look at its Cluster.
    pub fn see(&mut self, look: &Look) {
        let mut packed_now = false;
        for node in &look.nodes {
            let runs: BTreeSet<_> = node.runs.iter().map(String::as_str).collect();
            packed_now |= runs == BTreeSet::from(SMALL) && (node.in_use, node.accelerators) == (4, 8);
            if node.in_use > node.accelerators {
                self.beyond =
                    Some(format!("{} gave {} of its {} GPUs", node.name, node.in_use, node.accelerators));
            }
            self.had.entry(node.name.clone()).or_default().extend(node.runs.iter().cloned());
        }
        let of_gang =
            look.nodes.iter().filter(|node| node.runs == [GANG] && node.in_use == node.accelerators).count();
        self.packed |= packed_now;
        self.beside |= packed_now && of_gang == 2;
    }

    /// What did not happen.
    pub fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.beyond.iter().cloned().collect();
        let mut must = |happened: bool, what: String| {
            if !happened {
                missing.push(what);
            }
        };
        must(
            self.packed,
            "four runs of one GPU each were never seen together on one machine of eight".to_owned(),
        );
        must(self.beside, "the gang of two whole machines was never seen beside them".to_owned());
        let mixed = self.had.iter().find(|(_, runs)| runs.contains(GANG) && runs.len() > 1);
        must(mixed.is_none(), format!("a machine of the gang had other runs, too: {mixed:?}"));
        must(
            self.had.len() == 3,
            format!("3 machines of eight GPUs should have been enough, {} were asked for", self.had.len()),
        );
        missing
    }
}
