//! How many worlds a test tries, and which.

use proptest::test_runner::{Config, RngSeed};

/// `count` cases, or more if `PROPTEST_CASES` says so; the same ones each time, unless `PROPTEST_RNG_SEED` gives another seed.
/// Whoever hunts for faults gives one after the other; whoever checks a change must not find those of others.
pub fn cases(count: u32) -> Config {
    let default = Config::default();
    let cases = default.cases.max(count);
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        given @ RngSeed::Fixed(_) => given,
    };
    Config { cases, failure_persistence: None, max_shrink_iters: 3_000, rng_seed, ..default }
}
