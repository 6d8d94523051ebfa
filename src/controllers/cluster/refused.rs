//! Runs whose status cannot be written, so that they keep nobody else waiting.
//!
//! What a plan asks for on behalf of a run rests on what is noted in that run's status: the clock of its gang, for one. A run
//! of which that cannot be written (a policy of somebody's, an object that its schema refuses) is left out of the queue
//! for a while, and then tried again; until it is written, nothing is asked for in its name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use trainyard_planner::RunId;

use crate::kubernetes::error::{Error, ErrorKind};

/// First and longest time for which a run is left out. Somebody who mends a policy waits no longer than that.
const LEFT_OUT: (SignedDuration, SignedDuration) =
    (SignedDuration::from_secs(10), SignedDuration::from_mins(5));

/// A run of which nothing was written for so long, refused or not, is gone or waits no more.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// So many times in a row an API server that does not answer is taken for one that has trouble with everything.
const NO_ANSWERS: u32 = 3;

/// Runs by UID.
#[derive(Default)]
pub struct Refused {
    runs: Mutex<HashMap<String, Refusal>>,
}

#[derive(Clone, Copy)]
struct Refusal {
    in_a_row: u32,
    wait: SignedDuration,
    last: Timestamp,
    /// Left out until then, if it is.
    until: Option<Timestamp>,
}

impl Refused {
    /// Notes what came of a write of the run's status. That it changed or is gone says nothing.
    pub fn note(&self, run: &RunId, result: Result<(), &Error>, now: Timestamp) {
        let Err(error) = result else {
            self.lock().remove(&run.uid);
            return;
        };
        let is_final = match error.kind() {
            ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::AlreadyExists => return,
            ErrorKind::Forbidden | ErrorKind::Invalid | ErrorKind::Bug => true,
            ErrorKind::Throttled | ErrorKind::Unavailable => false,
        };
        let (first, longest) = LEFT_OUT;
        let mut runs = self.lock();
        runs.retain(|_, known| now.duration_since(known.last) < FORGOTTEN_AFTER);
        let known = runs.entry(run.uid.clone()).or_insert(Refusal {
            in_a_row: 0,
            wait: first,
            last: now,
            until: None,
        });
        known.in_a_row += 1;
        known.last = now;
        if is_final || known.in_a_row >= NO_ANSWERS {
            known.wait = known.until.map_or(first, |_| (known.wait * 2).min(longest));
            known.until = now.checked_add(known.wait).ok();
            tracing::warn!(run = %run, error = error.chain(), "its status cannot be written; it is left out of the queue for a while");
        }
    }

    /// Until when the run is left out, if it is.
    pub fn left_out_until(&self, run: &RunId, now: Timestamp) -> Option<Timestamp> {
        self.lock().get(&run.uid)?.until.filter(|until| *until > now)
    }

    /// Whether the last writes of its status failed, so that nothing may be done in its name before one has succeeded.
    pub fn is_on_trial(&self, run: &RunId) -> bool {
        self.lock().contains_key(&run.uid)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Refusal>> {
        // Nothing that can panic runs under this lock.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
