//! What a person can do about each reason: the same as the tables of docs/run.md, with the names filled in.

use trainyard_api::Run;
use trainyard_api::run::Priority;
use trainyard_api::run_status::{AttemptCause, QueueReason, RunReason};

/// The objects that commands name.
pub struct Names<'a> {
    /// Namespace of the run.
    pub namespace: &'a str,
    /// Name of the run.
    pub run: &'a str,
    /// Namespace of the Cluster.
    pub cluster_namespace: &'a str,
    /// Name of the Cluster.
    pub cluster: &'a str,
}

impl<'a> Names<'a> {
    /// Of a run.
    pub fn of(run: &'a Run) -> Self {
        let namespace = run.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            namespace,
            run: run.metadata.name.as_deref().unwrap_or_default(),
            cluster_namespace: run.spec.cluster_ref.namespace_or(namespace),
            cluster: &run.spec.cluster_ref.name,
        }
    }

    fn raise_maximum(&self, to: Option<i64>) -> String {
        let Self { cluster_namespace, cluster, .. } = self;
        let to = to.map_or_else(|| "N".to_owned(), |to| to.to_string());
        format!(
            "raise the maximum: kubectl patch tyc {cluster} -n {cluster_namespace} --type merge -p \
             '{{\"spec\":{{\"scale\":{{\"maxNodes\":{to}}}}}}}'"
        )
    }

    fn see_cluster(&self) -> String {
        format!(
            "see the Cluster: kubectl trainyard why cluster/{} -n {}",
            self.cluster, self.cluster_namespace
        )
    }

    fn see_queue(&self) -> String {
        format!("see the whole queue: kubectl trainyard queue {} -n {}", self.cluster, self.cluster_namespace)
    }

    fn prefer(&self) -> String {
        let Self { namespace, run, .. } = self;
        format!(
            "let it go first: kubectl patch tyr {run} -n {namespace} --type merge -p '{{\"spec\":{{\"priority\":\"High\"}}}}'"
        )
    }
}

/// For a run that waits. `enough` is a maximum with which it could start now, if that is known.
pub fn waiting(reason: QueueReason, run: &Run, enough: Option<i64>) -> Vec<String> {
    let names = Names::of(run);
    let text = |words: &str| words.to_owned();
    let mut advice = match reason {
        QueueReason::NodesPreparing => vec![text("wait: its machines are on their way")],
        QueueReason::NodesBusy => {
            vec![text("wait until the runs that have its nodes end"), names.raise_maximum(enough)]
        }
        QueueReason::NodesLeaving => vec![
            text("wait until the nodes that leave are gone"),
            text(
                "a node that somebody cordoned makes room when it is uncordoned, or when its ClusterNode is deleted",
            ),
        ],
        QueueReason::BehindOthers => vec![text("wait"), names.prefer(), names.raise_maximum(enough)],
        QueueReason::Reserved => vec![
            text("wait"),
            text(
                "in another Run, write a maxWallClockTime short enough to end before the reserved nodes are needed: then it may \
                 go first",
            ),
        ],
        QueueReason::ExceedsMaxNodes => vec![
            names.raise_maximum(enough.or(Some(i64::from(run.spec.node_count)))),
            text("or create another Run with a lower nodeCount"),
        ],
        QueueReason::ExceedsNode => {
            vec![text("create another Run with a lower resourcesPerNode, or on a Cluster of a larger vmSize")]
        }
        QueueReason::CapacityHold => vec![
            text("wait: it is tried again by itself"),
            text(
                "or create another Run with a lower nodeCount or a longer gangTimeout, or on a Cluster of another vmSize",
            ),
        ],
        QueueReason::CapacityBackoff => vec![
            text("wait: machines are asked for again by themselves"),
            text("no stock: use a Cluster of another vmSize, vmPriority or zone; quota: ask for more of it"),
            names.see_cluster(),
        ],
        QueueReason::NoFreeMachines => vec![
            text("wait: it starts by itself as soon as so many machines are free"),
            text("see that what the message says is in the way of machines goes; or connect more"),
            names.see_cluster(),
        ],
        QueueReason::ClusterStalled => {
            vec![text("do, or have an administrator do, what the message says"), names.see_cluster()]
        }
        QueueReason::ClusterOnHold => {
            vec![text("wait until whoever owns the Cluster sets its spec.hold to None"), names.see_cluster()]
        }
        QueueReason::ClusterDeleting => {
            vec![text(
                "create a Cluster of that name again once this one is gone, or another Run on another Cluster",
            )]
        }
        QueueReason::QueueDeadline => {
            vec![text("create another Run with a longer queueDeadline, or without one: this one ends")]
        }
        QueueReason::Unknown => vec![text("use a kubectl-trainyard of the operator's version")],
    };
    advice.push(names.see_queue());
    advice
}

/// For a run that neither waits nor runs, by the reason of its phase.
pub fn aside(reason: RunReason, run: &Run) -> Vec<String> {
    let names = Names::of(run);
    let Names { namespace, run: name, cluster_namespace, cluster } = names;
    let other_priority = if run.spec.priority == Priority::High { Priority::Normal } else { Priority::High };
    match reason {
        RunReason::NotChecked => {
            vec![names.see_cluster(), "pods of an earlier Run of its name go by themselves".to_owned()]
        }
        RunReason::NotAccepted => vec![
            "do what the message says".to_owned(),
            format!(
                "then have it looked at at once, not within 10 minutes, by any change of its spec: kubectl patch tyr {name} -n \
                 {namespace} --type merge -p '{{\"spec\":{{\"priority\":\"{other_priority}\"}}}}'"
            ),
            "what cannot be mended outside of it needs another Run: its spec is fixed".to_owned(),
        ],
        RunReason::RetryUser => {
            vec!["wait: it is tried again by itself".to_owned(), "or create another Run now".to_owned()]
        }
        RunReason::SpecChanged => vec!["create another Run".to_owned()],
        RunReason::ClusterNotFound => vec![
            format!(
                "create Cluster {cluster} in namespace {cluster_namespace}: the Run starts when it is there"
            ),
            format!("see which there are: kubectl get tyc -n {cluster_namespace}"),
        ],
        RunReason::ClusterNotAllowed => vec![format!(
            "ask the owner of Cluster {cluster_namespace}/{cluster} to let namespace {namespace} in (spec.allowedNamespaces)"
        )],
        RunReason::DoesNotFit => vec![
            "create another Run with counts that divide what a node has, or with a lower resourcesPerNode"
                .to_owned(),
            "or use a Cluster of another vmSize".to_owned(),
        ],
        RunReason::Suspended => vec![format!(
            "queue it again: kubectl patch tyr {name} -n {namespace} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'"
        )],
        _ => Vec::new(),
    }
}

/// For a run that has ended.
pub fn ended(reason: RunReason, run: &Run) -> Vec<String> {
    let names = Names::of(run);
    let Names { namespace, run: name, .. } = names;
    let last = run.status.as_ref().and_then(|status| status.attempts.last());
    let culprit = last.and_then(|last| last.culprit.as_deref());
    let of_its_own = last.is_some_and(|last| last.cause == Some(AttemptCause::UserCode));
    let log = culprit.filter(|_| of_its_own).map_or_else(
        || format!("read its logs while its pods are there: kubectl logs -n {namespace} -l trainyard.dev/run={name} --prefix"),
        |pod| format!("read the log of the pod that failed first, while it is there: kubectl logs -n {namespace} {pod}"),
    );
    let again = "then create another Run: a Run that has ended is not started again".to_owned();
    match reason {
        RunReason::UserCode => {
            let mut advice = vec![log];
            if last.and_then(|last| last.reason.as_deref()) == Some("OOMKilled") {
                advice.push(
                    "give each process more memory: fewer processes on a node, a larger resourcesPerNode.memory or vmSize"
                        .to_owned(),
                );
            }
            if run.spec.retries.user == 0 {
                advice.push("failures that come and go are tried again with retries.user".to_owned());
            }
            advice.push(again);
            advice
        }
        RunReason::Setup => {
            vec![
                "mend the image, pull secret, ConfigMap, Secret or volume that the message names".to_owned(),
                again,
            ]
        }
        RunReason::Infrastructure => vec![
            "create another Run; a higher retries.infrastructure tries more often".to_owned(),
            names.see_cluster(),
            "tell an administrator which nodes failed".to_owned(),
        ],
        RunReason::WallClock => vec!["create another Run with a longer maxWallClockTime".to_owned()],
        RunReason::TotalTime => vec!["create another Run with a longer maxTotalTime".to_owned()],
        RunReason::QueueDeadline => vec![
            "create another Run with a longer queueDeadline, or without one".to_owned(),
            names.see_queue(),
        ],
        RunReason::ClusterDeleted => vec!["create the Cluster again, and another Run".to_owned()],
        RunReason::Deallocated => vec!["create another Run when maxNodes is raised".to_owned()],
        RunReason::Succeeded => vec![log],
        _ => Vec::new(),
    }
}
