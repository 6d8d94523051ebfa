//! What must happen in the demonstration. It is judged from looks alone; at the end [`Story::missing`] names what did
//! not happen.

pub mod elastic;
pub mod lent;
pub mod sharing;

use trainyard_api::run_status::RunPhase;

use super::observe::Look;

/// All runs of all acts.
pub const RUNS: usize = elastic::RUNS + sharing::RUNS + lent::RUNS;

/// What has been seen so far, act by act.
#[derive(Debug, Default)]
pub struct Story {
    elastic: elastic::Elastic,
    sharing: sharing::Sharing,
    lent: lent::Lent,
    failed: Option<String>,
}

impl Story {
    /// Takes in the next look.
    pub fn see(&mut self, look: &Look) {
        self.elastic.see(&look.of(elastic::POOL));
        self.sharing.see(&look.of(sharing::POOL));
        self.lent.see(&look.of(lent::POOL));
        let lost = look.runs.iter().find(|run| matches!(run.phase, RunPhase::Failed | RunPhase::Canceled));
        if let Some(run) = lost {
            self.failed = Some(format!("run {} is {}: {}", run.name, run.phase, run.message));
        }
    }

    /// Whether a run has failed: then it is no use to wait for more.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether nothing more will come: every run has ended, every node has left, what was lent is back, and the Clusters are
    /// Ready.
    pub fn is_over(&self, look: &Look) -> bool {
        look.is_done_with(RUNS) && self.lent.is_back()
    }

    /// What did not happen, given the last look.
    pub fn missing(&self, last: &Look) -> Vec<String> {
        let mut missing: Vec<String> = self.failed.iter().cloned().collect();
        missing.extend(self.elastic.missing());
        missing.extend(self.sharing.missing());
        missing.extend(self.lent.missing());
        for run in last.runs.iter().filter(|run| run.phase != RunPhase::Completed) {
            missing.push(format!("run {} ended as {}: {}", run.name, run.phase, run.message));
        }
        if !last.is_done_with(RUNS) {
            missing.push(format!(
                "{} of {RUNS} runs are there and {} nodes are left; the Clusters: {:?}",
                last.runs.len(),
                last.nodes.len(),
                last.pools
            ));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use trainyard_api::cluster_node::NodeState;

    use super::*;
    use crate::demo::observe::{MachineRow, NodeRow, RunRow};

    fn node(name: &str, runs: &[&str], in_use: i64) -> NodeRow {
        NodeRow {
            name: name.to_owned(),
            pool: sharing::POOL.to_owned(),
            ordinal: 1,
            state: Some(NodeState::Running),
            runs: runs.iter().map(|run| (*run).to_owned()).collect(),
            accelerators: 8,
            in_use,
            leaves_in: None,
        }
    }

    fn machine(lent_to: Option<&str>, as_found: bool) -> Look {
        let row =
            |name: &str| MachineRow { name: name.to_owned(), lent_to: lent_to.map(str::to_owned), as_found };
        Look { machines: lent::MACHINES.iter().map(|name| row(name)).collect(), ..Look::default() }
    }

    #[test]
    fn a_demonstration_that_shows_nothing_is_told_so_for_every_act() {
        let missing = Story::default().missing(&Look::default()).join("\n");
        for words in
            ["no node was seen preparing", "never seen together", "not as they were found", "0 of 10 runs"]
        {
            assert!(missing.contains(words), "{words} is not in\n{missing}");
        }
    }

    #[test]
    fn packing_is_four_runs_on_one_machine_and_the_gang_alone_on_two() {
        let small = ["sweep-1", "sweep-2", "sweep-3", "sweep-4"];
        let gang = || [node("b", &["pretrain"], 8), node("c", &["pretrain"], 8)];
        let mut story = sharing::Sharing::default();
        story.see(&Look { nodes: vec![node("a", &small[..3], 3)], ..Look::default() });
        assert_eq!(story.missing().len(), 3, "{:?}", story.missing());
        let nodes = [node("a", &small, 4)].into_iter().chain(gang()).collect();
        story.see(&Look { nodes, ..Look::default() });
        assert_eq!(story.missing(), Vec::<String>::new());
        story.see(&Look { nodes: vec![node("b", &["sweep-1"], 1)], ..Look::default() });
        assert!(story.missing()[0].contains("a machine of the gang had other runs"), "{:?}", story.missing());
        story.see(&Look { nodes: vec![node("a", &small, 9)], ..Look::default() });
        assert!(story.missing()[0].contains("gave 9 of its 8"), "{:?}", story.missing());
    }

    #[test]
    fn a_lent_machine_must_be_used_and_come_back_as_it_was() {
        let mut story = lent::Lent::default();
        story.see(&machine(None, true));
        let mut busy = machine(Some(lent::POOL), false);
        busy.runs.push(RunRow {
            name: "on-premises".to_owned(),
            pool: lent::POOL.to_owned(),
            phase: RunPhase::Running,
            message: String::new(),
            nodes: 2,
            started: None,
        });
        story.see(&busy);
        story.see(&machine(None, false));
        assert_eq!(story.missing(), ["the two machines are not as they were found"]);
        story.see(&machine(None, true));
        assert!(story.is_back() && story.missing().is_empty());
    }
}
