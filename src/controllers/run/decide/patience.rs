//! What a launched pod that has not started waits for, how long it may, and whose fault it is then.
//!
//! In: pods, and when they were launched. Out: a [`Limit`] for each thing that one of them waits for and that does not
//! come by itself for certain. Machines are paid for meanwhile, so each of them has an end.

use jiff::{SignedDuration, Timestamp};
use trainyard_api::run_status::AttemptCause;
use trainyard_api::text;
use trainyard_model::run::ValidRun;

use super::verdict::{End, Members};
use crate::controllers::run::facts::{PodFacts, Progress};

/// How long after its launch an attempt may wait for a registry that fails for a reason of its own. Registries that
/// throttle or restart are back within minutes; nodes that wait longer cost more than a new attempt.
pub const PULL_PATIENCE: SignedDuration = SignedDuration::from_mins(15);
/// How long after its launch an attempt may wait for a Secret, ConfigMap or volume that is missing: time for whoever
/// applies files in the wrong order, no more.
pub const SETUP_PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// How long the scheduler may find no place for a pod on the node it is bound to. The node was ready and empty, so this
/// is a cordon, a taint or a stranger's pod; none of these goes away within seconds, and some do within a minute.
pub const PLACE_PATIENCE: SignedDuration = SignedDuration::from_mins(2);
/// How long a node may take to make the volumes and the network of a pod. A cloud's disk is attached within a minute or two;
/// one that is still attached to a machine that is gone is taken off by force after six.
pub const PREPARE_PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// How long after its launch an attempt may take until all its processes have started, whatever they wait for. Nothing else
/// ends the wait for a kubelet that hangs in a pull, a webhook's container that never becomes ready, or a scheduler that is down, while
/// one missing process holds the machines of a whole gang. An image of 30 GB comes in an hour at 8 MB a second, which is
/// slow even for a registry on another continent: who needs more is helped by an image on the machines, not by more time.
pub const START_PATIENCE: SignedDuration = SignedDuration::from_hours(1);

/// Until when a pod may wait for something, and how the attempt has ended then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Until when.
    pub until: Timestamp,
    /// What that means.
    pub end: End,
}

/// What was waited for in vain, first of the order of members.
pub fn lost(run: &ValidRun, launched: Timestamp, members: &Members<'_>, now: Timestamp) -> Option<End> {
    limits(run, launched, members).find(|limit| limit.until <= now).map(|limit| limit.end)
}

/// Everything that is waited for.
pub fn limits<'a>(
    run: &'a ValidRun,
    launched: Timestamp,
    members: &'a Members<'_>,
) -> impl Iterator<Item = Limit> + 'a {
    members
        .iter()
        .filter_map(|(_, pod)| *pod)
        .flat_map(move |pod| {
            [
                container(launched, pod),
                place(run, launched, pod),
                node(run, launched, pod),
                start(launched, pod),
            ]
        })
        .flatten()
}

/// Its container waits, or a sidecar before it.
fn container(launched: Timestamp, pod: &PodFacts) -> Option<Limit> {
    let Progress::Waiting { reason, message } = &pod.progress else { return None };
    let (cause, until) = match wait(reason, message) {
        Wait::Normal => return None,
        Wait::Hopeless => (AttemptCause::Setup, launched),
        Wait::UsersTurn => (AttemptCause::Setup, after(launched, SETUP_PATIENCE)),
        Wait::Registry => (AttemptCause::Infrastructure, after(launched, PULL_PATIENCE)),
    };
    let name = &pod.seen.name;
    let text = format!("pod {name} cannot start: {reason}{}", text::because(message));
    Some(Limit { until, end: End::by(cause, name, reason, text) })
}

/// The scheduler finds no place for it.
fn place(run: &ValidRun, launched: Timestamp, pod: &PodFacts) -> Option<Limit> {
    let (since, message) = pod.unschedulable.as_ref()?;
    let since = launched.max(*since);
    let name = &pod.seen.name;
    let text = format!("pod {name} found no place on its node: {message}");
    // Only claims are looked at before a pod is placed; of the others the kubelet speaks.
    let claims = run.pod_template.volumes.iter().any(|volume| volume.persistent_volume_claim.is_some());
    let message = message.to_ascii_lowercase();
    let is_of_volume = claims && (message.contains("volume") || message.contains("pvc"));
    let (cause, until) = if is_of_volume {
        (AttemptCause::Setup, after(since, SETUP_PATIENCE))
    } else {
        (AttemptCause::Infrastructure, after(since, PLACE_PATIENCE))
    };
    Some(Limit { until, end: End::by(cause, name, "Unschedulable", text) })
}

/// Its node has it, and does not get its volumes or its network together. Which of them, a kubelet says in Events only.
fn node(run: &ValidRun, launched: Timestamp, pod: &PodFacts) -> Option<Limit> {
    let since = pod.unprepared.filter(|_| matches!(pod.progress, Progress::Waiting { .. }))?;
    let until = after(launched.max(since), PREPARE_PATIENCE);
    let name = &pod.seen.name;
    let volumes: Vec<&str> = run.pod_template.volumes.iter().map(|volume| volume.name.as_str()).collect();
    let end = if volumes.is_empty() {
        let text = format!("pod {name} got no network on its node within 10 minutes; its Events say why");
        End::by(AttemptCause::Infrastructure, name, "SandboxNotReady", text)
    } else {
        let text = format!(
            "pod {name} did not get its volumes ({}) or its network within 10 minutes; its Events say what is missing",
            volumes.join(", ")
        );
        End::by(AttemptCause::Setup, name, "VolumesNotReady", text)
    };
    Some(Limit { until, end })
}

/// Whatever it waits for.
fn start(launched: Timestamp, pod: &PodFacts) -> Option<Limit> {
    let Progress::Waiting { reason, message } = &pod.progress else { return None };
    let until = after(launched, START_PATIENCE);
    let name = &pod.seen.name;
    let minutes = START_PATIENCE.as_mins();
    let state = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    let text = format!(
        "pod {name} has not started within {minutes} minutes of the launch{state}{}",
        text::because(message)
    );
    Some(Limit { until, end: End::by(AttemptCause::Infrastructure, name, "NotStartedInTime", text) })
}

/// Times of conditions are written by whoever may write a pod's status, so they may be any time at all.
fn after(since: Timestamp, patience: SignedDuration) -> Timestamp {
    since.saturating_add(patience).unwrap_or(Timestamp::MAX)
}

/// What a kubelet's reason for waiting means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// On its way.
    Normal,
    /// Only another Run can mend it.
    Hopeless,
    /// Something of the user's is missing, or does not stay up.
    UsersTurn,
    /// The registry fails.
    Registry,
}

fn wait(reason: &str, message: &str) -> Wait {
    match reason {
        "InvalidImageName" | "ErrImageNeverPull" => Wait::Hopeless,
        "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" => {
            let message = message.to_ascii_lowercase();
            let refused = [
                "not found",
                "manifest unknown",
                "manifest_unknown",
                "name unknown",
                "does not exist",
                "unauthorized",
                "authentication required",
                "authorization failed",
                "forbidden",
                "denied",
                "no match for platform",
            ];
            if refused.iter().any(|words| message.contains(words)) { Wait::Hopeless } else { Wait::Registry }
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "StartError" => {
            Wait::UsersTurn
        }
        // The training's container is never started twice, so this is a sidecar's, and the training waits for it.
        "CrashLoopBackOff" => Wait::UsersTurn,
        _ => Wait::Normal,
    }
}
