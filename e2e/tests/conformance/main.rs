//! The conformance suite of engines on a real control plane: against the real Karpenter core, and among Nodes that are
//! there already.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

mod karpenter;
mod static_nodes;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use kube::Client;
use trainyard::{
    provisioner::{Pool, Provisioner, Starting, Woken, conformance},
    tasks::Tasks,
    telemetry::metrics::Metrics,
};
use trainyard_e2e::controlplane::eventually;

const NAMESPACE: &str = "conformance";

/// Starts the watches of an engine and waits for their first lists.
async fn started<E: Provisioner>(engine: E, client: Client, tasks: &mut Tasks) -> Result<Arc<E>> {
    let engine = Arc::new(engine);
    let wake = Arc::new(|_: Woken<'_>| {});
    let cluster_nodes = &conformance::cluster_nodes(client, tasks);
    engine.watches(&mut Starting { tasks, metrics: &Metrics::new(), wake, cluster_nodes });
    let nobody = Pool { namespace: NAMESPACE.into(), name: "nobody".into(), uid: "nobody".into() };
    eventually("the engine's watches", Duration::from_secs(30), || async {
        Ok(engine.observe(&nobody).await.map(|_| ())?)
    })
    .await?;
    Ok(engine)
}
