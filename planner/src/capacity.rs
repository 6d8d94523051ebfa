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
