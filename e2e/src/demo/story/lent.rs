//! The third act: two machines that are there already are lent, used, and given back as they were found.

use crate::demo::observe::Look;
use trainyard_api::run_status::RunPhase;

/// The Cluster of this act.
pub const POOL: &str = "lab";
/// Its runs.
pub const RUNS: usize = 1;
/// The machines.
pub const MACHINES: [&str; 2] = ["lab-1", "lab-2"];

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Lent {
    free_before: bool,
    worked: bool,
    back: bool,
}

impl Lent {
    /// Takes in the next look at its Cluster and at the machines.
    pub fn see(&mut self, look: &Look) {
        let all = look.machines.len() == MACHINES.len();
        let lent = look.machines.iter().filter(|one| one.lent_to.as_deref() == Some(POOL)).count();
        let as_found = all && look.machines.iter().all(|one| one.lent_to.is_none() && one.as_found);
        self.free_before |= as_found && look.pools.is_empty();
        self.worked |= lent == MACHINES.len() && look.runs.iter().any(|run| run.phase == RunPhase::Running);
        self.back = as_found;
    }

    /// Whether all machines are as they were found.
    pub fn is_back(&self) -> bool {
        self.back
    }

    /// What did not happen.
    pub fn missing(&self) -> Vec<String> {
        let musts = [
            (self.free_before, "the two machines were not free before there was a Cluster for them"),
            (self.worked, "the run never worked while both machines were lent to its Cluster"),
            (self.back, "the two machines are not as they were found"),
        ];
        musts.into_iter().filter(|(happened, _)| !happened).map(|(_, what)| what.to_owned()).collect()
    }
}
