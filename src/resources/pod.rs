//! The pod of one process of one attempt.
//!
//! In: the Run, the attempt, the process, and the [`Machine`] it is for. Out: the pod as it is sent to the API server.
//!
//! Guarantees: the pod is not scheduled before its gate is removed; it is scheduled on its machine or nowhere; its exit
//! code cannot be lost before somebody has read it (finalizer); no autoscaler moves it; it holds no credentials but those
//! that its user asks for.
//!
//! Cpu is requested and not limited: a process may use what its neighbours on the machine leave idle. Memory is limited
//! to what is requested, so that a process that takes too much fails alone, as its own fault.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster_node::ClusterIdentity;
use trainyard_api::names::{Finalizer, START_GATE, labels};
use trainyard_api::placement::{Taint, Toleration, TolerationOperator};
use trainyard_api::pod_template::{MAIN_CONTAINER, PodTemplate};
use trainyard_model::run::{InvalidRun, Process, ProcessShare, ValidRun, wiring};

use super::{security, sidecar, variable, volume};

/// The machine a pod is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Where the pod must run.
    pub binding: Binding,
    /// The Cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// The taint that keeps others off it; absent in a rehearsal for a Cluster that has no machine yet.
    pub taint: Option<Taint>,
    /// Tolerations for taints it has by itself.
    pub tolerations: Vec<Toleration>,
    /// What of it is the Run's.
    pub share: Capacity,
}

/// Where a pod must run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// On the Node of this name. `metadata.name` cannot be forged by a kubelet, as a label could be.
    Node(String),
    /// Nowhere yet: the pod is only rehearsed.
    Rehearsal,
}

/// Builds the pod of `process` in `attempt`.
pub fn pod(
    run: &ValidRun,
    attempt: i32,
    process: Process,
    machine: &Machine,
) -> Result<core::Pod, InvalidRun> {
    let share = run.share(process, &machine.share)?;
    // No `..`: a field that is accepted must be handed on.
    let PodTemplate {
        env: _,
        annotations: _,
        volumes,
        volume_mounts: _,
        security_context,
        service_account_name,
        automount_service_account_token,
        runtime_class_name,
        sidecars,
    } = &run.pod_template;
    Ok(core::Pod {
        metadata: metadata(run, attempt, process, machine),
        spec: Some(core::PodSpec {
            hostname: Some(run.host_name(process)),
            subdomain: Some(run.id.name.clone()),
            restart_policy: Some("Never".to_owned()),
            scheduling_gates: Some(vec![core::PodSchedulingGate { name: START_GATE.to_owned() }]),
            automount_service_account_token: Some(*automount_service_account_token),
            service_account_name: service_account_name.clone(),
            runtime_class_name: runtime_class_name.clone(),
            security_context: security_context.as_ref().map(security::of_pod),
            volumes: Some(volumes.iter().map(volume::volume).collect())
                .filter(|list: &Vec<_>| !list.is_empty()),
            init_containers: Some(sidecars.iter().map(sidecar::sidecar).collect())
                .filter(|list: &Vec<_>| !list.is_empty()),
            // One variable for each Service of the namespace would grow with the number of Runs.
            enable_service_links: Some(false),
            affinity: affinity(&machine.binding),
            tolerations: Some(tolerations(machine)).filter(|list| !list.is_empty()),
            image_pull_secrets: Some(pull_secrets(run)).filter(|list| !list.is_empty()),
            containers: vec![container(run, process, &share)],
            ..core::PodSpec::default()
        }),
        status: None,
    })
}

fn metadata(run: &ValidRun, attempt: i32, process: Process, machine: &Machine) -> ObjectMeta {
    let mut annotations = run.pod_template.annotations.clone();
    let [keep_from_karpenter, keep_from_autoscaler] = wiring::POD_ANNOTATIONS;
    annotations.insert(keep_from_karpenter.to_owned(), "true".to_owned());
    annotations.insert(keep_from_autoscaler.to_owned(), "false".to_owned());
    ObjectMeta {
        name: Some(run.pod_name(process, attempt)),
        namespace: Some(run.id.namespace.clone()),
        labels: Some(BTreeMap::from([
            (labels::CLUSTER.to_owned(), machine.cluster.name.clone()),
            (labels::CLUSTER_UID.to_owned(), machine.cluster.uid.clone()),
            (labels::EXPERIMENT.to_owned(), run.experiment.clone()),
            (labels::RUN.to_owned(), run.id.name.clone()),
            (labels::RUN_UID.to_owned(), run.id.uid.clone()),
            (labels::ATTEMPT.to_owned(), attempt.to_string()),
            (labels::ROLE.to_owned(), process.role.to_string()),
            (labels::INDEX.to_owned(), process.index.to_string()),
        ])),
        annotations: Some(annotations),
        finalizers: Some(vec![Finalizer::RunPod.to_string()]),
        owner_references: Some(vec![super::owner(&run.id)]),
        ..ObjectMeta::default()
    }
}

fn affinity(binding: &Binding) -> Option<core::Affinity> {
    let Binding::Node(name) = binding else { return None };
    let by_name = core::NodeSelectorTerm {
        match_fields: Some(vec![core::NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![name.clone()]),
        }]),
        match_expressions: None,
    };
    Some(core::Affinity {
        node_affinity: Some(core::NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(core::NodeSelector {
                node_selector_terms: vec![by_name],
            }),
            ..core::NodeAffinity::default()
        }),
        ..core::Affinity::default()
    })
}

fn tolerations(machine: &Machine) -> Vec<core::Toleration> {
    let of_cluster = machine.taint.iter().map(|taint| core::Toleration {
        key: Some(taint.key.clone()),
        operator: Some(TolerationOperator::Equal.to_string()),
        value: Some(taint.value.clone()),
        effect: Some(taint.effect.to_string()),
        toleration_seconds: None,
    });
    let of_class = machine.tolerations.iter().map(|one| core::Toleration {
        key: one.key.clone(),
        operator: Some(one.operator.to_string()),
        value: one.value.clone(),
        effect: one.effect.map(|effect| effect.to_string()),
        toleration_seconds: None,
    });
    of_cluster.chain(of_class).collect()
}

fn pull_secrets(run: &ValidRun) -> Vec<core::LocalObjectReference> {
    run.container
        .image_pull_secrets
        .iter()
        .map(|name| core::LocalObjectReference { name: name.clone() })
        .collect()
}

fn container(run: &ValidRun, process: Process, share: &ProcessShare) -> core::Container {
    let role = run.role(process.role);
    let words = |list: Option<&Vec<String>>| list.filter(|list| !list.is_empty()).cloned();
    core::Container {
        name: MAIN_CONTAINER.to_owned(),
        image: Some(run.container.image.clone()),
        image_pull_policy: run.container.image_pull_policy.map(|policy| policy.to_string()),
        working_dir: run.container.working_dir.clone(),
        command: words(role.map(|role| &role.command)),
        args: words(role.map(|role| &role.args)),
        env: Some(environment(run, process, share)),
        resources: Some(resources(share)),
        volume_mounts: sidecar::mounts(&run.pod_template.volume_mounts),
        security_context: run.container.security_context.as_ref().map(security::of_container),
        ..core::Container::default()
    }
}

/// Trainyard's variables first, so that the user's may refer to them as `$(RANK)`; then the user's own, then those whose
/// value comes from elsewhere. The parse has made sure that no name is there twice.
fn environment(run: &ValidRun, process: Process, share: &ProcessShare) -> Vec<core::EnvVar> {
    const UNBUFFERED: &str = "PYTHONUNBUFFERED";
    let plain = |name: &str, value: &str| core::EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    let users = run.role(process.role).map(|role| &role.environment);
    let template = &run.pod_template.env;
    let mut list = Vec::new();
    let is_set = |name: &str| {
        users.is_some_and(|users| users.contains_key(name)) || template.iter().any(|one| one.name == name)
    };
    // A default, not a contract: without it the last lines of a failing script are lost. The user's own value counts.
    if !is_set(UNBUFFERED) {
        list.push(plain(UNBUFFERED, "1"));
    }
    let ours = wiring::variables(run, process, share.accelerator_count());
    list.extend(ours.iter().map(|one| plain(&one.name, &one.value)));
    list.extend(users.into_iter().flatten().map(|(name, value)| plain(name, value)));
    list.extend(template.iter().map(variable::variable));
    list
}

fn resources(share: &ProcessShare) -> core::ResourceRequirements {
    let ProcessShare { cpu_millis, memory_bytes, accelerators } = share;
    let mut limits: BTreeMap<String, Quantity> =
        accelerators.iter().map(|(name, count)| (name.clone(), Quantity(count.to_string()))).collect();
    limits.insert("memory".to_owned(), Quantity(memory_bytes.to_string()));
    let mut requests = limits.clone();
    requests.insert("cpu".to_owned(), Quantity(format!("{cpu_millis}m")));
    core::ResourceRequirements { limits: Some(limits), requests: Some(requests), claims: None }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use rstest::rstest;
    use serde_json::{Value, json};
    use trainyard_api::Run;
    use trainyard_api::distribution::RoleName;
    use trainyard_api::placement::{TaintEffect, ToleratedEffect};

    use super::*;

    fn run(spec: &Value) -> ValidRun {
        let mut whole =
            json!({"clusterRef": {"name": "nc6"}, "container": {"image": "registry.example/mnist:1"}});
        if let (Some(whole), Some(spec)) = (whole.as_object_mut(), spec.as_object()) {
            whole.extend(spec.clone());
        }
        let run: Run = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run",
            "metadata": {"name": "r1", "namespace": "ml", "uid": "u1", "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": whole,
        }))
        .expect("a Run as users write it");
        ValidRun::parse(&run).expect("a valid Run")
    }

    fn machine(gpus: i64) -> Machine {
        Machine {
            binding: Binding::Node("vm-7".into()),
            cluster: ClusterIdentity { name: "nc6".into(), uid: "c1".into() },
            taint: Some(Taint {
                key: "trainyard.dev/cluster".into(),
                value: "nc6".into(),
                effect: TaintEffect::NoSchedule,
            }),
            tolerations: vec![Toleration {
                key: Some("sku".into()),
                operator: TolerationOperator::Equal,
                value: Some("gpu".into()),
                effect: Some(ToleratedEffect::NoSchedule),
            }],
            share: Capacity {
                cpu_millis: 6000,
                memory_bytes: 112 << 30,
                pods: 110,
                accelerators: [("nvidia.com/gpu".to_owned(), gpus)]
                    .into_iter()
                    .filter(|(_, n)| *n > 0)
                    .collect(),
            },
        }
    }

    /// Every process of the Run with its variables, as text.
    fn environments(run: &ValidRun, gpus: i64) -> String {
        let mut text = String::new();
        for process in run.layout.processes() {
            let pod = pod(run, 1, *process, &machine(gpus)).expect("the Run fits");
            let spec = pod.spec.expect("a pod has a spec");
            writeln!(text, "[{} on node {}]", run.pod_name(*process, 1), process.node)
                .expect("text takes text");
            for one in spec.containers[0].env.iter().flatten() {
                writeln!(text, "{}={}", one.name, one.value.as_deref().unwrap_or("(from elsewhere)"))
                    .expect("text takes text");
            }
        }
        text
    }

    #[rstest]
    #[case::alone(json!({}), 1, include_str!("goldens/alone.env"))]
    #[case::alone_on_two_nodes(json!({"nodeCount": 2}), 1, include_str!("goldens/alone-2.env"))]
    #[case::tensorflow_single(json!({"distribution": {"tensorflow": {}}}), 1, include_str!("goldens/tensorflow-1.env"))]
    #[case::tensorflow_chief_worker_ps(
        json!({"nodeCount": 2, "distribution": {"tensorflow": {
            "chief": {}, "worker": {"count": 2}, "parameterServer": {"count": 1}}}}),
        2, include_str!("goldens/tensorflow-chief.env"))]
    #[case::tensorflow_workers_ps(
        json!({"nodeCount": 2, "distribution": {"tensorflow": {"parameterServer": {}}}}),
        1, include_str!("goldens/tensorflow-ps.env"))]
    #[case::pytorch(json!({"nodeCount": 2, "distribution": {"pytorch": {"backend": "nccl"}}}), 4, include_str!("goldens/pytorch.env"))]
    #[case::pytorch_torchrun(
        json!({"nodeCount": 2, "distribution": {"pytorch": {"processCountPerNode": 4}}}),
        4, include_str!("goldens/pytorch-4.env"))]
    #[case::jax(json!({"nodeCount": 2, "distribution": {"jax": {}}}), 4, include_str!("goldens/jax.env"))]
    #[case::jax_single(json!({"distribution": {"jax": {}}}), 1, include_str!("goldens/jax-1.env"))]
    #[case::tensorflow_evaluator(
        json!({"nodeCount": 2, "distribution": {"tensorflow": {
            "chief": {}, "worker": {"count": 2}, "parameterServer": {}, "evaluator": {}}}}),
        2, include_str!("goldens/tensorflow-evaluator.env"))]
    fn variables_are_byte_exact(#[case] spec: Value, #[case] gpus: i64, #[case] golden: &str) {
        let found = environments(&run(&spec), gpus);
        assert_eq!(found, golden, "found:\n{found}");
    }

    #[test]
    fn the_whole_pod_of_a_worker_is_as_written() {
        let run = run(&json!({
            "command": ["python", "train.py"], "args": ["--epochs", "3"], "environment": {"LEVEL": "debug"},
            "container": {"image": "registry.example/mnist:1", "imagePullPolicy": "IfNotPresent",
                          "imagePullSecrets": ["registry"], "workingDir": "/job"},
            "podTemplate": {"annotations": {"team": "vision"}, "env": [
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                {"name": "CONFIG", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
        }));
        let pod = pod(&run, 2, run.layout.primary(), &machine(1)).expect("the Run fits");
        let text = serde_json::to_string_pretty(&pod).expect("an object is JSON");
        assert_eq!(text.clone() + "\n", include_str!("goldens/pod.json"), "found:\n{text}");
    }

    /// Without what every pod has; see the golden of the whole pod.
    #[test]
    fn what_a_user_adds_is_handed_on_field_by_field() {
        let spec: Value =
            serde_json::from_str(include_str!("goldens/pod-template.spec.json")).expect("a spec is JSON");
        let run = run(&spec);
        let mut pod =
            serde_json::to_value(pod(&run, 1, run.layout.primary(), &machine(1)).expect("the Run fits"))
                .expect("an object is JSON");
        let spec = pod["spec"].as_object_mut().expect("a pod has a spec");
        for common in [
            "affinity",
            "enableServiceLinks",
            "hostname",
            "restartPolicy",
            "schedulingGates",
            "subdomain",
            "tolerations",
        ] {
            spec.remove(common).expect("every pod has it");
        }
        spec["containers"][0].as_object_mut().expect("the main container").remove("env");
        let text = serde_json::to_string_pretty(spec).expect("an object is JSON");
        assert_eq!(text.clone() + "\n", include_str!("goldens/pod-template.json"), "found:\n{text}");
    }

    #[test]
    fn all_containers_of_a_pod_ask_for_no_more_than_its_share() {
        let sidecar =
            |name| json!({"name": name, "image": "i", "resources": {"cpu": "300m", "memory": "1Gi"}});
        let run = run(&json!({
            "distribution": {"tensorflow": {"worker": {"count": 2}, "parameterServer": {}, "evaluator": {}}},
            "podTemplate": {"sidecars": [sidecar("a"), sidecar("b")]},
        }));
        let (mut cpu, mut memory) = (0, 0);
        for process in run.layout.processes() {
            let spec = pod(&run, 1, *process, &machine(2)).expect("the Run fits").spec.expect("a spec");
            // A kubelet and the scheduler count native sidecars beside the containers.
            let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            for requests in
                all.map(|one| one.resources.clone().and_then(|one| one.requests).expect("requests"))
            {
                cpu += trainyard_api::capacity::millis(&requests["cpu"]).expect("an amount");
                memory += trainyard_api::capacity::bytes(&requests["memory"]).expect("an amount");
            }
        }
        let share = machine(2).share;
        // Equal parts lose at most what does not divide.
        assert!((share.cpu_millis - 4..=share.cpu_millis).contains(&cpu), "{cpu}");
        assert!((share.memory_bytes - 4..=share.memory_bytes).contains(&memory), "{memory}");
    }

    #[test]
    fn a_parameter_server_asks_for_no_accelerator_and_sees_none() {
        let run =
            run(&json!({"distribution": {"tensorflow": {"worker": {"count": 2}, "parameterServer": {}}}}));
        let server =
            run.layout.processes().iter().find(|p| p.role == RoleName::ParameterServer).expect("one server");
        let spec = pod(&run, 1, *server, &machine(2)).expect("the Run fits").spec.expect("a spec");
        let container = &spec.containers[0];
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref()).expect("limits");
        assert!(!limits.contains_key("nvidia.com/gpu"));
        assert!(
            container
                .env
                .iter()
                .flatten()
                .any(|e| e.name == "NVIDIA_VISIBLE_DEVICES" && e.value.as_deref() == Some("void"))
        );
    }

    #[test]
    fn a_run_that_takes_no_accelerator_of_a_machine_sees_none() {
        let visible = |spec: Value| {
            let run = run(&spec);
            let part = run.part_of(&machine(8).share).expect("the Run fits");
            let of_part = Machine { share: part, ..machine(8) };
            let spec = pod(&run, 1, run.layout.primary(), &of_part).expect("it fits").spec.expect("a spec");
            let limits = spec.containers[0].resources.clone().and_then(|one| one.limits).expect("limits");
            let void = spec.containers[0]
                .env
                .iter()
                .flatten()
                .any(|one| one.name == "NVIDIA_VISIBLE_DEVICES" && one.value.as_deref() == Some("void"));
            (limits.get("nvidia.com/gpu").map(|count| count.0.clone()), void)
        };
        assert_eq!(visible(json!({"resourcesPerNode": {"cpu": 1}})), (None, true));
        assert_eq!(visible(json!({"resourcesPerNode": {"accelerators": 2}})), (Some("2".into()), false));
        assert_eq!(visible(json!({})), (Some("8".into()), false));
    }

    #[test]
    fn a_rehearsed_pod_is_bound_to_no_node() {
        let run = run(&json!({}));
        let nowhere = Machine { binding: Binding::Rehearsal, taint: None, ..machine(1) };
        let spec = pod(&run, 1, run.layout.primary(), &nowhere).expect("the Run fits").spec.expect("a spec");
        assert_eq!(spec.affinity, None);
        assert_eq!(spec.tolerations.map(|list| list.len()), Some(1));
    }

    #[test]
    fn the_users_own_buffering_counts() {
        let run = run(&json!({"environment": {"PYTHONUNBUFFERED": ""}}));
        assert_eq!(environments(&run, 1).matches("PYTHONUNBUFFERED=").count(), 1);
    }
}
