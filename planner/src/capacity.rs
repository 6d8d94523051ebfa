//! Capacity as a vector: what a node has and what a run takes of it.
//!
//! A share is never a count of nodes. Runs that take a whole node carry the node's whole vector, so that packing several
//! runs on one machine is the same arithmetic.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of each resource, for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Thousandths of a CPU.
    #[serde(default)]
    pub cpu_millis: i64,
    /// Bytes.
    #[serde(default)]
    pub memory_bytes: i64,
    /// Pods: a kubelet takes no more than so many, however small they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pods: i64,
    /// Devices by extended resource name, for example `nvidia.com/gpu`. A missing key is zero.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accelerators: BTreeMap<String, i64>,
}

impl Capacity {
    /// True when `self` is enough to hold `share` in every dimension.
    pub fn holds(&self, share: &Self) -> bool {
        self.cpu_millis >= share.cpu_millis
            && self.memory_bytes >= share.memory_bytes
            && self.pods >= share.pods
            && share
                .accelerators
                .iter()
                .all(|(name, wanted)| self.accelerators.get(name).copied().unwrap_or(0) >= *wanted)
    }

    /// What is left of `self` when `share` is taken; negative where `share` is more than there is.
    #[must_use]
    pub fn minus(&self, share: &Self) -> Self {
        self.combine(share, |have, taken| have - taken)
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, share: &Self) -> Self {
        self.combine(share, |have, more| have + more)
    }

    /// True when nothing is taken in any dimension.
    pub fn is_zero(&self) -> bool {
        self.cpu_millis == 0
            && self.memory_bytes == 0
            && self.pods == 0
            && self.accelerators.values().all(|count| *count == 0)
    }

    fn combine(&self, other: &Self, with: impl Fn(i64, i64) -> i64) -> Self {
        let names = self.accelerators.keys().chain(other.accelerators.keys());
        let at = |map: &BTreeMap<String, i64>, name: &String| map.get(name).copied().unwrap_or(0);
        Self {
            cpu_millis: with(self.cpu_millis, other.cpu_millis),
            memory_bytes: with(self.memory_bytes, other.memory_bytes),
            pods: with(self.pods, other.pods),
            accelerators: names
                .map(|name| (name.clone(), with(at(&self.accelerators, name), at(&other.accelerators, name))))
                .collect(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &i64) -> bool {
    *count == 0
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}m, memory {} MiB", self.cpu_millis, self.memory_bytes >> 20)?;
        self.accelerators.iter().try_for_each(|(name, count)| write!(f, ", {name} {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(cpu: i64, memory: i64, pods: i64, gpus: i64) -> Capacity {
        let accelerators = [("gpu".to_owned(), gpus)].into();
        Capacity { cpu_millis: cpu, memory_bytes: memory, pods, accelerators }
    }

    /// One more of each dimension in turn.
    const STEPS: [[i64; 4]; 4] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];

    #[test]
    fn what_lacks_anything_does_not_hold_it() {
        let share = amount(2, 2, 2, 2);
        assert!(share.holds(&share));
        for [cpu, memory, pods, gpus] in STEPS {
            let step = amount(cpu, memory, pods, gpus);
            assert!(!share.minus(&step).holds(&share), "{step:?} less");
            assert!(share.plus(&step).holds(&share), "{step:?} more");
        }
    }

    #[test]
    fn what_is_something_of_anything_is_not_nothing() {
        assert!(amount(0, 0, 0, 0).is_zero() && Capacity::default().is_zero());
        for [cpu, memory, pods, gpus] in STEPS {
            assert!(!amount(cpu, memory, pods, gpus).is_zero(), "{cpu} {memory} {pods} {gpus}");
        }
    }
}
