//! All engines of a process, found by the block that a class or a ClusterNode carries.
//!
//! Made once at start and shared by the controllers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use trainyard_api::{ClusterNode, cluster_node::Engine};

use super::{Pool, Provisioner, Recount, Starting};

/// How long engines have to fill their caches before work starts without them: a list takes a second at most.
const FILLED_WITHIN: Duration = Duration::from_secs(5);
/// How often that is looked for; no request is made.
const LOOK_FOR_CACHES: Duration = Duration::from_millis(20);

/// The kinds of engine there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EngineKind {
    /// Karpenter NodeClaims.
    Karpenter,
    /// Nodes that are there already.
    Static,
}

impl EngineKind {
    /// The kind a block is for; `None` for one that this version does not know.
    pub fn of(engine: &Engine) -> Option<Self> {
        let Engine { karpenter, static_node } = engine;
        let karpenter = karpenter.as_ref().map(|_| Self::Karpenter);
        karpenter.or(static_node.as_ref().map(|_| Self::Static))
    }

    /// `apiVersion` of its backing objects.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Karpenter => "karpenter.sh/v1",
            Self::Static => "v1",
        }
    }

    /// Kind of its backing objects.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Karpenter => "NodeClaim",
            Self::Static => "Node",
        }
    }
}

/// The engines there are.
#[derive(Clone)]
pub struct Engines {
    by_kind: Arc<BTreeMap<EngineKind, Arc<dyn Provisioner>>>,
}

impl Engines {
    /// With these.
    pub fn new(engines: impl IntoIterator<Item = (EngineKind, Arc<dyn Provisioner>)>) -> Self {
        Self { by_kind: Arc::new(engines.into_iter().collect()) }
    }

    /// The engine of this kind.
    pub fn get(&self, kind: EngineKind) -> Option<&Arc<dyn Provisioner>> {
        self.by_kind.get(&kind)
    }

    /// The engine that a block is for.
    pub fn of(&self, engine: &Engine) -> Option<&Arc<dyn Provisioner>> {
        EngineKind::of(engine).and_then(|kind| self.get(kind))
    }

    /// All of them: machines of a pool that no ClusterNode accounts for may be any engine's.
    pub fn all(&self) -> impl Iterator<Item = (EngineKind, &Arc<dyn Provisioner>)> {
        self.by_kind.iter().map(|(kind, engine)| (*kind, engine))
    }

    /// Starts the watches of all.
    pub fn watches(&self, starting: &mut Starting<'_>) {
        for (_, engine) in self.all() {
            engine.watches(starting);
        }
    }

    /// Says whom to tell when what an engine has counted is another number.
    pub fn on_recount(&self, recount: &Recount) {
        for (_, engine) in self.all() {
            engine.on_recount(Arc::clone(recount));
        }
    }

    /// Tells of a ClusterNode that has changed.
    pub fn cluster_node_changed(&self, before: Option<&ClusterNode>, after: Option<&ClusterNode>) {
        for (_, engine) in self.all() {
            engine.cluster_node_changed(before, after);
        }
    }

    /// Waits until all can be asked, but not for long: one that does not fill its caches is perhaps not installed.
    pub async fn filled(&self) {
        let nobody = Pool { namespace: String::new(), name: String::new(), uid: String::new() };
        let start = Instant::now();
        while start.elapsed() < FILLED_WITHIN {
            let mut filled = true;
            for (_, engine) in self.all() {
                filled &= engine.observe(&nobody).await.is_ok();
            }
            if filled {
                return;
            }
            tokio::time::sleep(LOOK_FOR_CACHES).await;
        }
    }
}
