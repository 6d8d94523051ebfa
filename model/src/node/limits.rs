//! Every time limit on a machine, with the reason for its value.

use jiff::SignedDuration;

/// An engine that has not launched the machine by then never will.
///
/// Karpenter gives up after 5 minutes and then names its reason; twice that lets it speak first, and still ends the
/// wait when no engine is running at all.
pub const LAUNCH: SignedDuration = SignedDuration::from_mins(10);

/// A launched machine that is no Node by then never will be.
///
/// Karpenter gives up 15 minutes after it first looked; 5 more let it clean up by itself.
pub const REGISTRATION: SignedDuration = SignedDuration::from_mins(20);

/// A Node that no run can use by then counts as unusable.
///
/// No engine has a limit here. Installing an accelerator's driver takes 5 to 15 minutes on a slow image; twice the
/// longest of these costs less than a second machine bought too early. The same time is given to a Node that was
/// usable and lost its accelerators, or got a taint, while no run holds it.
pub const USABLE: SignedDuration = SignedDuration::from_mins(30);

/// A Node that was ready and is silent this long is lost.
///
/// The API server marks a Node Unknown 40 s after its last heartbeat, so 60 s more make 100 s of silence: longer than
/// a kubelet restart or a short network fault (a run survives these), shorter than the 300 s after which pods there are
/// evicted, so that a gang is started elsewhere first. Lower it where nodes fail often and never come back.
pub const LOST_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// How long missing accelerators are a matter of booting. After that their status names what may be in the way.
pub const PATIENCE_WITH_ACCELERATORS: SignedDuration = SignedDuration::from_mins(2);

/// How long the drain of an idle machine may take before the engine is told not to wait for it.
///
/// What is left to drain there are pods of others that tolerate our taint. 5 minutes are ten times the default time a
/// pod has to stop.
pub const DRAIN: SignedDuration = SignedDuration::from_mins(5);

/// How long a machine that no ClusterNode accounts for is only reported before it is destroyed.
///
/// Long enough for a person to see the Event and for a cache or a restored backup to catch up, short beside the price
/// of a machine that is billed for nothing.
pub const STRAY: SignedDuration = SignedDuration::from_mins(15);

/// After this time a claim that vanished was given up for not registering (Karpenter's limit), not for capacity.
pub const ENGINE_REGISTRATION: SignedDuration = SignedDuration::from_mins(15);

/// After this time a claim that vanished unlaunched was given up for not launching (Karpenter's limit).
pub const ENGINE_LAUNCH: SignedDuration = SignedDuration::from_mins(5);
