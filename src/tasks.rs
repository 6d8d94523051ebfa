//! The long-running tasks of the process, and the rule that they live and die together.
//!
//! A task that ends by itself, fails or panics is a fault: a controller that silently stopped is worse than a process
//! that restarts. On the first fault all tasks are dropped where they are, as a crash would do, and nothing more is
//! written. On a request to shut down the token is cancelled, and every task finishes the step it is in and returns.
//! [`Tasks::run`] reports the fault, and `main` turns it into an exit code.

use std::{error::Error as StdError, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long tasks may take to finish their step after the token is cancelled: longer than the time limit of a
/// request (10 s), shorter than the 30 s after which a kubelet kills.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// Why the process stops other than by request.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A task that should run as long as the process has returned.
    #[error("task {task} ended although nobody asked it to")]
    Ended {
        /// The task's name.
        task: &'static str,
    },
    /// A task has failed in a way it cannot recover from.
    #[error("task {task} failed")]
    Failed {
        /// The task's name.
        task: &'static str,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A task has panicked.
    #[error("task {task} panicked: {message}")]
    Panicked {
        /// The task's name.
        task: &'static str,
        /// What the panic said.
        message: String,
    },
    /// Tasks did not finish in time after the token was cancelled.
    #[error("{} task(s) did not finish within {within:?} of being asked to", .count)]
    Stuck {
        /// How many.
        count: usize,
        /// The time they had.
        within: Duration,
    },
}

type Ended = (&'static str, Result<(), Box<dyn StdError + Send + Sync>>);

/// A set of tasks that share one token.
#[derive(Debug)]
pub struct Tasks {
    token: CancellationToken,
    set: JoinSet<Result<Ended, Fault>>,
}

impl Tasks {
    /// An empty set under this token.
    pub fn new(token: CancellationToken) -> Self {
        Self { token, set: JoinSet::new() }
    }

    /// The token that asks all tasks to finish.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts a task that must run until the token is cancelled.
    pub fn spawn<E>(
        &mut self,
        task: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.set.spawn(async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(result) => Ok((task, result.map_err(Into::into))),
                Err(panic) => Err(Fault::Panicked { task, message: panic_message(panic.as_ref()) }),
            }
        });
    }

    /// Runs until the token is cancelled and all tasks have finished, or until the first fault, at which all other
    /// tasks are dropped.
    pub async fn run(mut self) -> Result<(), Fault> {
        let token = self.token.clone();
        while !token.is_cancelled() {
            tokio::select! {
                () = token.cancelled() => {}
                ended = self.set.join_next() => match ended {
                    Some(ended) => Self::judge(ended, token.is_cancelled())?,
                    None => token.cancelled().await,
                },
            }
        }
        let rest = async {
            while let Some(ended) = self.set.join_next().await {
                Self::judge(ended, true)?;
            }
            Ok(())
        };
        let finished = tokio::time::timeout(FINISH_WITHIN, rest).await;
        finished.unwrap_or_else(|_| Err(Fault::Stuck { count: self.set.len(), within: FINISH_WITHIN }))
    }

    fn judge(
        ended: Result<Result<Ended, Fault>, tokio::task::JoinError>,
        may_end: bool,
    ) -> Result<(), Fault> {
        match ended {
            Ok(Ok((_, Ok(())))) if may_end => Ok(()),
            Ok(Ok((task, Ok(())))) => Err(Fault::Ended { task }),
            Ok(Ok((task, Err(source)))) => Err(Fault::Failed { task, source }),
            Ok(Err(fault)) => Err(fault),
            Err(join) => Err(Fault::Panicked { task: "unknown", message: join.to_string() }),
        }
    }
}

/// The text of a panic, as far as it has one.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Anything = Box<dyn StdError + Send + Sync>;

    async fn until(token: CancellationToken) -> Result<(), Anything> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_to_stop_is_no_fault() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let token = tasks.token();
        tasks.spawn("one", until(token.clone()));
        tasks.spawn("two", until(token.clone()));
        let running = tokio::spawn(tasks.run());
        tokio::task::yield_now().await;
        assert!(!running.is_finished());
        token.cancel();
        running.await.expect("no panic").expect("no fault");
    }

    #[tokio::test(start_paused = true)]
    async fn one_panic_stops_all() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let steady = std::sync::Arc::new(());
        let held = steady.clone();
        tasks.spawn("steady", async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok::<(), Anything>(())
        });
        tasks.spawn("broken", async {
            if true { panic!("index out of range") } else { Ok::<(), Anything>(()) }
        });
        let fault = tasks.run().await.expect_err("a panic is a fault");
        assert_eq!(fault.to_string(), "task broken panicked: index out of range");
        tokio::task::yield_now().await;
        assert_eq!(std::sync::Arc::strong_count(&steady), 1, "the other task was dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_returns_is_a_fault_and_so_is_one_that_fails() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("short", async { Ok::<(), Anything>(()) });
        let fault = tasks.run().await.expect_err("ending is a fault");
        assert_eq!(fault.to_string(), "task short ended although nobody asked it to");

        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("bad", async { Err::<(), Anything>("lease lost".into()) });
        let fault = tasks.run().await.expect_err("failing is a fault");
        assert_eq!(fault.source().map(ToString::to_string).as_deref(), Some("lease lost"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_finish_is_named_a_fault() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("deaf", std::future::pending::<Result<(), Anything>>());
        tasks.token().cancel();
        let fault = tasks.run().await.expect_err("not finishing is a fault");
        assert!(matches!(fault, Fault::Stuck { count: 1, .. }), "{fault}");
    }
}
