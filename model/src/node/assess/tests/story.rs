//! One node as a story: each step changes something and looks.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use trainyard_api::{
    capacity::Capacity,
    cluster_node::{
        CapacityType, Claim, ClusterIdentity, ClusterNodeSpec, Engine, KarpenterNode, VmSizeFacts,
    },
    conditions::{self, ClusterNodeCondition, ConditionStatus},
    placement::{NodeClassRef, Taint, TaintEffect},
    vm_size::Accelerator,
};

use super::super::*;
use crate::node::seen::{Allocatable, Backing, NodeTaint, Owner};

pub(super) const GIB: i64 = 1 << 30;

/// A ClusterNode of a size with one accelerator, its machine and the time; each step is a change and a look.
pub(super) struct Story {
    pub(super) node: ClusterNode,
    pub(super) machine: Option<Machine>,
    pub(super) gone: bool,
    pub(super) words: Option<LastWords>,
    pub(super) answer: Option<Answer>,
    pub(super) daemons: Vec<Arc<Daemon>>,
    pub(super) strangers: Option<Strangers>,
    pub(super) held_up: Option<String>,
    pub(super) now: Timestamp,
    pub(super) gone_since: Timestamp,
    pub(super) wake_at: Option<Timestamp>,
}

pub(super) fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

pub(super) fn new() -> Story {
    let spec = ClusterNodeSpec {
        cluster: ClusterIdentity { name: "gpu".into(), uid: "cluster-uid".into() },
        ordinal: 1,
        vm_size: VmSizeFacts {
            size_name: "Standard_NC6s_v3".into(),
            vcpus: 6,
            memory: Quantity("112Gi".into()),
            accelerators: vec![Accelerator {
                resource_name: "nvidia.com/gpu".into(),
                count: 1,
                product: "V100".into(),
            }],
        },
        engine: Engine {
            karpenter: Some(KarpenterNode {
                node_class_ref: NodeClassRef { group: "g".into(), kind: "K".into(), name: "n".into() },
                requirements: vec![],
                instance_type: "Standard_NC6s_v3".into(),
                capacity_type: CapacityType::OnDemand,
                zones: vec![],
                requests: BTreeMap::new(),
            }),
            ..Engine::default()
        },
        taint: Taint {
            key: "trainyard.dev/cluster".into(),
            value: "gpu".into(),
            effect: TaintEffect::NoSchedule,
        },
        tolerations: vec![],
        claims: vec![],
        idle_since: None,
        retired: None,
        released: None,
    };
    let mut node = ClusterNode::new("gpu-abcdef-1", spec);
    node.metadata.namespace = Some("lab".into());
    node.metadata.uid = Some("node-uid".into());
    node.metadata.generation = Some(1);
    Story {
        node,
        machine: None,
        gone: false,
        words: None,
        answer: None,
        daemons: vec![],
        strangers: None,
        held_up: None,
        now: start(),
        gone_since: start(),
        wake_at: None,
    }
}

pub(super) fn machine() -> Machine {
    Machine {
        uid: "machine-uid".into(),
        name: "gpu-abcdef-1".into(),
        backing: Some(Backing { created: Some(start()), node_name: None }),
        owner: Some(Owner { namespace: "lab".into(), name: "gpu-abcdef-1".into(), uid: "node-uid".into() }),
        progress: Progress::Requested,
        trouble: None,
        deleting_since: None,
        drain_skipped: false,
        found: false,
        provider_id: None,
        zone: None,
        node: None,
    }
}

pub(super) fn taint(text: &str) -> NodeTaint {
    let (rest, effect) = text.rsplit_once(':').unwrap();
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    NodeTaint { key: key.into(), value: value.into(), effect: effect.into() }
}

pub(super) fn ready_node() -> NodeFacts {
    NodeFacts {
        name: "vm-1".into(),
        uid: "vm-uid".into(),
        provider_id: Some("cloud://vm-1".into()),
        labels: BTreeMap::from([("topology.kubernetes.io/zone".into(), "z1".into())]),
        ready: true,
        ready_changed: None,
        not_ready_message: String::new(),
        cordoned: false,
        taints: vec![taint("trainyard.dev/cluster=gpu:NoSchedule")],
        allocatable: Allocatable {
            cpu_millis: 5800,
            memory_bytes: 110 * GIB,
            pods: 110,
            devices: BTreeMap::from([("nvidia.com/gpu".into(), 1)]),
        },
        deleting_since: None,
        created: Some(start()),
    }
}

impl Story {
    pub(super) fn requested(mut self) -> Self {
        self.machine = Some(machine());
        self.look()
    }

    pub(super) fn launched(self) -> Self {
        let mut story = self.requested();
        story.machine().progress = Progress::Launched;
        story.look()
    }

    /// With this Node, whatever its state.
    pub(super) fn registered(self, node: NodeFacts) -> Self {
        let mut story = self.launched();
        let machine = story.machine();
        machine.progress = Progress::Registered;
        machine.provider_id = node.provider_id.clone();
        machine.zone = Some("z1".into());
        machine.node = Some(node);
        story.look()
    }

    pub(super) fn ready(self) -> Self {
        self.registered(ready_node())
    }

    /// Its machine was there before.
    pub(super) fn found(mut self) -> Self {
        self.machine().found = true;
        self.look()
    }

    pub(super) fn spot(mut self) -> Self {
        self.node.spec.engine.karpenter.as_mut().unwrap().capacity_type = CapacityType::Spot;
        self
    }

    pub(super) fn claimed(mut self) -> Self {
        self.node.spec.claims = vec![Claim {
            run_namespace: "lab".into(),
            run_name: "mnist".into(),
            run_uid: "run-uid".into(),
            attempt: 2,
            share: Capacity::default(),
        }];
        self.look()
    }

    pub(super) fn unclaimed(mut self) -> Self {
        self.node.spec.claims.clear();
        self.look()
    }

    pub(super) fn released(mut self) -> Self {
        self.node.spec.released = Some(Time(self.now));
        self.look()
    }

    pub(super) fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().unwrap()
    }

    pub(super) fn vm(&mut self) -> &mut NodeFacts {
        self.machine().node.as_mut().unwrap()
    }

    pub(super) fn with_vm(mut self, change: impl FnOnce(&mut NodeFacts)) -> Self {
        change(self.vm());
        self.look()
    }

    pub(super) fn with_machine(mut self, change: impl FnOnce(&mut Machine)) -> Self {
        change(self.machine());
        self.look()
    }

    pub(super) fn said(mut self, cause: GivenUp, message: &str) -> Self {
        self.words = Some(LastWords {
            name: "gpu-abcdef-1".into(),
            uid: "machine-uid".into(),
            cause,
            message: message.into(),
        });
        self.look()
    }

    pub(super) fn answered(mut self, answer: Answer) -> Self {
        self.answer = Some(answer);
        self.look()
    }

    pub(super) fn vanished(mut self) -> Self {
        self.machine = None;
        self.gone = true;
        self.gone_since = self.now;
        self.look()
    }

    pub(super) fn after(mut self, span: SignedDuration) -> Self {
        self.now += span;
        self.look()
    }

    /// One look; the status is stored as the API server would. A second look at the same must say the same.
    pub(super) fn look(mut self) -> Self {
        let Assessment { status, wake_at } = self.assessed(self.now);
        if let Some(wake_at) = wake_at {
            assert!(wake_at > self.now, "a wake-up in the past: {wake_at}");
        }
        self.node.status = Some(status);
        assert_eq!(
            Some(&self.assessed(self.now).status),
            self.node.status.as_ref(),
            "the same situation, another status"
        );
        self.wake_at = wake_at;
        self
    }

    pub(super) fn assessed(&self, now: Timestamp) -> Assessment {
        let presence = match (&self.machine, self.gone) {
            (Some(machine), _) => Presence::Here(machine),
            (None, true) => Presence::Gone { since: self.gone_since },
            (None, false) => Presence::NotSeen,
        };
        let situation = Situation {
            node: &self.node,
            machine: presence,
            last_words: self.words.as_ref(),
            answer: self.answer.as_ref(),
            daemons: &self.daemons,
            strangers: self.strangers.as_ref(),
            held_up: self.held_up.as_deref(),
        };
        assess(&situation, now)
    }

    pub(super) fn status(&self) -> &ClusterNodeStatus {
        self.node.status.as_ref().unwrap()
    }

    pub(super) fn is(&self, state: NodeState, reason: NodeReason) {
        let status = self.status();
        assert_eq!(
            (status.state, status.reason),
            (Some(state), Some(reason)),
            "{}",
            status.message.as_deref().unwrap_or_default()
        );
    }

    pub(super) fn says(&self, words: &str) {
        let message = self.status().message.as_deref().unwrap_or_default();
        assert!(message.contains(words), "`{message}` lacks `{words}`");
    }

    pub(super) fn condition(&self, kind: ClusterNodeCondition) -> ConditionStatus {
        conditions::find(&self.status().conditions, kind).unwrap().status
    }

    /// Nothing changes until the wake-up, and something does then.
    pub(super) fn wakes_honestly(self) -> Self {
        let wake_at = self.wake_at.expect("a wake-up");
        let before = self.assessed(wake_at - SignedDuration::from_nanos(1));
        assert_eq!(Some(&before.status), self.node.status.as_ref(), "changed before {wake_at}");
        let then = self.assessed(wake_at);
        assert_ne!(Some(&then.status), self.node.status.as_ref(), "nothing changed at {wake_at}");
        Self { now: wake_at, ..self }.look()
    }
}
