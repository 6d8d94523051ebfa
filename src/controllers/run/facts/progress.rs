//! How far a pod is: what its kubelet says of its containers.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use trainyard_api::pod_template::MAIN_CONTAINER;

/// A kubelet's word for a container whose turn has not come.
const INITIALIZING: &str = "PodInitializing";

/// How far a pod's main container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not started. `reason` and `message` are the kubelet's, when it waits for something.
    Waiting {
        /// As `ImagePullBackOff`; empty when nothing is known.
        reason: String,
        /// The kubelet's sentence.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when, as its kubelet says.
        since: Option<Timestamp>,
    },
    /// It has exited.
    Exited {
        /// Its exit code.
        code: i32,
        /// As `Error` or `OOMKilled`.
        reason: String,
        /// The kubelet's sentence.
        message: String,
        /// When it started.
        started: Option<Timestamp>,
        /// When it ended.
        finished: Option<Timestamp>,
    },
    /// The pod failed without an exit code of its main container.
    Broken {
        /// The pod's reason, as `Evicted` or `OutOfcpu`.
        reason: String,
        /// The kubelet's sentence.
        message: String,
    },
}

impl Progress {
    /// Reads the pod.
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let main = status
            .and_then(|status| status.container_statuses.as_ref())
            .and_then(|list| list.iter().find(|one| one.name == MAIN_CONTAINER));
        let state = main.and_then(|main| main.state.as_ref());
        if let Some(ContainerState { terminated: Some(over), .. }) = state {
            return Self::Exited {
                code: over.exit_code,
                reason: over.reason.clone().unwrap_or_default(),
                message: over.message.clone().unwrap_or_default(),
                started: over.started_at.as_ref().map(|time| time.0),
                finished: over.finished_at.as_ref().map(|time| time.0),
            };
        }
        let of_pod = |text: Option<&String>| text.cloned().unwrap_or_default();
        match (phase, state) {
            // Nodes that report no container still report that all of them exited 0.
            ("Succeeded", _) => Self::Exited {
                code: 0,
                reason: String::new(),
                message: String::new(),
                started: None,
                finished: None,
            },
            ("Failed", _) => Self::Broken {
                reason: of_pod(status.and_then(|status| status.reason.as_ref())),
                message: of_pod(status.and_then(|status| status.message.as_ref())),
            },
            (_, Some(ContainerState { running: Some(running), .. })) => {
                Self::Running { since: running.started_at.as_ref().map(|time| time.0) }
            }
            (_, state) => Self::waiting(pod, state),
        }
    }

    /// What a container that has not started waits for. While a sidecar before it does not start, a kubelet says no more of
    /// it than `PodInitializing`.
    fn waiting(pod: &Pod, main: Option<&ContainerState>) -> Self {
        let own = wait_of(main);
        if let Some((reason, message)) = own.clone().filter(|(reason, _)| reason != INITIALIZING) {
            return Self::Waiting { reason, message };
        }
        let before = pod.status.iter().flat_map(|status| &status.init_container_statuses).flatten();
        let held = before.filter(|one| one.started != Some(true)).find_map(|one| {
            let (reason, message) = wait_of(one.state.as_ref())?;
            // Its own turn has not come.
            (reason != INITIALIZING).then(|| (reason, of_sidecar(one, &message)))
        });
        let (reason, message) = held.or(own).unwrap_or_default();
        Self::Waiting { reason, message }
    }

    /// Whether it has started, be it over or not.
    pub fn has_started(&self) -> bool {
        match self {
            Self::Running { .. } | Self::Exited { .. } => true,
            Self::Waiting { .. } | Self::Broken { .. } => false,
        }
    }

    /// When it ended by itself, as far as its kubelet says.
    pub fn exited_at(&self) -> Option<Timestamp> {
        match self {
            Self::Exited { finished, .. } => *finished,
            Self::Waiting { .. } | Self::Running { .. } | Self::Broken { .. } => None,
        }
    }
}

fn wait_of(state: Option<&ContainerState>) -> Option<(String, String)> {
    let waiting = state?.waiting.as_ref()?;
    Some((waiting.reason.clone()?, waiting.message.clone().unwrap_or_default()))
}

fn of_sidecar(sidecar: &ContainerStatus, message: &str) -> String {
    format!("sidecar {}{}", sidecar.name, trainyard_api::text::because(message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: &Value) -> Progress {
        let pod = json!({"metadata": {"name": "r1-worker-0"}, "status": status});
        Progress::of(&serde_json::from_value(pod).expect("a pod"))
    }

    fn container(name: &str, started: bool, state: &Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "started": started, "state": state})
    }

    fn waiting(reason: &str, message: &str) -> Progress {
        Progress::Waiting { reason: reason.into(), message: message.into() }
    }

    #[test]
    fn a_sidecar_that_does_not_start_is_what_its_pod_waits_for() {
        let main = container("main", false, &json!({"waiting": {"reason": "PodInitializing"}}));
        let running = container("a", true, &json!({"running": {"startedAt": "2030-01-01T00:00:00Z"}}));
        let later = container("c", false, &json!({"waiting": {"reason": "PodInitializing"}}));
        let status = |sidecar: Value| json!({"phase": "Pending", "containerStatuses": [main], "initContainerStatuses": [running, sidecar, later]});
        for (reason, message) in [("ErrImagePull", "manifest unknown"), ("CrashLoopBackOff", "back-off 10s")]
        {
            let held = container("b", false, &json!({"waiting": {"reason": reason, "message": message}}));
            assert_eq!(of(&status(held)), waiting(reason, &format!("sidecar b: {message}")));
        }
        let fine = container("b", true, &json!({"running": {"startedAt": "2030-01-01T00:00:00Z"}}));
        assert_eq!(of(&status(fine)), waiting("PodInitializing", ""));
    }

    #[test]
    fn what_sidecars_do_beside_the_training_says_nothing_of_it() {
        let looping = container("a", true, &json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        let killed = container("b", true, &json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        let running = container("main", true, &json!({"running": {"startedAt": "2030-01-01T00:00:00Z"}}));
        let status = json!({"phase": "Running", "containerStatuses": [running], "initContainerStatuses": [looping, killed]});
        assert!(matches!(of(&status), Progress::Running { since: Some(_) }), "{:?}", of(&status));
        let done = container(
            "main",
            false,
            &json!({"terminated": {"exitCode": 0, "finishedAt": "2030-01-01T00:00:09Z"}}),
        );
        let status = json!({"phase": "Running", "containerStatuses": [done], "initContainerStatuses": [looping, killed]});
        assert!(matches!(of(&status), Progress::Exited { code: 0, .. }), "{:?}", of(&status));
    }
}
