//! Sums of time that end at the ends of time instead of failing.

use jiff::{SignedDuration, Timestamp};

/// `duration` after `time`.
pub(crate) fn after(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.checked_add(duration).unwrap_or(if duration.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}

/// `duration` before `time`.
pub(crate) fn before(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.checked_sub(duration).unwrap_or(if duration.is_negative() { Timestamp::MAX } else { Timestamp::MIN })
}
