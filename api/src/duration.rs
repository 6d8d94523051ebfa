//! The one form of a duration on the wire: hours, minutes and seconds, as in `1h30m`, `90s`, `168h`.
//!
//! A subset of Go's form, so that `duration()` in a CEL rule and people used to Kubernetes read it alike. Fractions,
//! signs and other units are refused by the schema. Whole seconds are the finest grain any rule here needs.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The pattern in the schema. That at least one unit is there is held by `minLength`.
pub const PATTERN: &str = "^([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?$";

/// Longest duration: ten years of 365 days.
pub const MAX: Duration = Duration { seconds: 87_600 * 3600 };

/// A span of whole seconds, from nothing to [`MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    seconds: i64,
}

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDuration {
    text: String,
}

impl Duration {
    /// A duration of that many seconds; values outside nothing to [`MAX`] become the nearer end.
    pub const fn from_secs(seconds: i64) -> Self {
        let seconds = if seconds < 0 {
            0
        } else if seconds > MAX.seconds {
            MAX.seconds
        } else {
            seconds
        };
        Self { seconds }
    }

    /// A duration of that many minutes, within the same limits.
    pub const fn from_mins(minutes: i64) -> Self {
        Self::from_secs(minutes.saturating_mul(60))
    }

    /// A duration of that many hours, within the same limits.
    pub const fn from_hours(hours: i64) -> Self {
        Self::from_secs(hours.saturating_mul(3600))
    }

    /// The number of seconds.
    pub const fn as_secs(self) -> i64 {
        self.seconds
    }
}

impl From<Duration> for jiff::SignedDuration {
    fn from(duration: Duration) -> Self {
        Self::from_secs(duration.seconds)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.seconds / 3600, self.seconds % 3600 / 60, self.seconds % 60);
        let mut text = String::new();
        for (count, unit) in [(hours, 'h'), (minutes, 'm'), (seconds, 's')] {
            if count > 0 {
                text.push_str(&count.to_string());
                text.push(unit);
            }
        }
        f.pad(if text.is_empty() { "0s" } else { &text })
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration { text: text.to_owned() };
        let mut rest = text;
        let mut seconds = 0_i64;
        for (unit, worth, digits) in [('h', 3600, 5), ('m', 60, 7), ('s', 1, 9)] {
            let Some((count, after)) = rest.split_once(unit) else { continue };
            if count.is_empty() || count.len() > digits || !count.bytes().all(|b| b.is_ascii_digit()) {
                return Err(invalid());
            }
            seconds += count.parse::<i64>().map_err(|_| invalid())? * worth;
            rest = after;
        }
        if text.is_empty() || !rest.is_empty() || seconds > MAX.seconds {
            return Err(invalid());
        }
        Ok(Self { seconds })
    }
}

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a duration: write hours, minutes and seconds, as in 90s, 20m or 1h30m",
            self.text
        )
    }
}

impl std::error::Error for InvalidDuration {}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 24, "pattern": PATTERN})
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_alone_and_all_together_are_read() {
        for (text, seconds) in
            [("90s", 90), ("20m", 1200), ("168h", 604_800), ("1h30m", 5400), ("1h2m3s", 3723), ("0s", 0)]
        {
            assert_eq!(text.parse::<Duration>().unwrap().as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "5", "h", "-1h", "1.5h", "30m1h", "1d", "1h 30m", "P7D", "1hh", "100000h", "87601h", "１h"]
        {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_written_form_is_canonical_and_read_back() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (5400, "1h30m"), (604_800, "168h"), (3601, "1h1s")]
        {
            let duration = Duration::from_secs(seconds);
            assert_eq!(duration.to_string(), text);
            assert_eq!(text.parse(), Ok(duration));
            assert_eq!(serde_json::to_string(&duration).unwrap(), format!("\"{text}\""));
        }
    }

    #[test]
    fn what_is_built_stays_within_the_limits() {
        assert_eq!(Duration::from_secs(-5).as_secs(), 0);
        assert_eq!(Duration::from_hours(i64::MAX), MAX);
    }
}
