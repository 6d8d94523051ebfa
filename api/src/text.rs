//! Limits of free text in status, and the cut that keeps a write within them.
//!
//! The schema bounds every string; a message longer than its bound would make the API server refuse a whole status.

/// Longest `message` of a status or a condition, in characters.
pub const MESSAGE_MAX: usize = 1024;
/// Longest `reason`, in characters.
pub const REASON_MAX: usize = 128;

/// The text itself, or its first characters and `...`, together at most `max` characters. Line breaks become spaces:
/// a message is one sentence in one line.
pub fn clip(text: &str, max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= max {
        return line;
    }
    let kept = line.chars().take(max.saturating_sub(3)).collect::<String>();
    format!("{kept}...")
}

/// `: words`, or nothing where nobody said why.
pub fn because(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_stays_and_long_text_ends_in_dots() {
        assert_eq!(clip("as it is", 8), "as it is");
        assert_eq!(clip("one line too long", 10), "one lin...");
        assert_eq!(clip("two\n lines", 20), "two lines");
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        assert_eq!(clip(&"é".repeat(9), 9), "é".repeat(9));
        assert_eq!(clip(&"é".repeat(10), 9).chars().count(), 9);
    }
}
