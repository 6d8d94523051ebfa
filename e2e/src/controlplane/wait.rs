//! Bounded waiting: for tests, too, so that none of them sleeps for a guess.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};

/// Calls `probe` until it returns Ok, at most for `limit`, and returns what it returned. An Err means "not yet" and
/// why; the last one is in the error when time is up. `what` completes "waiting for ...".
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let start = Instant::now();
    // Quick at first, since most things take milliseconds; then no load on what is waited for.
    let mut pause = Duration::from_millis(10);
    loop {
        let reason = match probe().await {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        if start.elapsed() > limit {
            return Err(anyhow!("gave up waiting for {what} after {limit:?}: {reason:#}"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
