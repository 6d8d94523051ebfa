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

#[cfg(test)]
mod tests {
    use super::*;

    fn share(accelerators: i64, cpu: i64, memory: i64) -> Capacity {
        let accelerators = [("gpu".to_owned(), accelerators)].into();
        Capacity { cpu_millis: cpu, memory_bytes: memory, pods: 0, accelerators }
    }

    fn after(failures: &[(Capacity, i64, Reach)]) -> Hopeless {
        let mut hopeless = Hopeless::default();
        failures.iter().for_each(|(share, count, reach)| hopeless.note(share, *count, *reach));
        hopeless
    }

    #[test]
    fn what_asks_for_no_less_of_anything_finds_no_place() {
        let hopeless = after(&[(share(2, 20, 200), 2, Reach::Open)]);
        for more in [share(2, 20, 200), share(3, 20, 200), share(2, 21, 200), share(2, 20, 201)] {
            assert!(hopeless.contains(&more, 2, Reach::Open), "{more}");
            assert!(hopeless.contains(&more, 3, Reach::Open), "{more}");
        }
        for other in [share(1, 30, 300), share(3, 19, 300), share(3, 30, 199)] {
            assert!(!hopeless.contains(&other, 2, Reach::Open), "{other}");
        }
    }

    #[test]
    fn fewer_nodes_more_reach_or_another_kind_may_find_one() {
        let hopeless = after(&[(share(2, 20, 200), 2, Reach::Open)]);
        assert!(!hopeless.contains(&share(2, 20, 200), 1, Reach::Open));
        assert!(!hopeless.contains(&share(2, 20, 200), 2, Reach::Reserved));
        let other = Capacity { accelerators: [("fpga".to_owned(), 2)].into(), ..share(0, 20, 200) };
        assert!(!hopeless.contains(&other, 2, Reach::Open));
    }

    #[test]
    fn what_found_nothing_even_among_the_reserved_finds_nothing_in_the_open() {
        let hopeless = after(&[(share(2, 20, 200), 2, Reach::Reserved)]);
        assert!(hopeless.contains(&share(2, 20, 200), 2, Reach::Open));
    }

    #[test]
    fn a_failure_takes_the_place_of_those_that_follow_from_it() {
        let most = MOST as i64;
        let unlike: Vec<_> = (0..most).map(|at| (share(2, 1 + at, most - at), 1, Reach::Open)).collect();
        let mut hopeless = after(&unlike);
        assert!(unlike.iter().all(|(share, count, reach)| hopeless.contains(share, *count, *reach)));
        hopeless.note(&share(1, 1, 1), 1, Reach::Open);
        assert!(hopeless.contains(&share(1, 1, 1), 1, Reach::Open));
        assert_eq!(hopeless.failures.len(), 1);
    }

    #[test]
    fn no_more_are_remembered_than_are_worth_a_look() {
        let unlike = (0..=MOST as i64).map(|at| (share(2, at, 100 - at), 1, Reach::Open));
        assert_eq!(after(&unlike.collect::<Vec<_>>()).failures.len(), MOST);
    }
}
