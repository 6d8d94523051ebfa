//! All engines of a process, found by the block that a class or a ClusterNode carries.
//!
//! Made once at start and shared by the controllers.

use std::sync::Arc;

use trainyard_api::cluster_node::Engine;

use super::{Provisioner, Starting};

/// The kinds of engine there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EngineKind {
    /// Karpenter NodeClaims.
    Karpenter,
}

impl EngineKind {
    /// The kind a block is for; `None` for one that this version does not know.
    pub fn of(engine: &Engine) -> Option<Self> {
        let Engine { karpenter } = engine;
        karpenter.is_some().then_some(Self::Karpenter)
    }

    /// `apiVersion` of its backing objects.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Karpenter => "karpenter.sh/v1",
        }
    }

    /// Kind of its backing objects.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Karpenter => "NodeClaim",
        }
    }
}

/// The engines there are.
#[derive(Clone)]
pub struct Engines {
    karpenter: Arc<dyn Provisioner>,
}

impl Engines {
    /// With these.
    pub fn new(karpenter: Arc<dyn Provisioner>) -> Self {
        Self { karpenter }
    }

    /// The engine of this kind.
    pub fn get(&self, kind: EngineKind) -> &Arc<dyn Provisioner> {
        match kind {
            EngineKind::Karpenter => &self.karpenter,
        }
    }

    /// The engine that a block is for.
    pub fn of(&self, engine: &Engine) -> Option<&Arc<dyn Provisioner>> {
        EngineKind::of(engine).map(|kind| self.get(kind))
    }

    /// All of them: machines of a pool that no ClusterNode accounts for may be any engine's.
    pub fn all(&self) -> impl Iterator<Item = (EngineKind, &Arc<dyn Provisioner>)> {
        [EngineKind::Karpenter].into_iter().map(|kind| (kind, self.get(kind)))
    }

    /// Starts the watches of all.
    pub fn watches(&self, starting: &mut Starting<'_>) {
        for (_, engine) in self.all() {
            engine.watches(starting);
        }
    }
}
