//! Of a machine that is a Node: whether runs can use it, what is in the way, and for how long that may be so.

use trainyard_api::{
    Time,
    capacity::{Capacity, MAX_PODS},
    cluster_node::{NodeReason, NodeState},
    conditions::{self, ClusterNodeCondition},
    text::because,
};

use super::{Look, Verdict, minutes};
use crate::node::{
    daemons, limits,
    pods::PodId,
    seen::NodeFacts,
    strangers::Crowded,
    usable::{self, Obstacle},
};

impl Look<'_> {
    /// Lost, if it was ready once and has been silent for too long.
    pub(super) fn lost(&mut self) -> Option<Verdict> {
        self.status.first_ready_time.as_ref()?;
        let since = self.status.not_ready_since.clone()?;
        self.is_over(Some(&since), limits::LOST_AFTER).then(|| {
            let why = self.seen_node().map(|node| node.not_ready_message.as_str()).unwrap_or_default();
            let seconds = limits::LOST_AFTER.as_secs();
            Verdict::new(
                NodeState::Unusable,
                NodeReason::Lost,
                format!("its Node has not been Ready for {seconds} s{}", because(why)),
            )
        })
    }

    /// Lost after all, if it was preempted and has fallen silent since. Its run's pods are waited for, because they may use the
    /// notice that they have; but a cloud that stops a machine and keeps it, and its Node, would have them waited for without end.
    pub(super) fn lost_in_preemption(&mut self) -> Option<Verdict> {
        if self.status.reason != Some(NodeReason::Preempted) {
            return None;
        }
        self.seen_node().filter(|node| !node.ready)?;
        Some(Verdict { state: NodeState::Preempted, ..self.lost()? })
    }

    pub(super) fn with_node(&mut self, node: &NodeFacts) -> Verdict {
        if let Some(lost) = self.lost() {
            return lost;
        }
        let spec = &self.s.node.spec;
        let Some(obstacle) = usable::obstacle(spec, node).or_else(|| self.taken_by_others(node)) else {
            self.status.allocatable = Some(self.measure(node));
            self.status.first_ready_time.get_or_insert(Time(self.now));
            return match spec.claims.first() {
                None => Verdict::new(NodeState::Idle, NodeReason::Ready, "ready for runs"),
                Some(claim) => Verdict::new(
                    NodeState::Running,
                    NodeReason::Claimed,
                    format!(
                        "held by Run {}/{}, attempt {}",
                        claim.run_namespace, claim.run_name, claim.attempt
                    ),
                ),
            };
        };
        let (reason, message) = self.describe(&obstacle, node);
        if let Some(limit_passed) = self.never_usable(&obstacle, &message) {
            return limit_passed;
        }
        let state = match (&self.status.first_ready_time, self.is_claimed()) {
            (None, _) => NodeState::Preparing,
            (Some(_), true) => NodeState::Running,
            (Some(_), false) => NodeState::Idle,
        };
        Verdict::new(state, reason, message)
    }

    /// Accelerators that the size promises and somebody else's pod has: no run can do without them. Or most of the rest.
    fn taken_by_others(&self, node: &NodeFacts) -> Option<Obstacle> {
        let strangers = self.s.strangers?;
        let left = strangers.left_of(node.allocatable.clone());
        let accelerators = self.s.node.spec.vm_size.accelerators.iter().find_map(|accelerator| {
            let (resource, needs) = (&accelerator.resource_name, i64::from(accelerator.count));
            let has = left.devices.get(resource).copied().unwrap_or(0);
            (has < needs).then(|| Obstacle::Taken {
                resource: resource.clone(),
                has,
                needs,
                pod: strangers.with_devices.clone(),
            })
        });
        accelerators.or_else(|| strangers.crowd(&node.allocatable).map(Obstacle::Crowded))
    }

    /// What there is for runs: the Node's allocatable less its DaemonSets and other pods, and of accelerators those of the
    /// size.
    fn measure(&self, node: &NodeFacts) -> Capacity {
        let left = daemons::left_for_runs(node, self.s.daemons);
        let left = match self.s.strangers {
            Some(strangers) => strangers.left_of(left),
            None => left,
        };
        let accelerators = self.s.node.spec.vm_size.accelerators.iter().map(|accelerator| {
            let name = accelerator.resource_name.clone();
            let count = left.devices.get(&name).copied().unwrap_or(0);
            (name, count)
        });
        Capacity {
            cpu_millis: left.cpu_millis,
            memory_bytes: left.memory_bytes,
            pods: left.pods.min(MAX_PODS),
            accelerators: accelerators.collect(),
        }
    }

    /// A Node that stays of no use. One that a person cordoned is that person's matter, and a claimed one is let be.
    fn never_usable(&mut self, obstacle: &Obstacle, why: &str) -> Option<Verdict> {
        let since = match (&self.status.first_ready_time, obstacle) {
            (_, Obstacle::Cordoned) => return None,
            (None, _) => self.status.registered_time.clone(),
            (
                Some(_),
                Obstacle::Taint(_)
                | Obstacle::Accelerators { .. }
                | Obstacle::Taken { .. }
                | Obstacle::Crowded(_),
            ) if !self.is_claimed() => conditions::find(&self.status.conditions, ClusterNodeCondition::Ready)
                .filter(|ready| !ready.is_true())
                .map(|ready| ready.last_transition_time.clone()),
            (Some(_), _) => return None,
        };
        self.is_over(since.as_ref(), limits::USABLE).then(|| {
            Verdict::new(
                NodeState::Unusable,
                NodeReason::NotUsableInTime,
                format!("of no use to runs for {}: {why}", minutes(limits::USABLE)),
            )
        })
    }

    fn describe(&mut self, obstacle: &Obstacle, node: &NodeFacts) -> (NodeReason, String) {
        match obstacle {
            Obstacle::NotRegistered => {
                (NodeReason::NodeNotReady, "the engine has not finished registering its Node".to_owned())
            }
            Obstacle::NotReady(why) => {
                (NodeReason::NodeNotReady, format!("its Node is not ready{}", because(why)))
            }
            Obstacle::Cordoned => (
                NodeReason::Cordoned,
                format!("somebody cordoned it; `kubectl uncordon {}` gives it back to runs", node.name),
            ),
            Obstacle::Taint(taint) => (
                NodeReason::TaintNotTolerated,
                format!(
                    "run pods do not tolerate taint {taint}: add {{key: {}, operator: Exists, effect: {}}} to \
                     tolerations of the ProvisioningClass, or take the taint off",
                    taint.key, taint.effect
                ),
            ),
            Obstacle::Taken { resource, has, needs, pod } => (
                NodeReason::WaitingForAccelerators,
                format!(
                    "{has} of {needs} {resource} are left: {} is in the way",
                    self.stranger(pod.as_ref())
                ),
            ),
            Obstacle::Crowded(Crowded { resource, left, whole, by }) => (
                NodeReason::TakenByOthers,
                format!("{left} of {whole} {resource} are left: {} is in the way", self.stranger(Some(by))),
            ),
            Obstacle::Accelerators { resource, has, needs } => {
                self.accelerators_missing(node, resource, *has, *needs)
            }
        }
    }

    fn stranger(&self, pod: Option<&PodId>) -> String {
        let namespace = self.s.node.metadata.namespace.as_deref().unwrap_or_default();
        let told = pod.map_or_else(|| "a pod".to_owned(), |pod| pod.told_in(namespace));
        format!("{told}, which is of no run that was given this node,")
    }

    /// A device plugin may be minutes late, and is waited for. After a while what is in its way is named: most often
    /// our own taint, which keeps the plugin's DaemonSet off.
    fn accelerators_missing(
        &mut self,
        node: &NodeFacts,
        resource: &str,
        has: i64,
        needs: i64,
    ) -> (NodeReason, String) {
        let waits = format!("{has} of {needs} {resource} are allocatable");
        let registered = self.status.registered_time.clone();
        if !self.is_over(registered.as_ref(), limits::PATIENCE_WITH_ACCELERATORS) {
            return (NodeReason::WaitingForAccelerators, format!("{waits}; waiting for the device plugin"));
        }
        let taint = &self.s.node.spec.taint;
        let toleration = format!("{{key: {}, operator: Exists, effect: {}}}", taint.key, taint.effect);
        let kept_off = daemons::kept_off(node, taint, self.s.daemons);
        if kept_off.is_empty() {
            return (
                NodeReason::WaitingForAccelerators,
                format!(
                    "{waits}, and no DaemonSet is kept off by its taint: is a device plugin for {resource} installed, \
                     and does it tolerate {toleration}?"
                ),
            );
        }
        let mut names = kept_off.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        if kept_off.len() > 3 {
            names.push_str(", ...");
        }
        (
            NodeReason::TaintNotTolerated,
            format!(
                "{waits}; taint {}={}:{} keeps off DaemonSet {names}: if it is the device plugin, add {toleration} to \
                 its tolerations",
                taint.key, taint.value, taint.effect
            ),
        )
    }
}
