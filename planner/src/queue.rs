//! The order in which runs are served.

use std::cmp::Reverse;

use crate::snapshot::QueuedRun;

/// Priority, then creation time, then namespace, name and UID: a total order, so that the order of the input is nothing.
pub(crate) fn in_order(queued: &[QueuedRun]) -> Vec<&QueuedRun> {
    // The key lies beside the reference, so that sorting a long queue does not jump about in memory. The sort is stable:
    // linear on what is sorted already.
    let mut queue: Vec<_> = queued.iter().map(|run| (Reverse(run.priority), run.created, run)).collect();
    queue.sort_by(|one, other| {
        (one.0, one.1).cmp(&(other.0, other.1)).then_with(|| one.2.id.cmp(&other.2.id))
    });
    queue.into_iter().map(|(_, _, run)| run).collect()
}
