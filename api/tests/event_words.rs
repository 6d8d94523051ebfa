//! `docs/events.md` explains every Event that trainyard tells, and none that there is not.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use trainyard_api::names::event::EventReason;

/// The cells of each row of the table whose heading begins with `reason`, without marks.
fn rows(page: &str) -> Vec<[String; 5]> {
    let lines = page.lines().skip_while(|line| !line.starts_with("| reason |")).skip(2);
    lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<String> = line
                .trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().trim_matches('`').to_owned())
                .collect();
            cells.try_into().unwrap_or_else(|cells| panic!("five cells: {cells:?}"))
        })
        .collect()
}

#[test]
fn every_event_is_explained_with_what_it_is_about_and_what_to_do() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let rows = rows(&fs::read_to_string(page).unwrap());
    let told: Vec<[&str; 3]> =
        rows.iter().map(|[reason, about, kind, ..]| [reason, about, kind].map(String::as_str)).collect();
    let set: Vec<[&str; 3]> = EventReason::ALL
        .iter()
        .map(|reason| [reason.as_str(), reason.subject().as_str(), reason.event_type().as_str()])
        .collect();
    assert_eq!(told, set, "the table and EventReason");
    for [reason, _, _, means, next] in &rows {
        assert!(means.len() > 10 && !next.is_empty(), "{reason}: {means:?}, {next:?}");
    }
}

#[test]
fn reasons_are_as_the_api_server_takes_them() {
    for reason in EventReason::ALL {
        let word = reason.as_str();
        let is_camel_case = word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric);
        assert!(is_camel_case && word.len() <= 128, "{word}");
    }
}
