//! Runs whose status cannot be written, so that they keep nobody else waiting.
//!
//! What a plan asks for on behalf of a run rests on what is noted in that run's status: the clock of its gang, for one. A run
//! of which that cannot be written (a policy of somebody's, an object that its schema refuses) is left out of the queue
//! for a while, and then tried again; until it is written, nothing is asked for in its name. One whose allocation was refused
//! although its place in the queue can be written is only queued again when the API server says, rehearsing, that it would take
//! an allocation: else it would be given machines again and again, and use none.

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

/// What of a run's status was written, or was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Its place in the queue.
    Queue,
    /// Its allocation.
    Allocation,
}

/// What may be done for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Nothing is known against it.
    None,
    /// It is left out until then.
    LeftOut(Timestamp),
    /// It was left out, and its allocation is to be rehearsed before it is queued again.
    Rehearse,
    /// It is queued, and nothing may be done in its name before its place in the queue is written.
    Queued,
}

#[derive(Clone, Copy)]
struct Refusal {
    in_a_row: u32,
    wait: SignedDuration,
    last: Timestamp,
    /// Left out until then, if it is.
    until: Option<Timestamp>,
    /// It is an allocation that was refused, and none has been taken since.
    of_allocation: bool,
    /// An allocation was rehearsed since, and would be taken.
    is_rehearsed: bool,
}

impl Refused {
    /// Notes what came of a write of that part of the run's status. That it changed or is gone says nothing.
    pub fn note(&self, run: &RunId, part: Written, result: Result<(), &Error>, now: Timestamp) {
        let mut runs = self.lock();
        let Err(error) = result else {
            // That its place in the queue can be written says nothing of an allocation that was refused.
            let known_otherwise = |known: &Refusal| known.of_allocation && part == Written::Queue;
            if !runs.get(&run.uid).is_some_and(known_otherwise) {
                runs.remove(&run.uid);
            }
            return;
        };
        let is_final = match error.kind() {
            ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::AlreadyExists => return,
            ErrorKind::Forbidden | ErrorKind::Invalid | ErrorKind::Bug => true,
            ErrorKind::Throttled | ErrorKind::Unavailable => false,
        };
        let (first, longest) = LEFT_OUT;
        runs.retain(|_, known| now.duration_since(known.last) < FORGOTTEN_AFTER);
        let known = runs.entry(run.uid.clone()).or_insert(Refusal {
            in_a_row: 0,
            wait: first,
            last: now,
            until: None,
            of_allocation: false,
            is_rehearsed: false,
        });
        known.in_a_row += 1;
        known.last = now;
        known.of_allocation |= part == Written::Allocation;
        known.is_rehearsed = false;
        if is_final || known.in_a_row >= NO_ANSWERS {
            known.wait = known.until.map_or(first, |_| (known.wait * 2).min(longest));
            known.until = now.checked_add(known.wait).ok();
            tracing::warn!(run = %run, error = error.chain(), "its status cannot be written; it is left out of the queue for a while");
        }
    }

    /// Notes that an allocation of the run was rehearsed, and would be taken.
    pub fn note_rehearsal(&self, run: &RunId) {
        if let Some(known) = self.lock().get_mut(&run.uid) {
            known.is_rehearsed = true;
        }
    }

    /// What may be done for the run now.
    pub fn trial(&self, run: &RunId, now: Timestamp) -> Trial {
        match self.lock().get(&run.uid) {
            None => Trial::None,
            Some(Refusal { until: Some(until), .. }) if *until > now => Trial::LeftOut(*until),
            Some(Refusal { until: Some(_), of_allocation: true, is_rehearsed: false, .. }) => Trial::Rehearse,
            Some(_) => Trial::Queued,
        }
    }

    /// Whether the run is left out.
    pub fn is_left_out(&self, run: &RunId, now: Timestamp) -> bool {
        matches!(self.trial(run, now), Trial::LeftOut(_))
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
