//! Times and numbers as people read them.

use jiff::{SignedDuration, Timestamp};

/// A time, to the second.
pub fn at(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// A time, and how far it is from now: `2030-01-01T11:00:00Z (1 h 5 min ago)`.
pub fn when(time: Timestamp, now: Timestamp) -> String {
    let distance = now.duration_since(time);
    match distance.as_secs() {
        0 => format!("{time:.0} (now)"),
        1.. => format!("{time:.0} ({} ago)", length(distance)),
        _ => format!("{time:.0} (in {})", length(-distance)),
    }
}

/// A length of time, by its two largest units: `3 d 4 h`, `5 min 2 s`.
pub fn length(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    let told = units[first..].iter().take(2).enumerate().filter(|(at, (count, _))| *at == 0 || *count > 0);
    told.map(|(_, (count, unit))| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

/// The same as kubectl writes ages: `3d4h`, `5m`.
pub fn age(time: SignedDuration) -> String {
    length(time).replace(' ', "").replace("min", "m")
}

/// `1st`, `2nd`, `11th`.
pub fn ordinal(count: i64) -> String {
    let ending = match (count % 10, count % 100) {
        (1, tens) if tens != 11 => "st",
        (2, tens) if tens != 12 => "nd",
        (3, tens) if tens != 13 => "rd",
        _ => "th",
    };
    format!("{count}{ending}")
}

/// `1 node`, `4 nodes`.
pub fn counted(count: i64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// The first `most`, and how many more there are.
pub fn listed(words: &[String], most: usize) -> String {
    let shown = words.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_its_two_largest_units() {
        let of = |seconds| length(SignedDuration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 3600, 3725, 90_000].map(of),
            ["0 s", "59 s", "1 min", "1 h", "1 h 2 min", "1 d 1 h"]
        );
        assert_eq!(age(SignedDuration::from_secs(3725)), "1h2m");
    }

    #[test]
    fn a_time_says_how_far_it_is_from_now() {
        let time = |second| Timestamp::from_second(second).expect("small numbers of seconds are timestamps");
        assert_eq!(when(time(0), time(61)), "1970-01-01T00:00:00Z (1 min 1 s ago)");
        assert_eq!(when(time(61), time(0)), "1970-01-01T00:01:01Z (in 1 min 1 s)");
    }

    #[test]
    fn numbers_of_an_order_end_as_they_are_spoken() {
        assert_eq!(
            [1, 2, 3, 4, 11, 12, 21, 111].map(ordinal),
            ["1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "111th"]
        );
    }

    #[test]
    fn a_long_list_says_how_much_is_left_out() {
        let words = ["a", "b", "c"].map(ToOwned::to_owned);
        assert_eq!(listed(&words, 3), "a, b, c");
        assert_eq!(listed(&words, 1), "a and 2 more");
    }
}
