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
