//! The conditions of a ClusterNode, from the verdict and the times reached so far.

use trainyard_api::{
    cluster_node::{NodeReason, NodeState},
    conditions::{self, ClusterNodeCondition, Condition, ConditionStatus},
};

use super::{Look, is_bad};

impl Look<'_> {
    pub(super) fn set_conditions(&mut self, state: NodeState, reason: NodeReason, message: &str) {
        let launched = reached(self.status.launched_time.is_some(), state);
        let registered = reached(self.status.registered_time.is_some(), state);
        let usable = matches!(
            (state, reason),
            (NodeState::Idle, NodeReason::Ready) | (NodeState::Running, NodeReason::Claimed)
        );
        let accelerators = self.accelerators();
        let ready = if usable { ConditionStatus::True } else { ConditionStatus::False };
        let mut set = |kind, status: ConditionStatus, reason: &str, message: &str| {
            conditions::set(
                &mut self.status.conditions,
                Condition::new(kind, status, reason, message, self.now),
            );
        };
        // A condition that holds says the same for ever; its words would only make writes.
        for (kind, status) in
            [(ClusterNodeCondition::Launched, launched), (ClusterNodeCondition::Registered, registered)]
        {
            if status == ConditionStatus::True {
                set(kind, status, kind.as_str(), "");
            } else {
                set(kind, status, reason.as_str(), message);
            }
        }
        if let Some((status, why)) = accelerators {
            set(ClusterNodeCondition::AcceleratorsReady, status, &why, "");
        }
        if usable {
            set(ClusterNodeCondition::Ready, ready, ClusterNodeCondition::Ready.as_str(), "");
        } else {
            set(ClusterNodeCondition::Ready, ready, reason.as_str(), message);
        }
    }

    /// Nothing to say while no Node is seen: what was said last stays.
    fn accelerators(&self) -> Option<(ConditionStatus, String)> {
        let node = self.seen_node()?;
        let promised = &self.s.node.spec.vm_size.accelerators;
        let has = |name: &String| node.allocatable.devices.get(name).copied().unwrap_or(0);
        let missing = promised.iter().any(|one| has(&one.resource_name) < i64::from(one.count));
        Some(match (promised.is_empty(), missing) {
            (true, _) => (ConditionStatus::True, "NonePromised".to_owned()),
            (false, true) => (ConditionStatus::False, NodeReason::WaitingForAccelerators.as_str().to_owned()),
            (false, false) => (ConditionStatus::True, "Allocatable".to_owned()),
        })
    }
}

fn reached(is_reached: bool, state: NodeState) -> ConditionStatus {
    match (is_reached, is_bad(state)) {
        (true, _) => ConditionStatus::True,
        (false, true) => ConditionStatus::False,
        (false, false) => ConditionStatus::Unknown,
    }
}
