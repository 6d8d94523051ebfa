//! Machines that are found, and counted.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicI64, Ordering},
};
use std::time::Duration;

use async_trait::async_trait;
use trainyard_api::cluster::ClusterErrorCode;
use trainyard_api::cluster_node::{ClusterNode, ClusterNodeSpec, Engine};
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_fake_apiserver::{FakeServer, Matching};
use trainyard_model::node::found::Counted;
use trainyard_model::node::seen::Machine;

use super::world::{CLUSTER, NAMESPACE, UsableEngine, World};
use crate::provisioner::{
    Capabilities, Error, Launch, Observed, Pool, Provisioner, Recount, Release, Released, Starting, Supply,
    Validity, Wanted,
};

/// An engine that has a number of machines; every ClusterNode with a Node has one of them.
struct Counting {
    server: FakeServer,
    machines: AtomicI64,
    /// Machines that others are about to take, which is seen only when some are to be set aside.
    about_to_go: AtomicI64,
    set_aside: Mutex<Vec<i64>>,
    recount: OnceLock<Recount>,
}

impl Counting {
    fn new(world: &World, machines: i64) -> Arc<Self> {
        Arc::new(Self {
            server: world.server.clone(),
            machines: AtomicI64::new(machines),
            about_to_go: AtomicI64::new(0),
            set_aside: Mutex::default(),
            recount: OnceLock::new(),
        })
    }

    /// From now on there are so many, and who asked is told.
    fn has(&self, machines: i64) {
        self.machines.store(machines, Ordering::Relaxed);
        let pool = Pool { namespace: NAMESPACE.into(), name: CLUSTER.into(), uid: String::new() };
        self.recount.get().unwrap()(&pool);
    }

    fn supply(&self, less: i64) -> Supply {
        let nodes = self.server.list::<ClusterNode>();
        let taken = nodes.iter().filter(|node| {
            node.status
                .as_ref()
                .is_some_and(|status| status.node_name.is_some() && status.gone_time.is_none())
        });
        let free = self.machines.load(Ordering::Relaxed) - taken.count() as i64 - less;
        let message = format!("{free} of 9 matching nodes are free");
        Supply { counted: Counted { free, matching: 9, message, too_small: None }, again_at: None }
    }

    fn asked_for(&self) -> Vec<i64> {
        std::mem::take(&mut *self.set_aside.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Provisioner for Counting {
    fn capabilities(&self) -> Capabilities {
        UsableEngine.capabilities()
    }

    fn watches(&self, _: &mut Starting<'_>) {}

    fn on_recount(&self, recount: Recount) {
        _ = self.recount.set(recount);
    }

    async fn validate(&self, pool: &Pool, engine: &Engine) -> Result<Validity, Error> {
        UsableEngine.validate(pool, engine).await
    }

    async fn count(&self, _: &Pool, _: &ClusterNodeSpec) -> Result<Option<Supply>, Error> {
        Ok(Some(self.supply(0)))
    }

    async fn set_aside(&self, _: &Pool, _: &ClusterNodeSpec, nodes: i64) -> Result<Option<Supply>, Error> {
        self.set_aside.lock().unwrap_or_else(PoisonError::into_inner).push(nodes);
        Ok(Some(self.supply(self.about_to_go.load(Ordering::Relaxed))))
    }

    async fn observe(&self, pool: &Pool) -> Result<Observed, Error> {
        UsableEngine.observe(pool).await
    }

    async fn look_up(&self, _: &Pool, _: &ClusterNode) -> Result<Option<Machine>, Error> {
        Ok(None)
    }

    async fn ensure(&self, _: &Pool, _: &[Wanted]) -> Result<Vec<Launch>, Error> {
        Ok(Vec::new())
    }

    async fn release(&self, _: &Pool, _: &[Release]) -> Vec<Released> {
        Vec::new()
    }
}

/// Some turns in which no machine comes.
async fn without_machines(world: &World) {
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        world.runs_turn();
    }
    world.settle().await;
}

fn waits_for(world: &World, run: &str) -> (Option<QueueReason>, String) {
    let queue = world.status(run).queue.unwrap_or_default();
    (queue.reason, queue.message.unwrap_or_default())
}

fn errors(world: &World) -> Vec<ClusterErrorCode> {
    world.cluster().status.unwrap_or_default().errors.iter().map(|error| error.code).collect()
}

#[tokio::test(start_paused = true)]
async fn a_gang_waits_without_a_node_and_starts_as_soon_as_all_its_machines_are_free() {
    let world = World::new();
    let engine = Counting::new(&world, 1);
    let _operator = world.start_with("a", Arc::clone(&engine) as Arc<dyn Provisioner>);
    world.submit("gang", 2);
    world.turns(4).await;
    assert!(world.nodes().is_empty(), "{}", world.shown());
    assert_eq!(
        waits_for(&world, "gang"),
        (
            Some(QueueReason::NoFreeMachines),
            "needs 2 nodes, the cluster has 0; 1 of 9 matching nodes are free".to_owned()
        )
    );
    assert_eq!(errors(&world), [ClusterErrorCode::StockOut]);
    assert_eq!(engine.asked_for(), [0; 0]);

    world.server.forget_requests();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(world.server.count(&Matching::writes()), 0, "it waits, and nothing is written");

    engine.has(2);
    world.turns(4).await;
    assert_eq!(world.status("gang").phase, Some(RunPhase::Running), "{}", world.shown());
    assert_eq!(engine.asked_for(), [2]);
    assert_eq!(errors(&world), []);
    world.until_done().await;
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_set_aside_is_not_asked_for() {
    let world = World::new();
    let engine = Counting::new(&world, 2);
    engine.about_to_go.store(1, Ordering::Relaxed);
    let _operator = world.start_with("a", Arc::clone(&engine) as Arc<dyn Provisioner>);
    world.submit("gang", 2);
    world.turns(4).await;
    assert!(world.nodes().is_empty(), "half a gang was taken: {}", world.shown());
    assert_eq!(waits_for(&world, "gang").0, Some(QueueReason::NoFreeMachines));
    assert_eq!(world.cluster().status.unwrap_or_default().last_node_ordinal, 0);

    // One that needs no more than there is takes it meanwhile.
    world.submit("single", 1);
    world.turns(4).await;
    assert_eq!(world.status("single").phase, Some(RunPhase::Running), "{}", world.shown());
}

#[tokio::test(start_paused = true)]
async fn machines_are_set_aside_for_nodes_that_have_none_yet_as_well() {
    let world = World::new();
    let engine = Counting::new(&world, 3);
    let _operator = world.start_with("a", Arc::clone(&engine) as Arc<dyn Provisioner>);
    world.submit("first", 2);
    without_machines(&world).await;
    assert_eq!(engine.asked_for(), [2]);
    world.submit("second", 1);
    without_machines(&world).await;
    assert_eq!(engine.asked_for(), [3], "two that wait for their machines, and one more");
    world.submit("third", 1);
    without_machines(&world).await;
    assert_eq!(world.nodes().len(), 3, "{}", world.shown());
    assert_eq!(engine.asked_for(), [0; 0], "all there are have been asked for");
    assert_eq!(waits_for(&world, "third").0, Some(QueueReason::BehindOthers));
}
