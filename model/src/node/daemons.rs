//! What DaemonSets take of a Node, and which of them our taint keeps off.
//!
//! Computed from the DaemonSets themselves, not from their pods: right from the Node's first moment, before the last
//! daemon pod has come, and at no request per Node. Pods of others that tolerate our taint, and static pods, are
//! counted by [`strangers`](super::strangers).

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1 as core},
    apimachinery::pkg::api::resource::Quantity,
};
use trainyard_api::{capacity, placement::Taint};

use super::seen::{Allocatable, NodeFacts, NodeTaint};

/// A DaemonSet, reduced to where it runs and what it requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    /// `<namespace>/<name>`.
    pub name: String,
    requests: Allocatable,
    node_selector: BTreeMap<String, String>,
    affinity: Option<Vec<core::NodeSelectorTerm>>,
    tolerations: Vec<core::Toleration>,
}

impl Daemon {
    /// Reduces a DaemonSet. `None` for one that is being deleted or has no pod template.
    pub fn of(set: &DaemonSet) -> Option<Self> {
        let metadata = &set.metadata;
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
        let pod = set.spec.as_ref()?.template.spec.as_ref()?;
        let required = pod
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        Some(Self {
            name: format!("{}/{}", metadata.namespace.as_deref()?, metadata.name.as_deref()?),
            requests: requests(pod),
            node_selector: pod.node_selector.clone().unwrap_or_default(),
            affinity: required.map(|required| required.node_selector_terms.clone()),
            tolerations: pod.tolerations.clone().unwrap_or_default(),
        })
    }

    /// Whether it wants this Node by its labels, taints aside.
    fn selects(&self, node: &NodeFacts) -> bool {
        self.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && self.affinity.as_ref().is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
    }

    fn tolerates(&self, taint: &NodeTaint) -> bool {
        // The DaemonSet controller lets its pods tolerate what Kubernetes puts on Nodes in trouble.
        taint.effect == "PreferNoSchedule"
            || taint.key.starts_with("node.kubernetes.io/")
            || self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    }
}

/// What is left of `allocatable` for runs on this Node.
pub fn left_for_runs(node: &NodeFacts, daemons: &[Arc<Daemon>]) -> Allocatable {
    let here = daemons
        .iter()
        .filter(|daemon| daemon.selects(node) && node.taints.iter().all(|taint| daemon.tolerates(taint)))
        // One that asks for more than the Node has is never placed there, and takes nothing.
        .filter(|daemon| {
            daemon.requests.cpu_millis <= node.allocatable.cpu_millis
                && daemon.requests.memory_bytes <= node.allocatable.memory_bytes
        });
    here.fold(node.allocatable.clone(), |left, daemon| minus(left, &daemon.requests))
}

/// The DaemonSets that would run on this Node but for our taint, by name.
pub fn kept_off<'a>(node: &NodeFacts, taint: &Taint, daemons: &'a [Arc<Daemon>]) -> Vec<&'a str> {
    let is_ours = |one: &NodeTaint| one.key == taint.key && one.effect == taint.effect.as_str();
    let mut names: Vec<_> = daemons
        .iter()
        .filter(|daemon| daemon.selects(node))
        .filter(|daemon| {
            let (ours, others): (Vec<_>, Vec<_>) = node.taints.iter().partition(|one| is_ours(one));
            ours.iter().any(|one| !daemon.tolerates(one)) && others.iter().all(|one| daemon.tolerates(one))
        })
        .map(|daemon| daemon.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

fn tolerates(toleration: &core::Toleration, taint: &NodeTaint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = toleration.key.as_deref().unwrap_or_default();
    let key_fits = if key.is_empty() { exists } else { key == taint.key };
    let value_fits = exists || toleration.value.as_deref().unwrap_or_default() == taint.value;
    let effect = toleration.effect.as_deref().unwrap_or_default();
    key_fits && value_fits && (effect.is_empty() || effect == taint.effect)
}

/// A term without any condition matches nothing, as the scheduler has it.
fn term_matches(term: &core::NodeSelectorTerm, node: &NodeFacts) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let mut any = false;
    for expression in labels {
        any = true;
        if !holds(expression, node.labels.get(&expression.key).map(String::as_str)) {
            return false;
        }
    }
    for expression in fields {
        any = true;
        let value = (expression.key == "metadata.name").then_some(node.name.as_str());
        if !holds(expression, value) {
            return false;
        }
    }
    any
}

fn holds(expression: &core::NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = expression.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let compared = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match expression.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|(value, bound)| value > bound),
        "Lt" => compared().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// What the scheduler counts for a pod: containers and sidecars together, or an init container if that is more, and
/// the overhead of its runtime class. Requests of the pod as a whole go first.
pub(super) fn requests(pod: &core::PodSpec) -> Allocatable {
    let of = |resources: Option<&core::ResourceRequirements>| {
        amounts(resources.and_then(|resources| resources.requests.as_ref()))
    };
    let mut sidecars = Allocatable::default();
    let mut peak = Allocatable::default();
    for container in pod.init_containers.iter().flatten() {
        let wanted = plus(&of(container.resources.as_ref()), &sidecars);
        peak = max(&peak, &wanted);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = wanted;
        }
    }
    let running =
        pod.containers.iter().fold(sidecars, |sum, container| plus(&sum, &of(container.resources.as_ref())));
    let mut total = max(&peak, &running);
    let whole = of(pod.resources.as_ref());
    if whole.cpu_millis > 0 {
        total.cpu_millis = whole.cpu_millis;
    }
    if whole.memory_bytes > 0 {
        total.memory_bytes = whole.memory_bytes;
    }
    Allocatable { pods: 1, ..plus(&total, &amounts(pod.overhead.as_ref())) }
}

fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Allocatable {
    let mut found = Allocatable::default();
    for (name, quantity) in quantities.into_iter().flatten() {
        match name.as_str() {
            "cpu" => found.cpu_millis = capacity::millis(quantity).unwrap_or(0),
            "memory" => found.memory_bytes = capacity::bytes(quantity).unwrap_or(0),
            name if name.contains('/') => {
                found.devices.insert(name.to_owned(), capacity::count(quantity).unwrap_or(0));
            }
            _ => {}
        }
    }
    found
}

pub(super) fn plus(a: &Allocatable, b: &Allocatable) -> Allocatable {
    combined(a, b, i64::saturating_add)
}

/// What is left, which is never less than nothing.
pub(super) fn minus(mut left: Allocatable, taken: &Allocatable) -> Allocatable {
    left.cpu_millis = (left.cpu_millis - taken.cpu_millis).max(0);
    left.memory_bytes = (left.memory_bytes - taken.memory_bytes).max(0);
    left.pods = (left.pods - taken.pods).max(0);
    for (name, count) in &mut left.devices {
        *count = (*count - taken.devices.get(name).copied().unwrap_or(0)).max(0);
    }
    left
}

fn max(a: &Allocatable, b: &Allocatable) -> Allocatable {
    combined(a, b, i64::max)
}

fn combined(a: &Allocatable, b: &Allocatable, with: impl Fn(i64, i64) -> i64) -> Allocatable {
    let at = |amounts: &Allocatable, name: &String| amounts.devices.get(name).copied().unwrap_or(0);
    Allocatable {
        cpu_millis: with(a.cpu_millis, b.cpu_millis),
        memory_bytes: with(a.memory_bytes, b.memory_bytes),
        pods: with(a.pods, b.pods),
        devices: a
            .devices
            .keys()
            .chain(b.devices.keys())
            .map(|name| (name.clone(), with(at(a, name), at(b, name))))
            .collect(),
    }
}
