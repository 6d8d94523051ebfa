//! The order in which runs are served.

use std::cmp::Ordering;

use crate::snapshot::QueuedRun;

/// Priority, then creation time, then namespace, name and UID: a total order, so that the order of the input is nothing.
pub(crate) fn in_order(queued: &[QueuedRun]) -> Vec<&QueuedRun> {
    let mut queue: Vec<_> = queued.iter().collect();
    // A stable sort is linear on what is sorted already, and observers may keep it so.
    queue.sort_by(|one, other| compare(one, other));
    queue
}

/// See [`in_order`].
pub(crate) fn compare(one: &QueuedRun, other: &QueuedRun) -> Ordering {
    other
        .priority
        .cmp(&one.priority)
        .then_with(|| one.created.cmp(&other.created))
        .then_with(|| one.id.cmp(&other.id))
}
