//! Chance that can be repeated: the seed is printed by whoever uses it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `SplitMix64`: enough for choosing moments.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// What it started from.
    pub seed: u64,
}

impl Random {
    /// From the environment variable `TRAINYARD_SEED`, or from the clock.
    #[allow(clippy::disallowed_methods, reason = "a seed is the one thing that shall differ each time")]
    pub fn from_environment() -> Self {
        let given = std::env::var("TRAINYARD_SEED").ok().and_then(|text| text.parse().ok());
        let clock = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_nanos() as u64
        };
        let seed = given.unwrap_or_else(clock);
        Self { state: seed, seed }
    }

    /// A time from zero to `limit`, to the millisecond.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        Duration::from_millis(mixed % (limit.as_millis() as u64 + 1))
    }
}
