#![allow(clippy::unwrap_used)]

use jiff::SignedDuration;
use serde_json::json;
use trainyard_api::Time;
use trainyard_model::node::seen::GivenUp;

use super::*;
use crate::{
    clock::{Clock as _, TokioClock},
    provisioner::{Provisioner as _, Wanted, memory::Memory},
};

const CLUSTER: &str = "cluster-uid";

/// A node with a machine that is ready, as the engine in memory makes it.
struct Bench {
    now: Timestamp,
    seen: SeenNode,
}

fn cluster_node() -> ClusterNode {
    serde_json::from_value(json!({
        "metadata": {"name": "gpu-abcdef-1", "namespace": "lab", "uid": "node-uid"},
        "spec": {
            "cluster": {"name": "gpu", "uid": CLUSTER},
            "ordinal": 1,
            "vmSize": {"sizeName": "Standard_D2s_v5", "vcpus": 2, "memory": "8Gi"},
            "engine": {"karpenter": {
                "nodeClassRef": {"group": "g.io", "kind": "K", "name": "n"},
                "instanceType": "Standard_D2s_v5",
                "capacityType": "on-demand",
            }},
            "taint": {"key": "trainyard.dev/cluster", "value": "gpu", "effect": "NoSchedule"},
        },
    }))
    .unwrap()
}

fn the_pool() -> Pool {
    Pool { namespace: "lab".into(), name: "gpu".into(), uid: CLUSTER.into() }
}

async fn ready() -> Bench {
    let clock = TokioClock::default();
    let engine = Memory::new(Arc::new(clock));
    let node = Arc::new(cluster_node());
    engine.ensure(&the_pool(), &[Wanted { node: Arc::clone(&node), machine: None }]).await.unwrap();
    let machine = engine.machine("gpu-abcdef-1").unwrap();
    let seen = SeenNode {
        node,
        engine: Some(EngineKind::Karpenter),
        machine: SeenMachine::Here(Box::new(machine)),
        last_words: None,
        answer: None,
        strangers: None,
        held_up: None,
    };
    let mut bench = Bench { now: clock.now(), seen };
    bench.store();
    bench
}

impl Bench {
    fn decide(&self) -> Decision {
        decide(&observation(vec![self.seen.clone()], vec![]), self.now)
    }

    /// Writes the status that was decided.
    fn store(&mut self) {
        let status = self.decide().statuses.remove(0);
        Arc::make_mut(&mut self.seen.node).status = Some(status);
    }

    fn released(mut self) -> Self {
        Arc::make_mut(&mut self.seen.node).spec.released = Some(Time(self.now));
        self
    }

    fn machine(&mut self) -> &mut Machine {
        match &mut self.seen.machine {
            SeenMachine::Here(machine) => machine,
            other => panic!("no machine: {other:?}"),
        }
    }

    fn after(mut self, span: SignedDuration) -> Self {
        self.now += span;
        self
    }

    fn removal(&self) -> Option<Removal> {
        let mut removals = self.decide().removals;
        assert!(removals.len() <= 1);
        removals.pop()
    }
}

fn observation(nodes: Vec<SeenNode>, strays: Vec<Stray>) -> Observation {
    Observation { pool: the_pool(), nodes, strays, daemons: vec![], is_blind: false }
}

#[tokio::test(start_paused = true)]
async fn only_a_released_node_is_removed() {
    let bench = ready().await;
    assert_eq!(bench.decide().removals, []);
    assert_eq!(bench.decide().launches, Vec::<String>::new());
    let removal = bench.released().removal().unwrap();
    assert_eq!(removal.warrant, Warrant::Released { node_uid: "node-uid".into() });
    assert_eq!(removal.drain, Drain::Wait);
}

#[tokio::test(start_paused = true)]
async fn before_a_machine_goes_its_node_is_cordoned_and_looked_at() {
    let mut bench = ready().await.released();
    let removal = bench.removal().unwrap();
    assert_eq!(removal.cordon.unwrap().name, "gpu-abcdef-1");
    assert_eq!(removal.empty.as_deref(), Some("gpu-abcdef-1"));
    bench.machine().node.as_mut().unwrap().cordoned = true;
    let removal = bench.removal().unwrap();
    assert_eq!((removal.cordon, removal.empty.as_deref()), (None, Some("gpu-abcdef-1")), "cordoned already");
    bench.machine().node = None;
    let removal = bench.removal().unwrap();
    assert_eq!(
        removal.empty.as_deref(),
        Some("gpu-abcdef-1"),
        "a Node that the caches lack is looked at, too"
    );
    assert!(removal.cordon.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_never_was_a_node_goes_at_once() {
    let mut bench = ready().await;
    Arc::make_mut(&mut bench.seen.node).status = None;
    bench.machine().node = None;
    bench.machine().progress = trainyard_model::node::seen::Progress::Launched;
    let removal = bench.released().removal().unwrap();
    assert_eq!((removal.cordon, removal.empty, removal.drain), (None, None, Drain::Wait));
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_waited_for_and_then_skipped_after_another_look() {
    let mut bench = ready().await.released();
    bench.machine().deleting_since = Some(bench.now);
    let end = bench.now + limits::DRAIN;
    assert_eq!((bench.removal(), bench.decide().wake_at), (None, Some(end)));
    let mut bench = bench.after(limits::DRAIN);
    let removal = bench.removal().unwrap();
    assert_eq!((removal.drain, removal.cordon), (Drain::Skip, None));
    assert!(removal.empty.is_some(), "an idle machine's pods are looked for once more");
    bench.machine().drain_skipped = true;
    assert_eq!(bench.removal(), None, "said once");
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_is_neither_cordoned_nor_looked_at_nor_drained() {
    let mut bench = ready().await;
    bench.machine().node.as_mut().unwrap().ready = false;
    bench.store();
    let mut bench = bench.after(limits::LOST_AFTER);
    bench.store();
    let mut bench = bench.released();
    let removal = bench.removal().unwrap();
    assert_eq!((removal.cordon, removal.empty, removal.drain), (None, None, Drain::Skip));
    bench.machine().deleting_since = Some(bench.now);
    assert_eq!(bench.removal().unwrap().drain, Drain::Skip, "also when it is being deleted already");
}

#[tokio::test(start_paused = true)]
async fn what_holds_up_a_release_is_asked_again_when_its_time_has_come() {
    let mut bench = ready().await.released();
    let until = bench.now + SignedDuration::from_secs(5);
    bench.seen.held_up = Some(HeldUp { by: "a pod".into(), until });
    assert_eq!((bench.removal(), bench.decide().wake_at), (None, Some(until)));
    assert!(bench.after(SignedDuration::from_secs(5)).removal().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_launch_is_wanted_once_and_never_after_an_end() {
    let mut bench = ready().await;
    bench.seen.machine = SeenMachine::NotSeen;
    Arc::make_mut(&mut bench.seen.node).status = None;
    assert_eq!(bench.decide().launches, ["node-uid"]);

    let with = |change: fn(&mut SeenNode)| {
        let mut seen = bench.seen.clone();
        change(&mut seen);
        decide(&observation(vec![seen], vec![]), bench.now).launches.len()
    };
    assert_eq!(with(|seen| seen.answer = Some(Answer::Requested { machine_uid: "m".into() })), 0);
    assert_eq!(with(|seen| seen.engine = None), 0, "an engine of a newer version");
    assert_eq!(
        with(|seen| Arc::make_mut(&mut seen.node).spec.released = Some(Time(Timestamp::UNIX_EPOCH))),
        0
    );
    assert_eq!(
        with(|seen| Arc::make_mut(&mut seen.node).metadata.deletion_timestamp =
            Some(Time(Timestamp::UNIX_EPOCH))),
        0
    );
    assert_eq!(
        with(|seen| {
            let status = ClusterNodeStatus { machine_uid: Some("m".into()), ..ClusterNodeStatus::default() };
            Arc::make_mut(&mut seen.node).status = Some(status);
        }),
        0,
        "it had one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stray_is_destroyed_when_its_time_is_over_and_not_before() {
    let mut bench = ready().await;
    let machine = bench.machine().clone();
    let stray = |since: Timestamp, now: Timestamp, deleting: Option<Timestamp>| {
        let machine = Machine { deleting_since: deleting, ..machine.clone() };
        let stray = Stray { engine: EngineKind::Karpenter, machine, since, is_new: false, held_up: None };
        let decision = decide(&observation(vec![], vec![stray]), now);
        (decision.removals.into_iter().next(), decision.wake_at)
    };
    let start = bench.now;
    let end = start + limits::STRAY;
    assert_eq!(stray(start, start, None), (None, Some(end)));
    let (removal, _) = stray(start, end, None);
    let removal = removal.unwrap();
    assert_eq!((removal.warrant, removal.drain), (Warrant::Stray, Drain::Wait));
    assert!(removal.empty.is_some(), "a live pod of ours would keep it");
    assert_eq!(stray(start, end, Some(end)).0, None, "it is going");
    let hanging = stray(start, end + limits::DRAIN, Some(end)).0.unwrap();
    assert_eq!(hanging.drain, Drain::Skip);
}

#[tokio::test(start_paused = true)]
async fn last_words_of_a_stock_out_are_the_nodes_reason() {
    let mut bench = ready().await;
    Arc::make_mut(&mut bench.seen.node).status = None;
    bench.machine().node = None;
    bench.machine().progress = trainyard_model::node::seen::Progress::Requested;
    bench.seen.last_words = Some(LastWords {
        name: "gpu-abcdef-1".into(),
        uid: "memory-machine-1".into(),
        cause: GivenUp::StockOut,
        message: "none left".into(),
    });
    assert_eq!(bench.decide().statuses[0].reason, Some(NodeReason::StockOut));
}
