//! Says what is: the status of every ClusterNode that changed, and Events about what went wrong.
//!
//! Each write carries the version of the ClusterNode it was computed from: of two leaders one may have seen less than the
//! other. Nothing is written when nothing changed.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use trainyard_api::{
    ClusterNode, cluster_node::ClusterNodeStatus, names::FieldManager, names::event::EventReason,
};
use trainyard_model::node::assess::is_bad;

use super::{
    Error, NodeController,
    decide::{self, Observation, Stray},
    execute::Done,
    memory::PoolMemory,
};
use crate::kubernetes::{
    ErrorKind,
    apply::{self, Seen},
    workqueue::{Failure as _, Outcome},
};

/// When to look again after a conflict: the cluster controller writes these objects, too, so one is no sign of trouble.
/// The watch brings its write within milliseconds, and triggers by itself unless it was faster than the refusal.
const AFTER_CONFLICT: SignedDuration = SignedDuration::from_millis(200);

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
    memory: &mut PoolMemory,
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
    for written in written {
        match written {
            Ok(Some(node)) => _ = node.uid().and_then(|uid| memory.written.insert(uid, Arc::new(node))),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    let (conflicts, failures): (Vec<_>, Vec<_>) =
        errors.into_iter().partition(|error| error.kind() == ErrorKind::Conflict);
    if let Some(error) = failures.into_iter().next() {
        return Err(error);
    }
    let again = (!conflicts.is_empty()).then(|| controller.clock.now() + AFTER_CONFLICT);
    Ok(Outcome { wake_at: [decision.wake_at, retry_at, again].into_iter().flatten().min() })
}

async fn write(
    controller: &NodeController,
    node: &ClusterNode,
    status: &ClusterNodeStatus,
) -> Result<Option<ClusterNode>, Error> {
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
        Ok(written) => {
            if written.is_some() {
                tell_of_change(controller, node, before, status);
            }
            Ok(written)
        }
        // Forgotten meanwhile: there is nobody left to tell.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
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
        controller.events.tell(node, EventReason::MachineFailed, format!("{reason}: {message}"));
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
        |owner| {
            format!("ClusterNode {}/{}, which does not exist or has another", owner.namespace, owner.name)
        },
    );
    let (ends, end) = if machine.found { ("given back", "give back") } else { ("destroyed", "destroy") };
    if stray.is_new {
        let note = format!(
            "this machine belongs to {of}; it will be {ends} in 15 minutes unless a run's pod is on it"
        );
        tracing::warn!(machine = machine.name, kind, %of, "a machine that no ClusterNode accounts for");
        controller.events.tell_about(about.clone(), EventReason::StrayMachine, note);
    }
    if is_destroyed {
        let note = format!("this machine belonged to {of} and is being {ends}");
        tracing::warn!(machine = machine.name, kind, %of, "about to {end} a machine that no ClusterNode accounts for");
        controller.events.tell_about(about, EventReason::StrayMachineDestroyed, note);
    }
}
