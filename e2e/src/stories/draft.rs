//! Clusters and Runs as stories write them: with nothing that does not matter.

use serde_json::{Map, Value, json};
use trainyard_api::distribution::RoleName;
use trainyard_api::run::{Priority, SuccessPolicy};

use crate::controlplane::annotations;

/// The size of machines when a story does not care.
pub const ANY_SIZE: &str = "Standard_D4s_v5";

/// A Cluster: without more, of 0 to 4 machines that may idle for a minute.
#[derive(Clone, Debug)]
pub struct ClusterDraft {
    name: String,
    spec: Value,
}

/// Begins a Cluster.
pub fn cluster(name: &str) -> ClusterDraft {
    let scale = json!({"minNodes": 0, "maxNodes": 4, "idleSecondsBeforeScaleDown": 60});
    ClusterDraft { name: name.to_owned(), spec: json!({"vmSize": ANY_SIZE, "scale": scale}) }
}

impl ClusterDraft {
    /// Machines it keeps.
    #[must_use]
    pub fn min(self, nodes: i32) -> Self {
        self.scale("minNodes", nodes)
    }

    /// Machines it never asks beyond.
    #[must_use]
    pub fn max(self, nodes: i32) -> Self {
        self.scale("maxNodes", nodes)
    }

    /// Machines it asks for when it is created.
    #[must_use]
    pub fn initial(self, nodes: i32) -> Self {
        self.scale("initialNodes", nodes)
    }

    /// Machines that are the cloud's to take back.
    #[must_use]
    pub fn low_priority(mut self) -> Self {
        self.spec["vmPriority"] = json!("LowPriority");
        self
    }

    /// Seconds a machine may idle.
    #[must_use]
    pub fn idle_seconds(self, seconds: i32) -> Self {
        self.scale("idleSecondsBeforeScaleDown", seconds)
    }

    /// The size of its machines.
    #[must_use]
    pub fn of_size(mut self, size: &str) -> Self {
        self.spec["vmSize"] = json!(size);
        self
    }

    /// Its `ProvisioningClass`, instead of the default one.
    #[must_use]
    pub fn in_class(mut self, class: &str) -> Self {
        self.spec["provisioningClass"] = json!(class);
        self
    }

    fn scale(mut self, field: &str, value: i32) -> Self {
        self.spec["scale"][field] = json!(value);
        self
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "apiVersion": trainyard_api::names::API_VERSION,
            "kind": "Cluster",
            "metadata": {"name": self.name},
            "spec": self.spec,
        })
    }
}

/// A Run: without more, of one node and one process that runs until it is stopped.
#[derive(Clone, Debug)]
pub struct RunDraft {
    name: String,
    spec: Value,
    annotations: Map<String, Value>,
    template: Map<String, Value>,
}

/// Begins a Run.
pub fn run(name: &str) -> RunDraft {
    let spec = json!({"container": {"image": "registry.example/train:1"}, "command": ["python", "train.py"]});
    RunDraft { name: name.to_owned(), spec, annotations: Map::new(), template: Map::new() }
}

impl RunDraft {
    /// Its Cluster.
    #[must_use]
    pub fn on(self, cluster: &str) -> Self {
        self.with("clusterRef", json!({"name": cluster}))
    }

    /// Its Cluster, in another namespace.
    #[must_use]
    pub fn on_shared(self, namespace: &str, cluster: &str) -> Self {
        self.with("clusterRef", json!({"namespace": namespace, "name": cluster}))
    }

    /// Its gang.
    #[must_use]
    pub fn nodes(self, count: i32) -> Self {
        self.with("nodeCount", json!(count))
    }

    /// What it takes of each node, as `{"accelerators": 1}`.
    #[must_use]
    pub fn taking(self, resources_per_node: Value) -> Self {
        self.with("resourcesPerNode", resources_per_node)
    }

    /// Its place in the queue.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        self.with("priority", json!(priority))
    }

    /// The limit its user wrote, as `20s`.
    #[must_use]
    pub fn at_most(self, time: &str) -> Self {
        self.with("maxWallClockTime", json!(time))
    }

    /// The limit of all its attempts together, as `20s`.
    #[must_use]
    pub fn in_all_at_most(self, time: &str) -> Self {
        self.with("maxTotalTime", json!(time))
    }

    /// How long it may wait in the queue.
    #[must_use]
    pub fn starting_within(self, time: &str) -> Self {
        self.with("queueDeadline", json!(time))
    }

    /// None of its pods is left when an attempt is over.
    #[must_use]
    pub fn leaving_no_pods(self) -> Self {
        self.with("cleanPodPolicy", json!("All"))
    }

    /// What is left of it goes so long after its end.
    #[must_use]
    pub fn cleared_after(self, time: &str) -> Self {
        self.with("ttlAfterFinished", json!(time))
    }

    /// Its Experiment.
    #[must_use]
    pub fn of_experiment(self, name: &str) -> Self {
        self.with("experiment", json!(name))
    }

    /// How long nodes may be bought for it that wait for the rest.
    #[must_use]
    pub fn gang_timeout(self, time: &str) -> Self {
        self.with("gangTimeout", json!(time))
    }

    /// Further attempts after failures of its own.
    #[must_use]
    pub fn user_retries(self, retries: i32) -> Self {
        self.with("retries", json!({"user": retries}))
    }

    /// Its processes end by themselves after that time, as `2s`.
    #[must_use]
    pub fn lasting(self, time: &str) -> Self {
        self.annotated(annotations::RUN_FOR, time)
    }

    /// With which exit code; `1,0` is 1 for the first attempt and 0 for the second.
    #[must_use]
    pub fn exiting(self, codes: &str) -> Self {
        self.annotated(annotations::EXIT_CODE, codes)
    }

    /// The processes of one role end by themselves after that time, with that exit code, whatever is said of the others.
    #[must_use]
    pub fn role_lasting(self, role: RoleName, time: &str, exit_code: i32) -> Self {
        self.annotated(&format!("{}.{role}", annotations::RUN_FOR), time)
            .annotated(&format!("{}.{role}", annotations::EXIT_CODE), &exit_code.to_string())
    }

    /// How its processes find each other.
    #[must_use]
    pub fn distributed(self, distribution: Value) -> Self {
        self.with("distribution", distribution)
    }

    /// It has succeeded when its chief and all its workers have.
    #[must_use]
    pub fn of_all_workers(self) -> Self {
        self.with("successPolicy", json!(SuccessPolicy::AllWorkers))
    }

    /// What it adds to its pods, besides what the other words here do by annotations.
    #[must_use]
    pub fn adding(mut self, template: Value) -> Self {
        if let Value::Object(fields) = template {
            self.template.extend(fields);
        }
        self
    }

    /// Under whom its container runs, and what that may do.
    #[must_use]
    pub fn secured(mut self, context: Value) -> Self {
        self.spec["container"]["securityContext"] = context;
        self
    }

    /// Its containers do not start before that time.
    #[must_use]
    pub fn starting_after(self, time: &str) -> Self {
        self.annotated(annotations::START_AFTER, time)
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    pub(super) fn object(&self) -> Value {
        let mut spec = self.spec.clone();
        let mut template = self.template.clone();
        if !self.annotations.is_empty() {
            template.insert("annotations".to_owned(), json!(self.annotations));
        }
        if !template.is_empty() {
            spec["podTemplate"] = json!(template);
        }
        json!({
            "apiVersion": trainyard_api::names::API_VERSION,
            "kind": "Run",
            "metadata": {"name": self.name},
            "spec": spec,
        })
    }
}
