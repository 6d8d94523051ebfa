//! Which process sits on which node, and what part of a node it gets.
//!
//! The rule, which users may rely on:
//!
//! * Chief and workers are put in one line, the chief first, and the line is cut into as many blocks as there are nodes,
//!   in order. Blocks differ by at most one process; the larger ones come first. So the chief is on node 0, neighbours in
//!   rank are neighbours in the machine, and no node is without one of them.
//! * Parameter server `i` sits on node `i`, beside the processes there.
//! * The accelerators of a node are shared equally by its chief and workers; parameter servers get none.
//! * An evaluator sits on the last node, which has the fewest of the others, and gets no accelerators either.
//! * Cpu and memory of a node are shared equally by all its processes, parameter servers and evaluator included.

use std::collections::BTreeMap;

use trainyard_api::capacity::Capacity;
use trainyard_api::distribution::RoleName;

/// One process of a Run: one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Its role.
    pub role: RoleName,
    /// Its index in the role, from 0.
    pub index: usize,
    /// The node it sits on, as an index into the allocation's nodes.
    pub node: usize,
}

impl Process {
    /// Whether it gets a part of the node's accelerators.
    pub fn uses_accelerators(self) -> bool {
        match self.role {
            RoleName::Chief | RoleName::Worker => true,
            RoleName::ParameterServer | RoleName::Evaluator => false,
        }
    }

    /// Whether an attempt cannot go on without it. Nobody waits for an evaluator, and none is told of it.
    pub fn is_essential(self) -> bool {
        self.role != RoleName::Evaluator
    }
}

/// Every process of a Run: chief, workers, parameter servers, evaluator, each in order of index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    processes: Vec<Process>,
    nodes: usize,
}

/// What part of a node one process gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessShare {
    /// Thousandths of a cpu.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Accelerators by resource name; none is absent.
    pub accelerators: BTreeMap<String, i64>,
}

impl ProcessShare {
    /// All accelerators together, of whatever kind.
    pub fn accelerator_count(&self) -> i64 {
        self.accelerators.values().sum()
    }
}

/// Why a node cannot be shared by its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unshareable {
    /// The number of processes does not divide the number of accelerators.
    Accelerators {
        /// Processes that use them.
        processes: usize,
        /// How many there are.
        count: i64,
        /// Their resource name.
        resource: String,
    },
    /// Less than one unit for each process.
    Cpu {
        /// All processes of the node.
        processes: usize,
    },
    /// Less than one byte for each process.
    Memory {
        /// All processes of the node.
        processes: usize,
    },
}

impl Layout {
    /// Lays out so many chiefs, workers and parameter servers on so many nodes.
    ///
    /// The caller has checked that there is at least one node, no node without chief or worker, and no more parameter
    /// servers than nodes.
    pub(super) fn new(nodes: usize, chiefs: usize, workers: usize, parameter_servers: usize) -> Self {
        let line = chiefs + workers;
        let (small, larger) = (line / nodes, line % nodes);
        let node_of = |position: usize| {
            let in_larger = larger * (small + 1);
            if position < in_larger {
                position / (small + 1)
            } else {
                larger + (position - in_larger) / small.max(1)
            }
        };
        let chiefs_placed =
            (0..chiefs).map(|index| Process { role: RoleName::Chief, index, node: node_of(index) });
        let workers_placed = (0..workers).map(|index| Process {
            role: RoleName::Worker,
            index,
            node: node_of(chiefs + index),
        });
        let servers_placed = (0..parameter_servers).map(|index| Process {
            role: RoleName::ParameterServer,
            index,
            node: index,
        });
        Self { processes: chiefs_placed.chain(workers_placed).chain(servers_placed).collect(), nodes }
    }

    /// The same with so many evaluators, 0 or 1.
    pub(super) fn evaluated_by(mut self, evaluators: usize) -> Self {
        let last = self.nodes - 1;
        self.processes.extend((0..evaluators).map(|index| Process {
            role: RoleName::Evaluator,
            index,
            node: last,
        }));
        self
    }

    /// All processes: chief, workers, parameter servers, evaluator.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// How many processes the fullest node has.
    pub fn most_on_one_node(&self) -> usize {
        let on = |node| self.processes.iter().filter(|process| process.node == node).count();
        (0..self.nodes).map(on).max().unwrap_or(0)
    }

    /// How many processes of this role there are.
    pub fn count(&self, role: RoleName) -> usize {
        self.processes.iter().filter(|process| process.role == role).count()
    }

    /// The process whose exit decides: the chief, or else worker 0.
    pub fn primary(&self) -> Process {
        self.processes[0]
    }

    /// The first process of each node, in order of nodes: what stands for the node in lists of hosts.
    pub fn first_of_each_node(&self) -> Vec<Process> {
        (0..self.nodes)
            .filter_map(|node| self.processes.iter().find(|process| process.node == node).copied())
            .collect()
    }

    /// What one process gets of its node, of which the Run has `capacity`. `per_process` is the number of programs a
    /// process starts that use accelerators by themselves (torchrun's processes); they share equally, too.
    pub fn share(
        &self,
        process: Process,
        capacity: &Capacity,
        per_process: usize,
    ) -> Result<ProcessShare, Unshareable> {
        let here = self.processes.iter().filter(|other| other.node == process.node);
        let (mut all, mut accelerated) = (0_usize, 0_usize);
        for other in here {
            all += 1;
            accelerated += usize::from(other.uses_accelerators());
        }
        let mut accelerators = BTreeMap::new();
        for (resource, &count) in &capacity.accelerators {
            let users = accelerated * per_process.max(1);
            if count > 0 && count % users.max(1) as i64 != 0 {
                let resource = resource.clone();
                return Err(Unshareable::Accelerators { processes: users, count, resource });
            }
            if count > 0 && process.uses_accelerators() {
                accelerators.insert(resource.clone(), count / accelerated.max(1) as i64);
            }
        }
        let cpu_millis = capacity.cpu_millis / all.max(1) as i64;
        let memory_bytes = capacity.memory_bytes / all.max(1) as i64;
        if cpu_millis < 1 {
            return Err(Unshareable::Cpu { processes: all });
        }
        if memory_bytes < 1 {
            return Err(Unshareable::Memory { processes: all });
        }
        Ok(ProcessShare { cpu_millis, memory_bytes, accelerators })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes_of(layout: &Layout, role: RoleName) -> Vec<usize> {
        layout.processes().iter().filter(|p| p.role == role).map(|p| p.node).collect()
    }

    fn machine(gpus: i64) -> Capacity {
        Capacity {
            cpu_millis: 8000,
            memory_bytes: 16_000,
            pods: 110,
            accelerators: [("nvidia.com/gpu".to_owned(), gpus)].into_iter().filter(|(_, n)| *n > 0).collect(),
        }
    }

    #[test]
    fn one_worker_for_each_node_sits_on_its_node() {
        let layout = Layout::new(3, 0, 3, 1);
        assert_eq!(nodes_of(&layout, RoleName::Worker), [0, 1, 2]);
        assert_eq!(nodes_of(&layout, RoleName::ParameterServer), [0]);
    }

    #[test]
    fn the_chief_takes_the_first_place_of_node_0() {
        let layout = Layout::new(2, 1, 2, 1);
        assert_eq!(nodes_of(&layout, RoleName::Chief), [0]);
        assert_eq!(nodes_of(&layout, RoleName::Worker), [0, 1]);
        assert_eq!(layout.primary().role, RoleName::Chief);
    }

    #[test]
    fn blocks_are_in_order_and_the_larger_ones_come_first() {
        let layout = Layout::new(3, 0, 8, 0);
        assert_eq!(nodes_of(&layout, RoleName::Worker), [0, 0, 0, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn the_evaluator_sits_on_the_last_node_and_takes_no_accelerator() {
        let layout = Layout::new(2, 1, 2, 1).evaluated_by(1);
        assert_eq!(nodes_of(&layout, RoleName::Evaluator), [1]);
        let evaluator = *layout.processes().last().expect("four processes and it");
        assert!(!evaluator.is_essential() && layout.primary().is_essential());
        let share = layout.share(evaluator, &machine(1), 1).expect("it takes none");
        assert_eq!((share.accelerator_count(), share.cpu_millis), (0, 4000));
    }

    #[test]
    fn no_node_is_ever_without_a_chief_or_worker_and_blocks_differ_by_one() {
        for nodes in 1..=7 {
            for workers in nodes..=nodes * 4 {
                for chiefs in 0..=1 {
                    let layout = Layout::new(nodes, chiefs, workers, nodes);
                    let mut sizes = vec![0_usize; nodes];
                    for process in layout.processes().iter().filter(|p| p.uses_accelerators()) {
                        sizes[process.node] += 1;
                    }
                    let (least, most) = (sizes.iter().min().copied(), sizes.iter().max().copied());
                    assert!(least >= Some(1) && most <= least.map(|n| n + 1), "{nodes} {workers}: {sizes:?}");
                }
            }
        }
    }

    #[test]
    fn accelerators_are_shared_equally_and_servers_get_none() {
        let layout = Layout::new(1, 0, 2, 1);
        let share = |role| {
            let process = *layout.processes().iter().find(|p| p.role == role).expect("the role is there");
            layout.share(process, &machine(4), 1).expect("4 divides by 2")
        };
        assert_eq!(share(RoleName::Worker).accelerators["nvidia.com/gpu"], 2);
        assert!(share(RoleName::ParameterServer).accelerators.is_empty());
        assert_eq!((share(RoleName::Worker).cpu_millis, share(RoleName::Worker).memory_bytes), (2666, 5333));
    }

    #[test]
    fn three_processes_cannot_share_four_accelerators() {
        let layout = Layout::new(1, 1, 2, 0);
        assert_eq!(
            layout.share(layout.primary(), &machine(4), 1),
            Err(Unshareable::Accelerators { processes: 3, count: 4, resource: "nvidia.com/gpu".to_owned() })
        );
    }

    #[test]
    fn processes_started_by_torchrun_share_the_pods_accelerators() {
        let layout = Layout::new(2, 0, 2, 0);
        let share = layout.share(layout.primary(), &machine(4), 4).expect("4 divides by 4");
        assert_eq!(share.accelerator_count(), 4);
        assert!(layout.share(layout.primary(), &machine(4), 3).is_err());
        assert!(layout.share(layout.primary(), &machine(4), 8).is_err());
    }

    #[test]
    fn a_machine_without_accelerators_runs_any_number() {
        let layout = Layout::new(1, 0, 3, 0);
        assert_eq!(
            layout.share(layout.primary(), &machine(0), 1).expect("cpu is enough").accelerator_count(),
            0
        );
        assert_eq!(
            layout.share(layout.primary(), &Capacity { cpu_millis: 2, ..Capacity::default() }, 1),
            Err(Unshareable::Cpu { processes: 3 })
        );
    }
}
