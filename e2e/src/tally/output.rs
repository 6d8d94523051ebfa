//! What `cargo test` prints, as targets and their counts.
//!
//! In: standard output and standard error in the order they were written, without colours, cargo not quiet. Every
//! harness of the workspace ends with libtest's line `test result:`; so does datatest's.

use super::{Counts, Target};

/// Targets in the order they ran.
pub fn read(output: &str) -> Vec<(Target, Counts)> {
    let mut ran: Vec<(Target, Counts)> = Vec::new();
    for line in output.lines() {
        if let Some(target) = started(line) {
            ran.push((target, Counts::default()));
        } else if let Some(counts) = closing(line)
            && let Some((_, sum)) = ran.last_mut()
        {
            // The examples of one library may be run in several lots, each with a line of its own.
            sum.passed += counts.passed;
            sum.failed += counts.failed;
            sum.ignored += counts.ignored;
            sum.filtered += counts.filtered;
            sum.lines += 1;
        }
    }
    ran
}

/// `     Running unittests src/lib.rs (target/debug/deps/trainyard-0f…)`, `     Running tests/process.rs (…)`,
/// `   Doc-tests trainyard_api`.
fn started(line: &str) -> Option<Target> {
    if let Some(name) = line.strip_prefix("   Doc-tests ") {
        return Some(Target::Doc { name: name.to_owned() });
    }
    let (what, program) = line.strip_prefix("     Running ")?.strip_suffix(')')?.split_once(" (")?;
    let name = program.rsplit('/').next()?.rsplit_once('-')?.0.to_owned();
    Some(match what.strip_prefix("unittests ") {
        Some(path) => Target::Unit { path: path.to_owned(), name },
        None => Target::Tests { path: what.to_owned(), name },
    })
}

/// `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`. Whatever a child
/// process of a test wrote before it on the line does not matter.
fn closing(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let number = |what: &str| {
        numbers.split("; ").find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        ignored: number("ignored")?,
        filtered: number("filtered out")?,
        lines: 1,
    })
}
