//! Machines of one stage in the order in which they are taken, so that a run looks at few of them, however many there are.
//!
//! Tightest first, so that whole nodes stay whole: those of which something is taken before empty ones, and of both what
//! nobody has reserved first.

use std::collections::BTreeSet;

use super::size::Size;
use super::{Bin, Reach};
use crate::capacity::Capacity;

/// See the module. Holds indices of bins; a bin is taken off before it changes and put back afterwards.
#[derive(Default)]
pub(super) struct Shelf {
    open: Places,
    reserved: Places,
}

#[derive(Default)]
struct Places {
    /// Bins of which something is taken, by what is left.
    begun: BTreeSet<(Size, usize)>,
    /// Empty ones, by the order of whole nodes.
    empty: BTreeSet<(usize, usize)>,
}

impl Shelf {
    pub(super) fn put(&mut self, at: usize, bin: &Bin) {
        let places = self.places(bin.reserved);
        if bin.empty {
            places.empty.insert((bin.rank, at));
        } else {
            places.begun.insert((Size::of(&bin.free), at));
        }
    }

    pub(super) fn take_off(&mut self, at: usize, bin: &Bin) {
        let places = self.places(bin.reserved);
        if bin.empty {
            places.empty.remove(&(bin.rank, at));
        } else {
            places.begun.remove(&(Size::of(&bin.free), at));
        }
    }

    /// How many are empty.
    pub(super) fn empty_count(&self, reach: Reach) -> i64 {
        self.within(reach).map(|places| places.empty.len() as i64).sum()
    }

    /// Those that are empty, best first.
    pub(super) fn empty(&self, reach: Reach) -> impl Iterator<Item = usize> {
        self.within(reach).flat_map(|places| places.empty.iter().map(|(_, at)| *at))
    }

    /// Those that hold a share, best first.
    pub(super) fn holding(
        &self,
        share: &Capacity,
        reach: Reach,
        bins: &[Bin],
    ) -> impl Iterator<Item = usize> {
        let begun = self.within(reach).flat_map(move |places| places.large_enough(Size::of(share)));
        begun.chain(self.empty(reach)).filter(move |at| bins[*at].free.holds(share))
    }

    fn within(&self, reach: Reach) -> impl Iterator<Item = &Places> {
        let reserved = (reach == Reach::Reserved).then_some(&self.reserved);
        std::iter::once(&self.open).chain(reserved)
    }

    fn places(&mut self, reserved: bool) -> &mut Places {
        if reserved { &mut self.reserved } else { &mut self.open }
    }
}

impl Places {
    /// Begun ones that are not smaller than `least` in anything. What has too little CPU is jumped over.
    fn large_enough(&self, least: Size) -> impl Iterator<Item = usize> {
        let mut rest = self.begun.range((least, 0)..);
        std::iter::from_fn(move || {
            loop {
                let (size, at) = rest.next()?;
                if size.cpu < least.cpu {
                    rest = self.begun.range((Size { accelerators: size.accelerators, ..least }, 0)..);
                } else if size.memory >= least.memory {
                    return Some(*at);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Service, Stage};
    use super::*;

    fn free(accelerators: i64, cpu: i64, memory: i64) -> Capacity {
        let accelerators = [("gpu".to_owned(), accelerators)].into();
        Capacity { cpu_millis: cpu, memory_bytes: memory, pods: 0, accelerators }
    }

    fn begun(free: Capacity) -> Bin {
        Bin { stage: Stage::Ready, free, empty: false, rank: 0, reserved: false, service: Service::Open }
    }

    fn empty(rank: usize) -> Bin {
        Bin { empty: true, rank, ..begun(free(8, 80, 80)) }
    }

    fn reserved(bin: Bin) -> Bin {
        Bin { reserved: true, ..bin }
    }

    /// Which of these bins hold the share, in order.
    fn holding(bins: &[Bin], share: &Capacity, reach: Reach) -> Vec<usize> {
        let mut shelf = Shelf::default();
        bins.iter().enumerate().for_each(|(at, bin)| shelf.put(at, bin));
        shelf.holding(share, reach, bins).collect()
    }

    #[test]
    fn the_tightest_is_first_and_empty_ones_are_last_by_rank() {
        let bins = [
            empty(2),
            begun(free(4, 40, 40)),
            empty(1),
            begun(free(3, 50, 50)),
            begun(free(4, 30, 60)),
            begun(free(4, 30, 50)),
            begun(free(2, 90, 90)),
        ];
        assert_eq!(holding(&bins, &free(3, 30, 30), Reach::Open), [3, 5, 4, 1, 2, 0]);
    }

    #[test]
    fn what_nobody_has_reserved_is_first_among_begun_and_among_empty_ones() {
        let bins = [reserved(empty(1)), empty(2), reserved(begun(free(2, 20, 20))), begun(free(4, 40, 40))];
        assert_eq!(holding(&bins, &free(2, 20, 20), Reach::Open), [3, 1]);
        assert_eq!(holding(&bins, &free(2, 20, 20), Reach::Reserved), [3, 2, 1, 0]);
    }

    #[test]
    fn one_that_lacks_something_hides_none_that_lacks_nothing() {
        let bins = [
            begun(free(2, 10, 90)),
            begun(free(2, 40, 10)),
            begun(free(2, 50, 40)),
            begun(free(3, 10, 90)),
            begun(free(3, 90, 10)),
            begun(free(3, 91, 41)),
            begun(free(4, 39, 90)),
            begun(free(4, 40, 40)),
        ];
        assert_eq!(holding(&bins, &free(2, 40, 40), Reach::Open), [2, 5, 7]);
    }

    #[test]
    fn more_taken_of_one_kind_than_there_is_takes_nothing_of_another() {
        let mixed =
            Capacity { accelerators: [("fpga".into(), -3), ("gpu".into(), 2)].into(), ..free(0, 20, 20) };
        assert_eq!(holding(&[begun(mixed)], &free(2, 20, 20), Reach::Open), [0]);
    }

    #[test]
    fn what_is_taken_off_is_not_offered_and_not_counted() {
        let bins = [empty(0), begun(free(2, 20, 20)), reserved(empty(1))];
        let mut shelf = Shelf::default();
        bins.iter().enumerate().for_each(|(at, bin)| shelf.put(at, bin));
        assert_eq!([Reach::Open, Reach::Reserved].map(|reach| shelf.empty_count(reach)), [1, 2]);
        bins.iter().enumerate().for_each(|(at, bin)| shelf.take_off(at, bin));
        assert_eq!(shelf.holding(&free(0, 0, 0), Reach::Reserved, &bins).count(), 0);
        assert_eq!(shelf.empty_count(Reach::Reserved), 0);
    }
}
