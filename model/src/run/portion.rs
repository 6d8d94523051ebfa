//! How much of each machine a Run takes, when it does not take the whole of it.
//!
//! In: what the user wrote, and what a machine has. Out: amounts of cpu, memory and accelerators. What the user left out
//! follows from what he wrote, so that `accelerators: 1` on a machine of eight is an eighth of everything, and eight such
//! Runs fill it exactly.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use trainyard_api::capacity::{self, Capacity};
use trainyard_api::resources_per_node::ResourcesPerNode;

use super::error::InvalidRun;
use super::valid::ValidRun;

/// What a user asks of each machine; at least one of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Devices, zero or more.
    accelerators: i64,
    /// Thousandths of a cpu, one or more.
    cpu_millis: Option<i64>,
    /// Bytes, one or more.
    memory_bytes: Option<i64>,
}

/// Why what is written is no portion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAmount {
    /// The field below `spec.resourcesPerNode`.
    pub field: &'static str,
    /// What is written there.
    pub found: String,
}

/// Why a portion cannot be had of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unportionable {
    /// It has no accelerators at all.
    NoAccelerators,
    /// It has accelerators of several resources, and a number says nothing about which.
    ManyKinds,
}

impl Portion {
    /// Checks what is written. An API server has refused most of what is refused here.
    pub fn parse(written: &ResourcesPerNode) -> Result<Self, NoAmount> {
        // No `..`: a new field must make somebody decide what it means here.
        let ResourcesPerNode { accelerators, cpu, memory } = written;
        let amount = |field, value: &Option<IntOrString>, read: fn(&Quantity) -> Option<i64>| {
            let Some(value) = value else { return Ok(None) };
            let found = match value {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(text) => text.clone(),
            };
            match read(&Quantity(found.clone())) {
                Some(amount) if amount > 0 => Ok(Some(amount)),
                Some(_) | None => Err(NoAmount { field, found }),
            }
        };
        let portion = Self {
            accelerators: i64::from(accelerators.unwrap_or(0)),
            cpu_millis: amount("cpu", cpu, capacity::millis)?,
            memory_bytes: amount("memory", memory, capacity::bytes)?,
        };
        let empty =
            portion.accelerators == 0 && portion.cpu_millis.is_none() && portion.memory_bytes.is_none();
        if portion.accelerators < 0 || empty {
            return Err(NoAmount { field: "accelerators", found: portion.accelerators.to_string() });
        }
        Ok(portion)
    }

    /// How many accelerators it asks for.
    pub fn accelerators(&self) -> i64 {
        self.accelerators
    }

    /// The amounts, for `pods` pods on a machine that has `machine`. What is written may be more than it has; what is left out is at least 1 and
    /// at most all.
    pub fn of(&self, machine: &Capacity, pods: i64) -> Result<Capacity, Unportionable> {
        let mut kinds = machine.accelerators.iter().filter(|(_, count)| **count > 0);
        let accelerators = match (self.accelerators, kinds.next(), kinds.next()) {
            (0, _, _) => None,
            (_, None, _) => return Err(Unportionable::NoAccelerators),
            (_, Some(_), Some(_)) => return Err(Unportionable::ManyKinds),
            (wanted, Some((resource, count)), None) => Some((resource, wanted, *count)),
        };
        let (part, whole) = match (accelerators, self.cpu_millis, self.memory_bytes) {
            (Some((_, wanted, count)), _, _) => (wanted, count),
            (None, Some(cpu), _) => (cpu, machine.cpu_millis),
            (None, None, Some(memory)) => (memory, machine.memory_bytes),
            (None, None, None) => (1, 1),
        };
        let in_proportion = |amount: i64| {
            let exact = i128::from(amount) * i128::from(part) / i128::from(whole.max(1));
            i64::try_from(exact).unwrap_or(i64::MAX).min(amount).max(1)
        };
        Ok(Capacity {
            cpu_millis: self.cpu_millis.unwrap_or_else(|| in_proportion(machine.cpu_millis)),
            memory_bytes: self.memory_bytes.unwrap_or_else(|| in_proportion(machine.memory_bytes)),
            pods,
            accelerators: accelerators
                .map(|(resource, wanted, _)| BTreeMap::from([(resource.clone(), wanted)]))
                .unwrap_or_default(),
        })
    }
}

impl ValidRun {
    /// What this Run takes of a machine that has `machine`; nothing may be more than that.
    pub fn part_of(&self, machine: &Capacity) -> Result<Capacity, InvalidRun> {
        let Some(portion) = self.portion else { return Ok(machine.clone()) };
        let run = || self.id.to_string();
        let pods = self.layout.most_on_one_node() as i64;
        let part = portion.of(machine, pods).map_err(|fault| match fault {
            Unportionable::NoAccelerators => {
                InvalidRun::NoAccelerators { run: run(), wanted: portion.accelerators() }
            }
            Unportionable::ManyKinds => {
                let kinds: Vec<&str> = machine.accelerators.keys().map(String::as_str).collect();
                InvalidRun::ManyKindsOfAccelerators { run: run(), kinds: kinds.join(" and ") }
            }
        })?;
        let exceeds = |resource: &str, wanted: String, available: String| InvalidRun::ExceedsNode {
            run: run(),
            resource: resource.to_owned(),
            wanted,
            available,
        };
        for (resource, wanted) in &part.accelerators {
            let available = machine.accelerators.get(resource).copied().unwrap_or(0);
            if *wanted > available {
                return Err(exceeds(resource, wanted.to_string(), available.to_string()));
            }
        }
        if part.cpu_millis > machine.cpu_millis {
            let millis = |amount: i64| format!("{amount}m");
            return Err(exceeds("cpu", millis(part.cpu_millis), millis(machine.cpu_millis)));
        }
        if part.memory_bytes > machine.memory_bytes {
            let mebibytes = |amount: i64| format!("{}Mi", amount >> 20);
            return Err(exceeds("memory", mebibytes(part.memory_bytes), mebibytes(machine.memory_bytes)));
        }
        if part.pods > machine.pods {
            return Err(exceeds("pods", part.pods.to_string(), machine.pods.to_string()));
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::run::fixture::machine;

    fn portion(written: Value) -> Result<Portion, NoAmount> {
        Portion::parse(&serde_json::from_value(written).expect("as users write it"))
    }

    /// Eight accelerators, 8 cpus, 16 GiB.
    #[rstest]
    #[case::an_eighth(json!({"accelerators": 1}), 1000, 2 << 30, 1)]
    #[case::cpu_of_its_own(json!({"accelerators": 2, "cpu": "500m"}), 500, 4 << 30, 2)]
    #[case::no_accelerator(json!({"cpu": 2}), 2000, 4 << 30, 0)]
    #[case::memory_leads(json!({"memory": "8Gi"}), 4000, 8 << 30, 0)]
    #[case::all_written(json!({"accelerators": 0, "cpu": "3", "memory": "1Gi"}), 3000, 1 << 30, 0)]
    #[case::more_than_there_is(json!({"accelerators": 16}), 8000, 16 << 30, 16)]
    fn what_is_left_out_follows_from_what_is_written(
        #[case] written: Value,
        #[case] cpu: i64,
        #[case] memory: i64,
        #[case] accelerators: i64,
    ) {
        let part =
            portion(written).map(|portion| portion.of(&machine(8), 1).expect("accelerators of one kind"));
        let part = part.expect("a portion");
        assert_eq!((part.cpu_millis, part.memory_bytes), (cpu, memory));
        assert_eq!(part.accelerators.values().sum::<i64>(), accelerators);
    }

    #[test]
    fn as_many_portions_as_accelerators_fill_any_machine() {
        for (cpu_millis, memory_bytes) in [(7910, 15_999_999_999), (1, 1 << 40), (999, 7)] {
            let node = Capacity { cpu_millis, memory_bytes, ..machine(7) };
            let part =
                portion(json!({"accelerators": 1})).expect("a portion").of(&node, 1).expect("one kind");
            assert!(part.cpu_millis * 7 <= cpu_millis.max(7) && part.memory_bytes * 7 <= memory_bytes.max(7));
        }
    }

    #[rstest]
    #[case(json!({"cpu": "0"}), "cpu", "0")]
    #[case(json!({"memory": "lots"}), "memory", "lots")]
    #[case(json!({}), "accelerators", "0")]
    #[case(json!({"accelerators": -1, "cpu": 1}), "accelerators", "-1")]
    fn what_is_no_amount_is_refused(
        #[case] written: Value,
        #[case] field: &'static str,
        #[case] found: &str,
    ) {
        assert_eq!(portion(written), Err(NoAmount { field, found: found.to_owned() }));
    }

    #[test]
    fn a_number_of_accelerators_needs_one_kind_of_them() {
        let wanted = portion(json!({"accelerators": 1})).expect("a portion");
        assert_eq!(wanted.of(&machine(0), 1), Err(Unportionable::NoAccelerators));
        let mut both = machine(4);
        both.accelerators.insert("example.org/fpga".to_owned(), 1);
        assert_eq!(wanted.of(&both, 1), Err(Unportionable::ManyKinds));
        assert!(portion(json!({"cpu": 1})).expect("a portion").of(&both, 1).is_ok());
    }
}
