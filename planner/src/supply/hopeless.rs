//! What found no place: supply only shrinks, so what asks for no less finds none, either, and need not look.

use super::Reach;
use super::size::Size;
use crate::capacity::Capacity;

/// So many different failures are remembered. Each is compared with each waiting run; a queue whose runs are all unlike
/// comes to some dozens of which none follows from another.
const MOST: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Hopeless {
    failures: Vec<Failure>,
}

struct Failure {
    size: Size,
    share: Capacity,
    reach: Reach,
    /// The number of nodes.
    count: i64,
}

impl Failure {
    /// True when the other follows from this one.
    fn implies(&self, other: &Self) -> bool {
        self.covers(other.size, &other.share, other.count, other.reach)
    }

    fn covers(&self, size: Size, share: &Capacity, count: i64, reach: Reach) -> bool {
        self.count <= count && self.reach >= reach && self.size.is_within(size) && share.holds(&self.share)
    }
}

impl Hopeless {
    /// So many shares found no place within `reach`.
    pub(super) fn note(&mut self, share: &Capacity, count: i64, reach: Reach) {
        let failure = Failure { size: Size::of(share), share: share.clone(), reach, count };
        self.failures.retain(|known| !failure.implies(known));
        if self.failures.len() < MOST {
            self.failures.push(failure);
        }
    }

    /// True when it follows from what failed that so many shares find no place within `reach`.
    pub(super) fn contains(&self, share: &Capacity, count: i64, reach: Reach) -> bool {
        let size = Size::of(share);
        self.failures.iter().any(|failure| failure.covers(size, share, count, reach))
    }
}
