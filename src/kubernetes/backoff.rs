//! How long something that failed must wait before it is tried again.
//!
//! Exponential, capped, with a jitter that comes from a hash and not from chance: two objects that fail together are
//! tried apart, and a test sees the same waits every time. [`Backoff`] keeps one count per key; whoever owns it says
//! what failed and what succeeded, and asks how long is left.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

/// The shape of a back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// No wait is longer, jitter included.
    pub longest: Duration,
}

impl Waits {
    /// The wait after this many failures in a row (1 or more): doubling from `first`, less a quarter at most, and
    /// never beyond `longest`. `what` spreads the waits of different things.
    pub fn after(self, failures: u32, what: impl Hash) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        // Fixed keys: the same process, and the next one, wait the same for the same thing.
        let hash =
            std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one((what, failures));
        full.mul_f64(1.0 - (hash % 1000) as f64 / 4000.0)
    }
}

/// Failures in a row, by key.
#[derive(Debug)]
pub struct Backoff<K> {
    waits: Waits,
    failing: HashMap<K, Failing>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    failures: u32,
    until: Timestamp,
}

impl<K: Hash + Eq + Clone> Backoff<K> {
    /// Nothing has failed yet.
    pub fn new(waits: Waits) -> Self {
        Self { waits, failing: HashMap::new() }
    }

    /// Counts a failure and returns the instant before which `key` is not to be tried again. A server that asked for
    /// a longer wait (`at_least`) gets it.
    pub fn failed(&mut self, key: &K, now: Timestamp, at_least: Duration) -> Timestamp {
        let failures = self.failing.get(key).map_or(0, |failing| failing.failures).saturating_add(1);
        let wait = self.waits.after(failures, key).max(at_least);
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        let until = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
        self.failing.insert(key.clone(), Failing { failures, until });
        until
    }

    /// Forgets the failures of `key`: it succeeded, or is gone.
    pub fn clear(&mut self, key: &K) {
        self.failing.remove(key);
    }

    /// How much of its wait `key` has left; `None` when it may be tried.
    pub fn remaining(&self, key: &K, now: Timestamp) -> Option<SignedDuration> {
        let left = self.failing.get(key)?.until.duration_since(now);
        left.is_positive().then_some(left)
    }

    /// How often in a row `key` has failed.
    pub fn failures(&self, key: &K) -> u32 {
        self.failing.get(key).map_or(0, |failing| failing.failures)
    }

    /// How many keys are failing.
    pub fn len(&self) -> usize {
        self.failing.len()
    }

    /// Whether nothing is failing.
    pub fn is_empty(&self) -> bool {
        self.failing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits { first: Duration::from_secs(1), longest: Duration::from_mins(1) };
    const START: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn waits_double_within_their_jitter_up_to_the_longest() {
        for (failures, full) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)] {
            let wait = WAITS.after(failures, "a");
            let full = Duration::from_secs(full);
            assert!(wait <= full && wait >= full.mul_f64(0.75), "{failures} failures wait {wait:?}");
        }
    }

    #[test]
    fn waits_are_the_same_every_time_and_differ_between_things() {
        assert_eq!(WAITS.after(7, "a"), WAITS.after(7, "a"));
        let distinct: std::collections::BTreeSet<_> = (0..20).map(|key| WAITS.after(7, key)).collect();
        assert!(distinct.len() > 15, "{distinct:?}");
    }

    #[test]
    fn success_and_deletion_forget_and_keys_do_not_mix() {
        let mut backoff = Backoff::new(WAITS);
        let until = backoff.failed(&"a", START, Duration::ZERO);
        backoff.failed(&"a", START, Duration::ZERO);
        assert_eq!((backoff.failures(&"a"), backoff.failures(&"b")), (2, 0));
        assert!(backoff.remaining(&"a", until).is_some(), "the second wait is longer");
        assert_eq!(backoff.remaining(&"b", START), None);
        assert_eq!(backoff.remaining(&"a", START + SignedDuration::from_secs(2)), None);
        backoff.clear(&"a");
        assert!(backoff.is_empty());
    }

    #[test]
    fn a_server_that_asks_for_more_gets_it() {
        let mut backoff = Backoff::new(WAITS);
        let until = backoff.failed(&"a", START, Duration::from_mins(5));
        assert_eq!(until, START + SignedDuration::from_mins(5));
        assert_eq!(backoff.remaining(&"a", START), Some(SignedDuration::from_mins(5)));
    }
}
