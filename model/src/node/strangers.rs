//! What pods take of a Node that are neither a run's nor a DaemonSet's: those that its kubelet runs by itself, and those of
//! people and operators that tolerate our taint.
//!
//! The scheduler counts them, so a run that was given the whole Node would find no place there. Nothing tells of them but
//! a list of the pods on the Node, which the node controller makes; what it shows stands until the next one.
//!
//! A label makes no run's pod: anybody may write it, and bind the pod here by `spec.nodeName`, which asks no taint. Only the
//! claims on the Node tell, which nobody but the operator writes.

use k8s_openapi::api::core::v1::Pod;
use trainyard_api::{cluster_node::Claim, names::labels};

use super::{
    daemons,
    pods::{self, PodId},
    seen::Allocatable,
};
use crate::run::PodName;

/// What such pods take of one Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    /// The sum of their requests.
    pub taken: Allocatable,
    /// Of those that have accelerators or other devices, the first by name.
    pub with_devices: Option<PodId>,
    /// What those take that people made; what kubelets run by themselves is as it has to be.
    pub of_people: Allocatable,
    /// Of those that people made, the one with the most cpu.
    pub with_most_cpu: Option<PodId>,
    /// The same of memory.
    pub with_most_memory: Option<PodId>,
    /// Whether one of them has the label of a run.
    pub in_disguise: bool,
}

/// More of a Node than runs can do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded {
    /// `cpu` or `memory`.
    pub resource: &'static str,
    /// What is left of it.
    pub left: String,
    /// What there would be.
    pub whole: String,
    /// Who has most of it.
    pub by: PodId,
}

impl Strangers {
    /// Of the pods that are bound to a Node, which has these claims. Finished ones take nothing.
    pub fn among(pods: &[Pod], claims: &[Claim]) -> Self {
        let mut found = Self::default();
        let (mut most_cpu, mut most_memory) = (0, 0);
        for pod in pods.iter().filter(|pod| is_counted(pod, claims)) {
            let Some(spec) = &pod.spec else { continue };
            let requests = daemons::requests(spec);
            if requests.devices.values().any(|count| *count > 0) {
                found.with_devices = found.with_devices.into_iter().chain([PodId::of(pod)]).min();
            }
            found.taken = daemons::plus(&found.taken, &requests);
            found.in_disguise |= has_the_label(pod);
            if pods::is_a_kubelets_own(pod) {
                continue;
            }
            found.of_people = daemons::plus(&found.of_people, &requests);
            if requests.cpu_millis > most_cpu {
                most_cpu = requests.cpu_millis;
                found.with_most_cpu = Some(PodId::of(pod));
            }
            if requests.memory_bytes > most_memory {
                most_memory = requests.memory_bytes;
                found.with_most_memory = Some(PodId::of(pod));
            }
        }
        found
    }

    /// What is left of `allocatable` beside them.
    pub fn left_of(&self, allocatable: Allocatable) -> Allocatable {
        daemons::minus(allocatable, &self.taken)
    }

    /// Whether people's pods have more than half of the cpu or of the memory. What is left then is not what anybody sized
    /// a run for: to take it for the measure of the Cluster's nodes would turn its runs away.
    pub fn crowd(&self, allocatable: &Allocatable) -> Option<Crowded> {
        let left = daemons::minus(allocatable.clone(), &self.of_people);
        let is_most = |left: i64, whole: i64| whole > 0 && left.saturating_mul(2) < whole;
        let cpu = self.with_most_cpu.as_ref().filter(|_| is_most(left.cpu_millis, allocatable.cpu_millis));
        let memory =
            self.with_most_memory.as_ref().filter(|_| is_most(left.memory_bytes, allocatable.memory_bytes));
        let millis = |amount: i64| format!("{amount}m");
        let mebibytes = |amount: i64| format!("{}Mi", amount >> 20);
        let of_cpu = cpu.map(|by| Crowded {
            resource: "cpu",
            left: millis(left.cpu_millis),
            whole: millis(allocatable.cpu_millis),
            by: by.clone(),
        });
        of_cpu.or_else(|| {
            memory.map(|by| Crowded {
                resource: "memory",
                left: mebibytes(left.memory_bytes),
                whole: mebibytes(allocatable.memory_bytes),
                by: by.clone(),
            })
        })
    }
}

fn is_counted(pod: &Pod, claims: &[Claim]) -> bool {
    let is_of_a_run = has_the_label(pod) && claims.iter().any(|claim| is_of(pod, claim));
    !pods::has_ended(pod) && !pods::is_of_a_daemon_set(pod) && !is_of_a_run
}

fn has_the_label(pod: &Pod) -> bool {
    pod.metadata.labels.iter().flatten().any(|(name, _)| name == labels::RUN_UID)
}

/// By all that the attempt's own pods have in common. Who may write pods in the namespace of that very Run can still make
/// one that looks like them; the run controller deletes it.
fn is_of(pod: &Pod, claim: &Claim) -> bool {
    let metadata = &pod.metadata;
    let uid = metadata.labels.as_ref().and_then(|labels| labels.get(labels::RUN_UID));
    let name = metadata.name.as_deref().and_then(PodName::parse);
    metadata.namespace.as_ref() == Some(&claim.run_namespace)
        && uid == Some(&claim.run_uid)
        && name.is_some_and(|name| name.run == claim.run_name && name.attempt == claim.attempt)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, requests: &Value, metadata: &Value, phase: &str) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"nodeName": "vm-1", "containers": [{"name": "c", "resources": {"requests": requests}}]},
            "status": {"phase": phase},
        });
        for (key, value) in metadata.as_object().into_iter().flatten() {
            pod["metadata"][key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn pods_of_the_kubelet_and_of_others_count_and_no_others_do() {
        let cpu = json!({"cpu": "100m", "memory": "1Mi"});
        let daemon = json!({"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}
        ]});
        let pods = [
            pod(
                "kube-proxy-vm-1",
                &cpu,
                &json!({"annotations": {"kubernetes.io/config.mirror": "x"}}),
                "Running",
            ),
            pod("somebodys", &json!({"cpu": "1", "example.org/nic": "1"}), &json!({}), "Pending"),
            pod("a-daemons", &cpu, &daemon, "Running"),
            pod(
                "mine-worker-0-a2",
                &cpu,
                &json!({"namespace": "ml", "labels": {labels::RUN_UID: "u"}}),
                "Running",
            ),
            pod("done", &cpu, &json!({}), "Succeeded"),
        ];
        let found = Strangers::among(&pods, &[claim()]);
        let Allocatable { cpu_millis, memory_bytes, pods, devices } = &found.taken;
        assert_eq!((*cpu_millis, *memory_bytes, *pods), (1100, 1 << 20, 2));
        assert_eq!(devices.get("example.org/nic"), Some(&1));
        assert_eq!(found.with_devices.unwrap().to_string(), "kube-system/somebodys");
        assert_eq!(found.of_people.cpu_millis, 1000, "what a kubelet runs is not people's");
        assert!(!found.in_disguise);
    }

    /// Of Run `ml/mine`, in its second attempt.
    fn claim() -> Claim {
        serde_json::from_value(json!({
            "runNamespace": "ml", "runName": "mine", "runUID": "u", "attempt": 2,
            "share": {"cpuMillis": 1, "memoryBytes": 1, "pods": 1},
        }))
        .expect("a claim")
    }

    #[rstest]
    #[case::of_another_namespace("mine-worker-0-a2", "others", "u")]
    #[case::of_another_run("mine-worker-0-a2", "ml", "another")]
    #[case::by_another_name("miner", "ml", "u")]
    #[case::of_a_run_without_a_claim("other-worker-0-a2", "ml", "u")]
    #[case::of_an_attempt_without_a_claim("mine-worker-0-a3", "ml", "u")]
    fn a_label_makes_no_runs_pod(#[case] name: &str, #[case] namespace: &str, #[case] uid: &str) {
        let disguised = json!({"namespace": namespace, "labels": {labels::RUN_UID: uid}});
        let forged = pod(name, &json!({"cpu": "3", "nvidia.com/gpu": 1}), &disguised, "Running");
        let found = Strangers::among(&[forged], &[claim()]);
        assert_eq!((found.taken.cpu_millis, found.in_disguise), (3000, true));
        assert_eq!(found.with_devices.unwrap(), PodId::new(namespace, name));
    }

    #[test]
    fn a_crowd_has_more_than_half_of_cpu_or_memory_and_is_named_by_who_has_most() {
        let node = Allocatable { cpu_millis: 4000, memory_bytes: 8 << 30, ..Allocatable::default() };
        let people = |requests: [Value; 2]| {
            let [one, two] = requests.map(|requests| pod("x", &requests, &json!({}), "Running"));
            let two = Pod {
                metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                    name: Some("y".to_owned()),
                    ..two.metadata
                },
                ..two
            };
            Strangers::among(&[one, two], &[]).crowd(&node)
        };
        assert_eq!(people([json!({"cpu": "1"}), json!({"cpu": "1", "memory": "4Gi"})]), None);
        let crowded = people([json!({"cpu": "1"}), json!({"cpu": "1100m"})]).expect("more than half");
        assert_eq!((crowded.resource, &*crowded.left, &*crowded.whole), ("cpu", "1900m", "4000m"));
        assert_eq!(crowded.by.to_string(), "kube-system/y");
        let crowded = people([json!({"memory": "6Gi"}), json!({"memory": "64Mi"})]).expect("more than half");
        assert_eq!((crowded.resource, &*crowded.left, &*crowded.whole), ("memory", "1984Mi", "8192Mi"));
        assert_eq!(crowded.by.to_string(), "kube-system/x");
        let kubelets = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        let kubelets = pod("proxy", &json!({"cpu": "3"}), &kubelets, "Running");
        assert_eq!(Strangers::among(&[kubelets], &[]).crowd(&node), None);
    }

    #[test]
    fn what_is_left_is_never_less_than_nothing() {
        let all = |count| Allocatable {
            cpu_millis: count,
            memory_bytes: count,
            pods: count,
            devices: [("d".to_owned(), count)].into(),
        };
        let strangers = Strangers { taken: all(3), ..Strangers::default() };
        assert_eq!(strangers.left_of(all(5)), all(2));
        assert_eq!(strangers.left_of(all(1)), all(0));
        assert_eq!(Strangers::default().left_of(all(1)), all(1));
    }
}
