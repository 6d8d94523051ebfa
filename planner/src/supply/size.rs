//! Capacity as three numbers that are quickly compared.

use crate::capacity::Capacity;

/// Accelerators of all kinds, thousandths of a CPU, bytes of memory. What holds a share is not smaller than the share in any
/// of the three.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size {
    pub accelerators: i64,
    pub cpu: i64,
    pub memory: i64,
}

impl Size {
    pub(super) fn of(capacity: &Capacity) -> Self {
        Self {
            // More may be taken of one kind than there is, which takes nothing of another.
            accelerators: capacity.accelerators.values().map(|count| count.max(&0)).sum(),
            cpu: capacity.cpu_millis,
            memory: capacity.memory_bytes,
        }
    }

    pub(super) fn is_within(self, other: Self) -> bool {
        self.accelerators <= other.accelerators && self.cpu <= other.cpu && self.memory <= other.memory
    }
}
