//! The lease: of all processes of the operator, one acts.
//!
//! Flow: [`Election::win`] waits until this process holds the Lease object; [`Term::keep`] renews it and returns only
//! when that has failed; [`Term::release`] gives it back.
//!
//! Guarantees:
//! * Every write is a replace with the resourceVersion that was read: of two candidates one gets a conflict.
//! * A holder is considered gone when *we* have seen its lease unchanged for its whole duration, by our own monotonic
//!   clock. No two hosts' clocks are compared.
//! * A holder that cannot renew stops ([`Lost`]) after [`Timing::renew_within`], while the others wait for
//!   [`Timing::duration`]. The caller must end the process then, without finishing anything.
//!
//! Assumption: identities are unique among processes that live at the same time. A process that starts under the
//! identity of one that died (the same pod) goes on with its lease at once.
//!
//! Caveat: a process that was stopped whole (a suspended machine) and wakes notices only at its next step. What it
//! writes before is bound to versions it read, which is what keeps the objects right; the lease only keeps the
//! traffic low.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, ResourceExt as _, core::ObjectMeta};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    apply::{self, Creation},
    error::{Error, ErrorKind},
    read,
};
use crate::{clock::SharedClock, telemetry::readiness::Gate};

/// The manager of the lease's fields.
const MANAGER: &str = "trainyard-lease";

/// The times of an election. The same in every process of one operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long others leave an unchanged lease alone.
    pub duration: Duration,
    /// How long after its last renewal a holder stops. Less than `duration` by the time a process needs to end.
    pub renew_within: Duration,
    /// How long after a renewal the next one follows.
    pub renew_every: Duration,
    /// How long a candidate waits between looks, and a holder after a failed renewal.
    pub retry_every: Duration,
}

impl Default for Timing {
    /// The times of Kubernetes' own controllers (15 s, 10 s, 2 s), renewing every 5 s instead of every 2 s: a third of
    /// the duration leaves two more tries, and a lease is the only thing this operator writes when nothing happens.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            renew_every: Duration::from_secs(5),
            retry_every: Duration::from_secs(2),
        }
    }
}

/// Where the lease is and who this process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidacy {
    /// The namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This process, uniquely.
    pub identity: String,
    /// The times.
    pub timing: Timing,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is free or has expired: take it.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Somebody holds it; it expires at this instant unless renewed.
    Wait(Instant),
}

/// Decides about a lease that we have seen unchanged since `last_change`.
///
/// `duration` is our own; the longer of it and the holder's counts.
pub fn decide(
    lease: &LeaseSpec,
    me: &str,
    duration: Duration,
    last_change: Instant,
    now: Instant,
) -> Decision {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    if holder == me {
        return Decision::Renew;
    }
    let theirs = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    let expiry = last_change + duration.max(Duration::from_secs(theirs));
    if holder.is_empty() || now >= expiry { Decision::Acquire } else { Decision::Wait(expiry) }
}

/// The lease is not, or may not be, ours any more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Lost {
    /// No renewal went through in time.
    #[error("the lease could not be renewed for {0:?}")]
    NotRenewed(Duration),
    /// Somebody else holds it.
    #[error("the lease was taken by {0:?}")]
    Taken(String),
}

/// A process that wants the lease.
pub struct Election {
    api: Api<Lease>,
    candidacy: Candidacy,
    clock: SharedClock,
}

/// The time in which this process holds the lease.
pub struct Term {
    election: Election,
    lease: Lease,
    /// When the last successful renewal was sent; what others have seen of it is later.
    renewed: Instant,
}

impl Election {
    /// A candidate that has done nothing yet.
    pub fn new(client: Client, candidacy: Candidacy, clock: SharedClock) -> Self {
        Self { api: Api::namespaced(client, &candidacy.namespace), candidacy, clock }
    }

    /// Waits until this process holds the lease. Opens `standby` once it is known that another process holds it: a
    /// candidate that waits is as ready as it can be. To be dropped when the process shuts down.
    pub async fn win(self, standby: &mut Gate) -> Term {
        let mut observed: Option<(LeaseSpec, Instant)> = None;
        loop {
            let sent = Instant::now();
            let wait = match self.look(&mut observed).await {
                Ok(Look::Won(lease)) => {
                    tracing::info!(identity = self.candidacy.identity, "holding the lease");
                    return Term { election: self, lease: *lease, renewed: sent };
                }
                Ok(Look::HeldUntil(expiry)) => {
                    standby.open();
                    expiry.saturating_duration_since(Instant::now()).min(self.candidacy.timing.retry_every)
                }
                Err(error) if error.kind() == ErrorKind::Conflict => self.candidacy.timing.retry_every,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "cannot look at the lease; trying again");
                    self.candidacy.timing.retry_every
                }
            };
            // Not zero: a lease that expires this instant is looked at after it has.
            sleep(wait.max(Duration::from_millis(10))).await;
        }
    }

    async fn look(&self, observed: &mut Option<(LeaseSpec, Instant)>) -> Result<Look, Error> {
        let me = &self.candidacy.identity;
        let Some(lease) = read::get(&self.api, &self.candidacy.name).await? else {
            return match apply::create(&self.api, &self.first(), MANAGER).await? {
                Creation::Created(lease) => Ok(Look::Won(Box::new(lease))),
                // Another candidate was faster; the next look sees its lease.
                Creation::AlreadyExists(_) => {
                    Ok(Look::HeldUntil(Instant::now() + self.candidacy.timing.retry_every))
                }
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let now = Instant::now();
        let last_change = match observed {
            Some((before, since)) if *before == spec => *since,
            _ => now,
        };
        *observed = Some((spec.clone(), last_change));
        match decide(&spec, me, self.candidacy.timing.duration, last_change, now) {
            Decision::Wait(expiry) => Ok(Look::HeldUntil(expiry)),
            Decision::Renew | Decision::Acquire => {
                let lease = self.held(lease);
                Ok(Look::Won(Box::new(apply::replace(&self.api, &lease, MANAGER).await?)))
            }
        }
    }

    fn first(&self) -> Lease {
        let metadata = ObjectMeta { name: Some(self.candidacy.name.clone()), ..ObjectMeta::default() };
        self.held(Lease { metadata, spec: None })
    }

    /// The lease as this process holds it from now.
    fn held(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(self.clock.now());
        let before = lease.spec.take().unwrap_or_default();
        let was_mine = before.holder_identity.as_ref() == Some(&self.candidacy.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        let is_first = before.renew_time.is_none();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.candidacy.identity.clone()),
            lease_duration_seconds: i32::try_from(self.candidacy.timing.duration.as_secs()).ok(),
            acquire_time: if was_mine { before.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if was_mine || is_first { transitions } else { transitions + 1 }),
            ..before
        });
        lease
    }
}

enum Look {
    Won(Box<Lease>),
    HeldUntil(Instant),
}

impl Term {
    /// Renews the lease for as long as that works. Whoever gets an answer must end the process at once.
    pub async fn keep(&mut self) -> Lost {
        let timing = self.election.candidacy.timing;
        let mut next = self.renewed + timing.renew_every;
        loop {
            let deadline = self.renewed + timing.renew_within;
            sleep_until(next.min(deadline)).await;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Lost::NotRenewed(timing.renew_within);
            }
            let sent = Instant::now();
            // Also ends a try that hangs before the client's own time limit does, so that a second one fits in.
            let limit = left.min(timing.renew_within / 3);
            match timeout(limit, self.renew()).await {
                Ok(Ok(())) => {
                    self.renewed = sent;
                    next = sent + timing.renew_every;
                }
                Ok(Err(Renewal::Taken(by))) => return Lost::Taken(by),
                Ok(Err(Renewal::Failed(error))) => {
                    tracing::warn!(error = error.chain(), ?left, "cannot renew the lease; trying again");
                    next = Instant::now() + timing.retry_every;
                }
                Err(_) => {
                    tracing::warn!(?left, "the lease was not renewed in time; trying again");
                    next = Instant::now();
                }
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Renewal> {
        let lease = self.election.held(self.lease.clone());
        let error = match apply::replace(&self.election.api, &lease, MANAGER).await {
            Ok(lease) => {
                self.lease = lease;
                return Ok(());
            }
            Err(error) => error,
        };
        if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) {
            return Err(Renewal::Failed(error));
        }
        // It is another version than the one we wrote: a renewal whose answer was lost, an edit by hand, or a new
        // holder. A lease that was deleted may be held by somebody already, so it is not made again here.
        let name = self.lease.name_any();
        let found = read::get(&self.election.api, &name).await.map_err(Renewal::Failed)?;
        let holder = found.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        match found {
            Some(lease) if holder.as_ref() == Some(&self.election.candidacy.identity) => {
                self.lease = lease;
                let lease = self.election.held(self.lease.clone());
                self.lease =
                    apply::replace(&self.election.api, &lease, MANAGER).await.map_err(Renewal::Failed)?;
                Ok(())
            }
            _ => Err(Renewal::Taken(holder.unwrap_or_default())),
        }
    }

    /// Gives the lease back, so that another process need not wait for its expiry. For a clean shutdown, after
    /// everything else has stopped. A failure costs that wait and no more.
    pub async fn release(self) -> Result<(), Error> {
        let Self { election, mut lease, .. } = self;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(election.clock.now()));
        apply::replace(&election.api, &lease, MANAGER).await?;
        tracing::info!(identity = election.candidacy.identity, "released the lease");
        Ok(())
    }
}

enum Renewal {
    Failed(Error),
    Taken(String),
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
