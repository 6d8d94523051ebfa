//! All engines of a process, found by the block that a class or a ClusterNode carries.
//!
//! Made once at start and shared by the controllers.

use std::sync::Arc;

use trainyard_api::cluster_node::Engine;

use super::{Provisioner, Starting};

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

    /// The engine that a block is for; `None` for a block of an engine this version does not know.
    pub fn of(&self, engine: &Engine) -> Option<&Arc<dyn Provisioner>> {
        let Engine { karpenter } = engine;
        karpenter.is_some().then_some(&self.karpenter)
    }

    /// All of them: machines of a pool that no ClusterNode accounts for may be any engine's.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Provisioner>> {
        std::iter::once(&self.karpenter)
    }

    /// Starts the watches of all.
    pub fn watches(&self, starting: &mut Starting<'_>) {
        for engine in self.all() {
            engine.watches(starting);
        }
    }
}
