//! Says what is: the status of every ClusterNode that changed, and Events about what went wrong.
//!
//! Each write carries the version of the ClusterNode it was computed from. Nothing is written when nothing changed.

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use trainyard_api::{ClusterNode, cluster_node::ClusterNodeStatus, names::FieldManager};
use trainyard_model::node::assess::is_bad;

use super::{
    Error, NodeController,
    decide::{self, Observation, Stray},
    events::NodeEvent,
    execute::Done,
};
use crate::kubernetes::{
    ErrorKind,
    apply::{self, Seen},
    events::Severity,
    workqueue::{Failure as _, Outcome},
};

/// Statuses written at a time.
const CONCURRENCY: usize = 8;

/// The fields this controller owns.
#[derive(PartialEq, Serialize)]
struct Fields<'a> {
    status: &'a ClusterNodeStatus,
}

pub(super) async fn report(
    controller: &NodeController,
    observation: &Observation,
    done: Done,
) -> Result<Outcome, Error> {
    let decision = decide::decide(observation, controller.clock.now());
    let Done { mut errors, retry_at, destroyed } = done;
    for stray in &observation.strays {
        tell_of_stray(controller, stray, destroyed.contains(&stray.machine.uid));
    }
    let mut writes = Vec::new();
    for (seen, status) in observation.nodes.iter().zip(&decision.statuses) {
        writes.push(write(controller, &seen.node, status));
    }
    let written: Vec<_> = stream::iter(writes).buffer_unordered(CONCURRENCY).collect().await;
    errors.extend(written.into_iter().filter_map(Result::err));
    // A conflict only means that a cache is behind; if anything worse happened, that is what the back-off is for.
    errors.sort_by_key(|error| error.kind() == ErrorKind::Conflict);
    match errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(Outcome { wake_at: [decision.wake_at, retry_at].into_iter().flatten().min() }),
    }
}

async fn write(
    controller: &NodeController,
    node: &ClusterNode,
    status: &ClusterNodeStatus,
) -> Result<(), Error> {
    let empty = ClusterNodeStatus::default();
    let before = node.status.as_ref().unwrap_or(&empty);
    let api =
        Api::<ClusterNode>::namespaced(controller.client.clone(), &node.namespace().unwrap_or_default());
    let manager = FieldManager::ClusterNodeStatus.as_str();
    let seen = Seen::of(node)?;
    let written =
        apply::apply_status_changed(&api, &seen, manager, &Fields { status: before }, &Fields { status })
            .await;
    match written {
        Ok(None) => Ok(()),
        Ok(Some(_)) => {
            tell_of_change(controller, node, before, status);
            Ok(())
        }
        // Forgotten meanwhile: there is nobody left to tell.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn tell_of_change(
    controller: &NodeController,
    node: &ClusterNode,
    before: &ClusterNodeStatus,
    after: &ClusterNodeStatus,
) {
    let turned_bad = after.state.is_some_and(is_bad) && !before.state.is_some_and(is_bad);
    if turned_bad && let Some(reason) = after.reason {
        let message = after.message.as_deref().unwrap_or("nobody said why");
        controller.events.tell(
            node,
            Severity::Warning,
            NodeEvent::MachineFailed,
            format!("{reason}: {message}"),
        );
    }
}

fn tell_of_stray(controller: &NodeController, stray: &Stray, is_destroyed: bool) {
    let machine = &stray.machine;
    let (api_version, kind) = match machine.backing {
        Some(_) => (stray.engine.api_version(), stray.engine.kind()),
        None => ("v1", "Node"),
    };
    let about = ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(machine.name.clone()),
        uid: Some(machine.uid.clone()),
        ..ObjectReference::default()
    };
    let of = machine.owner.as_ref().map_or_else(
        || "no ClusterNode".to_owned(),
        |owner| format!("ClusterNode {}/{}, which does not exist", owner.namespace, owner.name),
    );
    if stray.is_new {
        let note = format!(
            "this machine belongs to {of}; it will be destroyed in 15 minutes unless a run's pod is on it"
        );
        tracing::warn!(machine = machine.name, kind, %of, "a machine that no ClusterNode accounts for");
        controller.events.tell_about(about.clone(), Severity::Warning, NodeEvent::StrayMachine, note);
    }
    if is_destroyed {
        let note = format!("this machine belonged to {of} and is being destroyed");
        tracing::warn!(machine = machine.name, kind, %of, "destroying a machine that no ClusterNode accounts for");
        controller.events.tell_about(about, Severity::Warning, NodeEvent::StrayMachineDestroyed, note);
    }
}
