//! Failure memory: which refusals of machines are waited out, and until when.
//!
//! In: the stored memory and the nodes with their failures. Out: the memory to store, and the instant at which a zone may be
//! asked again. One refusal is counted once, however long its node stays in sight, and the refusals of one gang count as
//! one: a failure counts only when its node was asked for after the last failure that did. That instant is not
//! stored; it follows from `until`, because the delay of each count is a function.

use jiff::{SignedDuration, Timestamp};

use crate::clock;
use crate::identity::Zone;
use crate::snapshot::{Backoff, FailureCause, Node, Placement, Snapshot};

/// As many entries as the status of a Cluster holds.
const MOST_ENTRIES: usize = 8;

/// An entry whose end is this long past is forgotten. Longer than the longest boot limit of an engine, so that
/// a machine asked for at the end of a back-off that fails only at its boot limit still counts as the next failure.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// The memory as of this plan.
pub(crate) struct Refusals {
    entries: Vec<Backoff>,
}

impl Refusals {
    /// Adds what failed since the memory was stored, and drops what is disproved or old.
    pub(crate) fn absorb(snapshot: &Snapshot, now: Timestamp) -> Self {
        let mut entries = snapshot.backoff.clone();
        let mut failed: Vec<_> = snapshot
            .nodes
            .iter()
            .filter_map(|node| Some((node.failure.as_ref()?, node)))
            .filter(|(failure, node)| is_refusal(failure.cause, node) && !is_counted(failure.cause, snapshot))
            .collect();
        failed.sort_by_key(|(failure, node)| (failure.at, node.ordinal));
        for (failure, node) in failed {
            let zone = scope(failure.cause, node, snapshot);
            let known = entries.iter().position(|entry| entry.cause == failure.cause && entry.zone == zone);
            let count = match known.map(|at| &entries[at]) {
                Some(entry) if node.requested_at <= failed_at(entry, &snapshot.cluster) => continue,
                Some(entry) => entry.count + 1,
                None => 1,
            };
            let wait = delay(&snapshot.cluster, failure.cause, zone.as_ref(), count);
            let entry = Backoff {
                cause: failure.cause,
                zone,
                count,
                until: clock::after(failure.at, wait),
                message: failure.message.clone(),
            };
            match known {
                Some(at) => entries[at] = entry,
                None => entries.push(entry),
            }
        }
        entries.retain(|entry| {
            clock::after(entry.until, FORGOTTEN_AFTER) > now
                && !is_counted(entry.cause, snapshot)
                && !is_disproved(entry, snapshot)
        });
        entries.sort_by(|one, other| {
            other.until.cmp(&one.until).then_with(|| (one.cause, &one.zone).cmp(&(other.cause, &other.zone)))
        });
        entries.truncate(MOST_ENTRIES);
        entries.sort_by(|one, other| (one.cause, &one.zone).cmp(&(other.cause, &other.zone)));
        Self { entries }
    }

    /// The refusal that keeps `zone` (or the whole Cluster) from being asked, with the latest end.
    pub(crate) fn against(&self, zone: Option<&Zone>, now: Timestamp) -> Option<&Backoff> {
        self.entries
            .iter()
            .filter(|entry| entry.until > now && (entry.zone.is_none() || entry.zone.as_ref() == zone))
            .max_by_key(|entry| entry.until)
    }

    /// The ends of all refusals that are being waited out.
    pub(crate) fn ends(&self, now: Timestamp) -> impl Iterator<Item = Timestamp> {
        self.entries.iter().map(|entry| entry.until).filter(move |until| *until > now)
    }

    /// What to store.
    pub(crate) fn into_entries(self) -> Vec<Backoff> {
        self.entries
    }
}

/// True when this failure says that the next machine might not come either. A machine that served and was then lost,
/// taken back or broken says nothing of the kind: it is replaced at once.
fn is_refusal(cause: FailureCause, node: &Node) -> bool {
    match cause {
        FailureCause::StockOut | FailureCause::Quota | FailureCause::Rejected | FailureCause::Timeout => true,
        FailureCause::Unusable | FailureCause::Preempted | FailureCause::Lost => node.first_ready.is_none(),
    }
}

/// Where machines are found and counted, the count says whether there is one: that a machine was not to be had a moment ago is no
/// reason to wait.
fn is_counted(cause: FailureCause, snapshot: &Snapshot) -> bool {
    cause == FailureCause::StockOut && snapshot.policy.stock.is_some()
}

/// Where a failure counts: in its zone only if another zone could be asked instead and would not fail alike. Quotas
/// are regional; a class, an image or a set-up is wrong everywhere.
fn scope(cause: FailureCause, node: &Node, snapshot: &Snapshot) -> Option<Zone> {
    let Placement::SameZone(_) = snapshot.policy.placement else { return None };
    match cause {
        FailureCause::StockOut | FailureCause::Timeout | FailureCause::Preempted | FailureCause::Lost => {
            node.zone.clone().or_else(|| snapshot.zone.clone())
        }
        FailureCause::Quota | FailureCause::Rejected | FailureCause::Unusable => None,
    }
}

/// True when a node asked for after the failure has become ready there. One asked for before, with the refused one,
/// proves nothing.
fn is_disproved(entry: &Backoff, snapshot: &Snapshot) -> bool {
    let failed = failed_at(entry, &snapshot.cluster);
    snapshot.nodes.iter().any(|node| {
        node.requested_at > failed
            && node.first_ready.is_some()
            && (entry.zone.is_none() || entry.zone == node.zone)
    })
}

/// When the last failure that counted was seen.
fn failed_at(entry: &Backoff, cluster: &str) -> Timestamp {
    clock::before(entry.until, delay(cluster, entry.cause, entry.zone.as_ref(), entry.count))
}

/// How long the `count`th failure in a row is waited out, in whole seconds, ± 10 %. Stock comes and goes by the minute;
/// a quota is raised by people.
fn delay(cluster: &str, cause: FailureCause, zone: Option<&Zone>, count: i64) -> SignedDuration {
    let (first, longest) = match cause {
        FailureCause::Quota => (600, 3600),
        FailureCause::StockOut
        | FailureCause::Rejected
        | FailureCause::Timeout
        | FailureCause::Unusable
        | FailureCause::Preempted
        | FailureCause::Lost => (60, 1800),
    };
    let doublings = count.saturating_sub(1).clamp(0, 16) as u32;
    let seconds: i64 = std::cmp::min(first << doublings, longest);
    let zone = zone.map_or("", |zone| zone.0.as_str());
    let jitter = (fnv1a(&format!("{cluster}/{cause:?}/{zone}/{count}")) % 201) as i64 - 100;
    SignedDuration::from_secs(seconds + seconds * jitter / 1000)
}

/// 64-bit FNV-1a: the same on every machine and in every version, which the standard library's hasher is not.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
