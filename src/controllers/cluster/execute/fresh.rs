//! What every action does with a node or a run of its plan: reads it again, writes on the version that was read, and
//! remembers what it wrote, so that the next plan starts from there.

use kube::Api;
use trainyard_api::{cluster_node::ClusterNode, run::Run};
use trainyard_model::snapshot::{node::LightNode, run::LightRun};

use crate::controllers::cluster::Context;
use crate::kubernetes::apply::Seen;
use crate::kubernetes::error::{Error, Verb};
use crate::kubernetes::read;

/// The node as it is now; a conflict when it is gone or another one has its name.
pub async fn fresh_node(api: &Api<ClusterNode>, planned: &LightNode) -> Result<LightNode, Error> {
    read::get(api, &planned.name)
        .await?
        .and_then(|node| LightNode::of(&node))
        .filter(|fresh| fresh.uid == planned.uid)
        .ok_or_else(|| moved_on(format!("ClusterNode {}", planned.name)))
}

/// The precondition of a write on a node.
pub fn seen(light: &LightNode) -> Seen {
    Seen {
        name: light.name.clone(),
        uid: light.uid.clone(),
        resource_version: light.resource_version.clone(),
    }
}

/// Lets the next plan start from what was written, and returns that.
pub fn remember(context: &Context, written: &ClusterNode) -> Option<LightNode> {
    let light = LightNode::of(written)?;
    context.memory.node_written(light.clone(), context.clock.now());
    Some(light)
}

/// The run as it is now; a conflict when it is gone or another one has its name.
pub async fn fresh_run(api: &Api<Run>, planned: &LightRun) -> Result<LightRun, Error> {
    read::get(api, &planned.id.name)
        .await?
        .and_then(|run| LightRun::of(&run))
        .filter(|fresh| fresh.id.uid == planned.id.uid)
        .ok_or_else(|| moved_on(format!("Run {}", planned.id)))
}

/// The precondition of a write on a run.
pub fn run_seen(light: &LightRun) -> Seen {
    Seen {
        name: light.id.name.clone(),
        uid: light.id.uid.clone(),
        resource_version: light.resource_version.clone(),
    }
}

/// Lets the next plan start from what was written.
pub fn remember_run(context: &Context, written: &Run) {
    if let Some(light) = LightRun::of(written) {
        context.memory.run_written(light, context.clock.now());
    }
}

/// The plan was made from a world that is no more.
pub fn moved_on(target: String) -> Error {
    Error::Changed { verb: Verb::Patch, target }
}
