//! Starts the operator's parts and stops them together.
//!
//! Flow: health and metrics are served from the first moment; then the process waits for the lease; then everything
//! that acts is started by `start`. A signal lets all of it finish its step, gives the lease back and ends with
//! success. A lost lease, or a fault of any task, ends the process at once, with an error, and whoever runs it starts
//! it again.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{SharedClock, SystemClock},
    controllers,
    kubernetes::{
        client::{self, ConnectError},
        events::Events,
        leader::{Election, Lost, Term},
    },
    provisioner::{EngineKind, Engines, Provisioner, karpenter::Karpenter, static_nodes::Static},
    settings::Settings,
    tasks::{Fault, Tasks},
    telemetry::{
        metrics::{ControllerName, Metrics},
        readiness::{Gate, Readiness},
        server::{self, ServerError, Shown},
        shutdown,
    },
};

/// How long giving the lease back may take; without it the next process waits for the lease's expiry.
const RELEASE_WITHIN: Duration = Duration::from_secs(3);

/// Why the operator ended other than by request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// There are no health endpoints.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Another process may act now.
    #[error("stopping at once, because another process may act now")]
    Lost(#[source] Lost),
    /// A part has failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What every part that acts is given.
#[derive(Clone)]
pub struct Context {
    /// The client, with all its layers.
    pub client: Client,
    /// The same for the lease alone: its renewal must not wait its turn behind hundreds of requests of the controllers,
    /// or a burst of work would cost the operator the lease and with it the work.
    pub lease_client: Client,
    /// The time.
    pub clock: SharedClock,
    /// What is counted.
    pub metrics: Metrics,
    /// What must be done before the operator is ready.
    pub readiness: Readiness,
    /// What was set.
    pub settings: Arc<Settings>,
}

/// Runs the operator until a signal or a fault.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let shutdown = CancellationToken::new();
    shutdown::on_signals(shutdown.clone()).map_err(Error::Signals)?;
    let (metrics, readiness) = (Metrics::new(), Readiness::default());

    // Clients are made without asking anybody; they connect with their first request.
    let client = client::connect(settings.limits(), metrics.clone()).await?;
    let lease_client = client::connect(settings.limits(), metrics.clone()).await?;
    let clock = Arc::new(SystemClock);
    let context = Context { client, lease_client, clock, metrics, readiness, settings: Arc::new(settings) };
    // Taken before anything is served: an operator that has no gate yet would call itself ready.
    let started = first_gate(&context);

    let listener = server::bind(context.settings.listen).await?;
    let address = listener.local_addr().map_err(ServerError::Serve)?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving health and metrics");
    let shown = Shown { readiness: context.readiness.clone(), metrics: context.metrics.clone() };
    let serving = server::serve(listener, shown, CancellationToken::new());
    tokio::select! {
        served = serving => Ok(served?),
        acted = act(&context, &shutdown, started, |tasks| start(&context, tasks)) => acted,
    }
}

/// The gate that stands until every part has taken its own, or until this process knows that another one leads.
fn first_gate(context: &Context) -> Gate {
    let settings = &context.settings;
    if !settings.leader_election {
        return context.readiness.gate("start");
    }
    let candidacy = settings.candidacy(context.client.default_namespace());
    context.readiness.gate(format!("lease {}/{}", candidacy.namespace, candidacy.name))
}

/// Starts everything that acts, as `tasks`. Called once this process may act.
fn start(context: &Context, tasks: &mut Tasks) {
    let Context { client, lease_client: _, clock, metrics, readiness, settings } = context;
    let events = Events::start(client.clone(), &settings.identity(), clock.clone(), metrics.clone(), tasks);
    let karpenter: Arc<dyn Provisioner> = Arc::new(Karpenter::new(client.clone(), clock.clone()));
    let found: Arc<dyn Provisioner> = Arc::new(Static::new(client.clone(), clock.clone()));
    let engines = Engines::new([(EngineKind::Karpenter, karpenter), (EngineKind::Static, found)]);
    let nodes = controllers::node::NodeController::start(controllers::node::Setup {
        client: client.clone(),
        clock: clock.clone(),
        engines: engines.clone(),
        events: events.clone(),
        tasks,
        readiness,
        metrics,
        concurrency: settings.concurrency(ControllerName::Node),
    });
    let token = tasks.token();
    tasks.spawn("node controller", nodes.run(token));
    controllers::cluster::start(controllers::cluster::Setup {
        client: client.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        engines,
        events: events.clone(),
        concurrency: settings.concurrency(ControllerName::Cluster),
        tasks,
    });
    controllers::vm_size::start(controllers::vm_size::Setup {
        client: client.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        concurrency: settings.concurrency(ControllerName::VmSize),
        tasks,
    });
    controllers::run::start(controllers::run::Setup {
        client: client.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        events: events.clone(),
        concurrency: settings.concurrency(ControllerName::Run),
        tasks,
    });
    controllers::experiment::start(controllers::experiment::Setup {
        client: client.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        events,
        concurrency: settings.concurrency(ControllerName::Experiment),
        tasks,
    });
}

/// Waits for the lease, acts while holding it, and gives it back.
async fn act(
    context: &Context,
    shutdown: &CancellationToken,
    mut started: Gate,
    start: impl FnOnce(&mut Tasks),
) -> Result<(), Error> {
    let mut tasks = Tasks::new(shutdown.clone());
    if !context.settings.leader_election {
        start(&mut tasks);
        started.open();
        return Ok(tasks.run().await?);
    }
    let Some(mut term) = win(context, shutdown, &mut started).await else { return Ok(()) };
    context.metrics.set_leading(true);
    start(&mut tasks);
    started.open();
    // The lease is renewed while tasks finish, too. When it is lost they are dropped where they are.
    tokio::select! {
        biased;
        lost = term.keep() => return Err(Error::Lost(lost)),
        ended = tasks.run() => ended?,
    }
    context.metrics.set_leading(false);
    match timeout(RELEASE_WITHIN, term.release()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = error.chain(), "the lease was not given back and has to expire");
        }
        Err(_) => tracing::warn!("the lease was not given back in time and has to expire"),
    }
    Ok(())
}

/// The term that was won, or `None` when a shutdown came first.
async fn win(context: &Context, shutdown: &CancellationToken, standby: &mut Gate) -> Option<Term> {
    let candidacy = context.settings.candidacy(context.client.default_namespace());
    let election = Election::new(context.lease_client.clone(), candidacy, context.clock.clone());
    tokio::select! {
        () = shutdown.cancelled() => None,
        term = election.win(standby) => Some(term),
    }
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
