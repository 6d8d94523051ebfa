//! What every case does with the engine: asks for nodes, waits for what follows, gives everything back.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use trainyard_api::{
    ClusterNode,
    cluster_node::{CapacityType, ClusterIdentity, ClusterNodeSpec, Engine, KarpenterNode, VmSizeFacts},
    placement::{NodeClassRef, Taint, TaintEffect},
    vm_size::Accelerator,
};
use trainyard_model::node::seen::{Machine, Progress};

use super::{STOCK, World, eventually};
use crate::{
    kubernetes::ErrorKind,
    provisioner::{
        Doomed, Drain, Launched, Observed, Origin, Pool, Provisioner, Release, ReleaseOutcome, Wanted,
    },
};

/// The size of all machines: 6 cpus, 112 GiB, one GPU.
const SIZE: &str = "Standard_NC6s_v3";

/// An engine at work for the pool of one case.
pub(super) struct Bench<'a> {
    pub(super) world: &'a dyn World,
    pub(super) engine: Arc<dyn Provisioner>,
    pub(super) pool: Pool,
    /// The pool whose machines it asks for: its own, or a rival's.
    source: Pool,
}

/// A pool named after its case, short enough for a Cluster's name.
pub(super) fn pool(case: &str) -> Pool {
    let name: String = case.split('_').filter_map(|word| word.chars().next()).collect();
    // Engines compare UIDs as text; this one has the form of a real one.
    let digest =
        case.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(1_099_511_628_211).wrapping_add(byte.into()));
    Pool {
        namespace: "conformance".to_owned(),
        uid: format!("{:08x}-0000-4000-8000-{:012x}", digest >> 32, digest & 0xffff_ffff_ffff),
        name,
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(world: &'a dyn World, pool: Pool) -> Self {
        Self { world, engine: world.engine(), source: pool.clone(), pool }
    }

    /// Whether machines are found here.
    pub(super) fn finds(&self) -> bool {
        self.engine.capabilities().origin == Origin::Found
    }

    /// Waits until the engine has seen the machines that were put there to be found.
    pub(super) async fn stocked(&self) -> Result<()> {
        if !self.finds() {
            return Ok(());
        }
        eventually(|| async {
            let supply = self.engine.count(&self.pool, &self.node(1).spec).await?.context("not counted")?;
            let stock = i64::try_from(STOCK)?;
            ensure!((supply.counted.free, supply.counted.matching) == (stock, stock), "{supply:?}");
            Ok(())
        })
        .await
    }

    /// Another pool that asks for the same machines.
    pub(super) fn rival(&self) -> Self {
        let name = format!("{}-rival", self.pool.name);
        Self {
            world: self.world,
            engine: Arc::clone(&self.engine),
            pool: Pool { name: name.clone(), ..pool(&name) },
            source: self.source.clone(),
        }
    }

    /// The same pool, in a process that has just started.
    pub(super) async fn restarted(&self) -> Result<Self> {
        let engine = self.world.restarted().await?;
        Ok(Self { world: self.world, engine, pool: self.pool.clone(), source: self.source.clone() })
    }

    pub(super) fn node(&self, ordinal: i64) -> Arc<ClusterNode> {
        let Pool { namespace, name, uid } = &self.pool;
        let spec = ClusterNodeSpec {
            cluster: ClusterIdentity { name: name.clone(), uid: uid.clone() },
            ordinal,
            vm_size: VmSizeFacts {
                size_name: SIZE.to_owned(),
                vcpus: 6,
                memory: Quantity("112Gi".to_owned()),
                accelerators: vec![Accelerator {
                    resource_name: "nvidia.com/gpu".to_owned(),
                    count: 1,
                    product: "V100".to_owned(),
                }],
            },
            engine: self.world.block(&self.source),
            taint: Taint {
                key: "trainyard.dev/cluster".to_owned(),
                value: name.clone(),
                effect: TaintEffect::NoSchedule,
            },
            tolerations: vec![],
            claims: vec![],
            idle_since: None,
            retired: None,
            released: None,
        };
        let mut node = ClusterNode::new(&format!("{name}-{}-{ordinal}", &uid[..6]), spec);
        node.metadata.namespace = Some(namespace.clone());
        node.metadata.uid = Some(format!("{}-0000-4000-8000-{ordinal:012}", &uid[..8]));
        Arc::new(node)
    }

    pub(super) fn nodes(&self, ordinals: impl IntoIterator<Item = i64>) -> Vec<Arc<ClusterNode>> {
        ordinals.into_iter().map(|ordinal| self.node(ordinal)).collect()
    }

    /// Asks for one machine, whatever the answer.
    pub(super) async fn ask(&self, node: &Arc<ClusterNode>) -> Result<Launched> {
        let wanted = [Wanted { node: Arc::clone(node), machine: None }];
        let answers = self.engine.ensure(&self.pool, &wanted).await?;
        ensure!(answers.len() == 1, "{} answers to one wish", answers.len());
        Ok(answers.into_iter().next().context("no answer")?.result?)
    }

    /// Asks for machines; all must be taken. Returns their UIDs in the order asked.
    pub(super) async fn ensure(&self, nodes: &[Arc<ClusterNode>]) -> Result<Vec<String>> {
        let wanted: Vec<_> =
            nodes.iter().map(|node| Wanted { node: Arc::clone(node), machine: None }).collect();
        let mut answers = BTreeMap::new();
        for launch in self.engine.ensure(&self.pool, &wanted).await? {
            match launch.result? {
                Launched::Requested { machine_uid } => _ = answers.insert(launch.node_uid, machine_uid),
                other => bail!("a launch was answered {other:?}"),
            }
        }
        nodes
            .iter()
            .map(|node| {
                answers.remove(&uid(node)).with_context(|| format!("no answer about {}", node.name_any()))
            })
            .collect()
    }

    pub(super) async fn observe(&self) -> Result<Observed> {
        Ok(self.engine.observe(&self.pool).await?)
    }

    pub(super) async fn machine(&self, node: &ClusterNode) -> Result<Machine> {
        let observed = self.observe().await?;
        observed.machine_of(node).cloned().with_context(|| format!("{} has no machine", node.name_any()))
    }

    /// Waits until the node's machine is a Node that is ready.
    pub(super) async fn ready(&self, node: &ClusterNode) -> Result<Machine> {
        eventually(|| async {
            let machine = self.machine(node).await?;
            let seen = machine.node.as_ref().context("no Node yet")?;
            ensure!(machine.progress == Progress::Registered, "only {:?}", machine.progress);
            ensure!(seen.ready, "not ready: {}", seen.not_ready_message);
            Ok(machine)
        })
        .await
        .with_context(|| format!("{} should become ready", node.name_any()))
    }

    pub(super) async fn gone(&self, node: &ClusterNode) -> Result<()> {
        eventually(|| async {
            ensure!(self.engine.look_up(&self.pool, node).await?.is_none(), "a live read still finds it");
            ensure!(self.observe().await?.machine_of(node).is_none(), "it is still observed");
            Ok(())
        })
        .await
        .with_context(|| format!("the machine of {} should be gone", node.name_any()))
    }

    /// Asks again on a conflict, as a controller does: the engine's own writers are at work on the same object.
    pub(super) async fn release(&self, doomed: Doomed, drain: Drain) -> Result<ReleaseOutcome> {
        eventually(|| async {
            let release = Release { machine: Box::new(doomed.clone()), drain };
            let answers = self.engine.release(&self.pool, &[release]).await;
            ensure!(answers.len() == 1, "{} answers to one release", answers.len());
            let answer = answers.into_iter().next().context("no answer to a release")?;
            match answer.result {
                Ok(outcome) => Ok(Ok(outcome)),
                Err(error) if error.kind() == ErrorKind::Conflict => Err(error.into()),
                Err(error) => Ok(Err(error)),
            }
        })
        .await?
        .map_err(Into::into)
    }

    /// Gives back what the case has used. It goes in the engine's own time; other cases have other pools.
    pub(super) async fn clean_up(&self, nodes: &[Arc<ClusterNode>]) -> Result<()> {
        for node in nodes {
            if let Some(machine) = self.engine.look_up(&self.pool, node).await? {
                self.release(Doomed::of(&machine), Drain::Skip).await?;
            }
        }
        Ok(())
    }
}

/// The block of a class of Karpenter's, for machines of the size that cases ask for.
pub fn karpenter_block(class: NodeClassRef) -> Engine {
    let requests = [("cpu", "5"), ("memory", "90Gi"), ("pods", "20"), ("nvidia.com/gpu", "1")];
    let node = KarpenterNode {
        node_class_ref: class,
        requirements: vec![],
        instance_type: SIZE.to_owned(),
        capacity_type: CapacityType::OnDemand,
        zones: vec![],
        requests: requests.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into(),
    };
    Engine { karpenter: Some(node), ..Engine::default() }
}

pub(super) fn uid(node: &ClusterNode) -> String {
    node.uid().unwrap_or_default()
}
