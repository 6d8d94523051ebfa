//! What a run of `cargo test` has really tested, read from what it prints.
//!
//! * [`expected`]: the test targets that a set of packages has, from `cargo metadata`.
//! * [`output`]: the targets that ran, and what each counted, from cargo's output.
//! * [`Tally`]: both held against each other, for people and for an exit code.
//!
//! A green exit code of `cargo test` says that nothing failed, not that everything ran: an ignored test, a filter, a
//! target that is switched off in its manifest or a file of tests without a test are all green. They are faults here.
//! Pure but for [`expected::read`]; called by the program `tally`, which `make test` runs `cargo test` with.

pub mod expected;
pub mod output;

use std::fmt;

/// One thing that `cargo test` runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The unit tests of a library or a program.
    Unit {
        /// Its root file, from the folder of its package.
        path: String,
        /// The crate, as a file is named after it.
        name: String,
    },
    /// A file of tests: there to have tests.
    Tests {
        /// The file, from the folder of its package.
        path: String,
        /// The crate, as a file is named after it.
        name: String,
    },
    /// The examples in the documentation of a library.
    Doc {
        /// The library's crate.
        name: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit { path, name } => write!(f, "unit tests of {name} ({path})"),
            Self::Tests { path, name } => write!(f, "{path} ({name})"),
            Self::Doc { name } => write!(f, "doc tests of {name}"),
        }
    }
}

/// What one target counted, summed over the lines it printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests marked as not to be run.
    pub ignored: usize,
    /// Tests that a filter left out.
    pub filtered: usize,
    /// Closing lines it printed: a harness that ends without one has tested nobody knows what.
    pub lines: usize,
}

/// What ran, held against what there is.
#[derive(Debug)]
pub struct Tally {
    sum: Counts,
    faults: Vec<String>,
}

impl Tally {
    /// Compares. Targets of one name and path in several packages are told apart by their number only.
    pub fn of(ran: &[(Target, Counts)], expected: &[Target]) -> Self {
        let mut sum = Counts::default();
        let mut faults = Vec::new();
        for (target, counts) in ran {
            sum.passed += counts.passed;
            sum.failed += counts.failed;
            sum.ignored += counts.ignored;
            sum.filtered += counts.filtered;
            let mut fault = |what: String| faults.push(format!("{target}: {what}"));
            if counts.lines == 0 {
                fault("ended without a line `test result:`".to_owned());
            } else if matches!(target, Target::Tests { .. }) && counts.total() == 0 {
                fault("is a file of tests and has none".to_owned());
            }
            if counts.ignored > 0 {
                fault(format!("{} ignored", counts.ignored));
            }
            if counts.filtered > 0 {
                fault(format!("{} filtered out", counts.filtered));
            }
        }
        let mut left: Vec<&Target> = ran.iter().map(|(target, _)| target).collect();
        for target in expected {
            match left.iter().position(|one| *one == target) {
                Some(at) => drop(left.swap_remove(at)),
                None => faults.push(format!("{target}: did not run")),
            }
        }
        Self { sum, faults }
    }

    /// What was left out, a line for each.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Counts {
    fn total(self) -> usize {
        self.passed + self.failed + self.ignored + self.filtered
    }
}

/// The closing line.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { passed, failed, ignored, filtered, lines: _ } = self.sum;
        write!(f, "{passed} passed, {failed} failed, {} skipped", ignored + filtered)
    }
}
