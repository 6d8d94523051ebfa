//! The gates behind `/readyz`.
//!
//! Whoever must have done something before the operator is of use (a watch its first list, the election its first
//! look at the lease) takes a [`Gate`] at start and opens it once. Ready is: every gate taken so far is open. A gate
//! never closes again; what goes wrong later ends the process or shows in metrics.

use std::sync::Arc;

use tokio::sync::watch;

/// All gates. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness {
    pending: Arc<watch::Sender<Vec<String>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { pending: Arc::new(watch::Sender::new(Vec::new())) }
    }
}

impl Readiness {
    /// Takes a gate. Ready will be false until it is opened.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let name = name.into();
        self.pending.send_modify(|pending| pending.push(name.clone()));
        Gate { name, readiness: self.clone() }
    }

    /// The names of the gates that are closed, in the order in which they were taken.
    pub fn pending(&self) -> Vec<String> {
        self.pending.borrow().clone()
    }

    /// Waits until every gate is open; at once when there is none.
    pub async fn reached(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.pending.subscribe().wait_for(Vec::is_empty).await;
    }
}

/// One thing to be done before the operator is ready. Dropping it leaves it closed.
#[derive(Debug)]
pub struct Gate {
    name: String,
    readiness: Readiness,
}

impl Gate {
    /// Says that it is done. Doing so again changes nothing.
    pub fn open(&mut self) {
        let name = std::mem::take(&mut self.name);
        if name.is_empty() {
            return;
        }
        self.readiness.pending.send_if_modified(|pending| {
            let found = pending.iter().position(|one| *one == name);
            found.map(|index| pending.remove(index)).is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_is_reached_when_the_last_gate_opens() {
        let readiness = Readiness::default();
        let (mut runs, mut leader) = (readiness.gate("runs"), readiness.gate("leader"));
        assert_eq!(readiness.pending(), ["runs", "leader"]);
        runs.open();
        runs.open();
        assert_eq!(readiness.pending(), ["leader"]);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.reached().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        leader.open();
        waiting.await.expect("waiting does not panic");
    }

    #[test]
    fn a_dropped_gate_stays_closed() {
        let readiness = Readiness::default();
        drop(readiness.gate("runs"));
        assert_eq!(readiness.pending(), ["runs"]);
    }
}
