//! The one source of time.
//!
//! Everything that compares or records an instant takes a [`Clock`]; nothing else in the operator may ask what time
//! it is (`clippy.toml` forbids it). In production that is [`SystemClock`]. In tests it is [`TokioClock`], which
//! advances exactly as tokio's paused timers do, so that a sleep and a timestamp can never disagree.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Tells the time. Cheap, never blocks, never goes back by more than the host's own clock does.
pub trait Clock: Send + Sync + 'static {
    /// The current instant.
    fn now(&self) -> Timestamp;
}

/// A clock that several owners share.
pub type SharedClock = Arc<dyn Clock>;

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The host's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place all other code is sent to")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock tied to tokio's: a fixed start plus the time tokio has counted since.
///
/// Under `#[tokio::test(start_paused = true)]` it stands still until the test advances tokio's time, and then moves
/// by exactly that much.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Timestamp,
    origin: Instant,
}

impl TokioClock {
    /// A clock that reads `start` now. Must be called inside a tokio runtime when its time is paused.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, origin: Instant::now() }
    }
}

impl Default for TokioClock {
    /// Starts at 2030-01-01T00:00:00Z: a round date that no object of a test was created at by accident.
    fn default() -> Self {
        Self::starting_at(Timestamp::constant(1_893_456_000, 0))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.origin.elapsed()).unwrap_or(SignedDuration::MAX);
        self.start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }
}

/// The tokio instant at which `clock` will read `when`; now, if that has passed.
///
/// Timers of the operator are set with this, so that a wake-up computed as a timestamp fires by the paused clock of a
/// test as well as by the wall clock.
pub fn instant_of(when: Timestamp, clock: &dyn Clock) -> Instant {
    let wait = std::time::Duration::try_from(when.duration_since(clock.now())).unwrap_or_default();
    // Ten years, should someone ask for the end of time: an `Instant` cannot hold every `Timestamp`.
    let wait = wait.min(std::time::Duration::from_hours(10 * 365 * 24));
    Instant::now() + wait
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokio_clock_moves_only_with_tokio_time() {
        let clock = TokioClock::default();
        let before = clock.now();
        assert_eq!(clock.now(), before);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().duration_since(before), SignedDuration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn instants_follow_the_clock_and_the_past_is_now() {
        let clock = TokioClock::default();
        let now = Instant::now();
        assert_eq!(
            instant_of(clock.now() + SignedDuration::from_secs(5), &clock),
            now + Duration::from_secs(5)
        );
        assert_eq!(instant_of(clock.now() - SignedDuration::from_secs(5), &clock), now);
        assert!(instant_of(Timestamp::MAX, &clock) > now);
    }

    #[test]
    fn system_clock_is_past_the_release_of_this_file() {
        assert!(SystemClock.now() > Timestamp::constant(1_700_000_000, 0));
    }
}
