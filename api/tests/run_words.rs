//! `docs/run.md` explains every word of a Run's status, and no word that there is not.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use trainyard_api::conditions::RunCondition;
use trainyard_api::run_status::{
    AcceptedReason, AttemptCause, DirectiveKind, DirectiveReason, GivenUp, HoldReason, QueueReason, RunPhase,
    RunReason,
};

/// The first cells, without their marks, of the table whose heading begins with `title`.
fn words(page: &str, title: &str) -> Vec<String> {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(&format!("| {title} |")));
    assert!(lines.next().is_some(), "no table of {title}");
    lines
        .skip(1)
        .map_while(|line| line.strip_prefix("| `")?.split_once('`').map(|(word, _)| word.to_owned()))
        .collect()
}

/// The wire texts of a closed set but for the one that stands for what is not known.
fn known(all: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    all.into_iter().filter(|text| *text != "Unknown").map(ToOwned::to_owned).collect()
}

macro_rules! table {
    ($page:expr, $title:literal, $set:ty) => {
        let set = known(<$set>::ALL.iter().map(|one| one.as_str()));
        assert_eq!(words($page, $title), set, "the table of {} and {}", $title, stringify!($set));
    };
}

#[test]
fn every_word_of_a_run_is_explained() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/run.md");
    let page = fs::read_to_string(page).unwrap();
    let (before, queue) = page.split_once("## The queue").unwrap();
    table!(before, "phase", RunPhase);
    table!(before, "reason", RunReason);
    table!(queue, "reason", QueueReason);
    table!(queue, "hold", HoldReason);
    table!(queue, "given up", GivenUp);
    table!(queue, "cause", AttemptCause);
    table!(queue, "directive", DirectiveKind);
    table!(queue, "why", DirectiveReason);
    table!(queue, "condition", RunCondition);
    table!(queue, "accepted", AcceptedReason);
}

#[test]
fn a_table_is_read_from_its_heading_to_its_end() {
    let page = "| reason | means |\n|---|---|\n| `A` | a |\n| `B` | b |\n\n| `C` | c |\n";
    assert_eq!(words(page, "reason"), ["A", "B"]);
}
