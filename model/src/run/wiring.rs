//! The environment variables through which the processes of a Run find each other, byte for byte.
//!
//! In: a [`ValidRun`], one of its processes, and how many accelerators that process gets. Out: variables in a fixed
//! order. The same function tells the parse which names a user may not set.
//!
//! Sources of the contracts:
//! * `TF_CONFIG`: TensorFlow's `ClusterConfig`; the text is what training-operator v1 writes (keys of `cluster` sorted, no
//!   spaces, then `task`, then `environment`), so that whoever compares strings finds the same ones.
//! * An evaluator gets `TF_CONFIG` with the map of the others, which it is not in: TensorFlow's own rule.
//! * `PET_*`: torchrun reads each of its options from `PET_` and the option's name.
//! * `COORDINATOR_*`, `NUM_PROCESSES`, `PROCESS_ID`: training-operator's `JAXJob`; scripts hand them to
//!   `jax.distributed.initialize`.
//! * `AZ_BATCHAI_*`, `AZ_BATCH_HOST_LIST`: Batch AI. Those that name directories are not here: there are none yet.

use serde::Serialize;
use trainyard_api::distribution::RoleName;
use trainyard_api::variables;

use super::layout::Process;
use super::processes::Wiring;
use super::valid::ValidRun;

/// Port on which every TensorFlow process listens. Each has a host name of its own, so no second port is needed.
pub const TENSORFLOW_PORT: u16 = 2222;
/// Port on which the first PyTorch process listens: torchrun's default.
pub const PYTORCH_PORT: u16 = 29500;
/// Port on which the coordinator of JAX, worker 0, listens: `JAXJob`'s.
pub const JAX_PORT: u16 = 6666;

/// Annotations trainyard sets on every run pod: node autoscalers must not move it.
pub const POD_ANNOTATIONS: [&str; 2] =
    ["karpenter.sh/do-not-disrupt", "cluster-autoscaler.kubernetes.io/safe-to-evict"];

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Everything trainyard tells a process, in the order in which it stands in the pod.
pub fn variables(run: &ValidRun, process: Process, accelerators: i64) -> Vec<Variable> {
    let mut told = Told::default();
    told.add("AZ_BATCHAI_CLUSTER_NAME", &run.cluster);
    told.add("AZ_BATCHAI_TASK_INDEX", process.index);
    told.add("AZ_BATCHAI_NUM_GPUS", accelerators);
    told.add("AZ_BATCHAI_NUM_GPUS_PER_NODE", accelerators);
    if run.layout.nodes() > 1 {
        let hosts = run.layout.first_of_each_node().into_iter().map(|first| address(run, first));
        told.add("AZ_BATCH_HOST_LIST", hosts.collect::<Vec<_>>().join(","));
    }
    match run.wiring {
        Wiring::Alone => {}
        Wiring::TensorFlow => tensorflow(run, process, &mut told),
        Wiring::PyTorch { processes_per_node, backend } => {
            pytorch(run, process, processes_per_node, &mut told);
            if let Some(backend) = backend {
                told.add("AZ_BATCHAI_PYTORCH_BACKEND", backend);
            }
        }
        Wiring::Jax => jax(run, process, &mut told),
    }
    let has_none = !process.uses_accelerators();
    let shares_without = run.portion.is_some_and(|portion| portion.accelerators() == 0);
    if has_none || shares_without {
        // They belong to other runs, or to other processes of this one. Without a request for accelerators NVIDIA's
        // container runtime would show all of them when the image asks.
        told.add(variables::VISIBLE_DEVICES, variables::NO_DEVICES);
    }
    told.0
}

/// Where a process is reached inside the cluster, whatever the cluster's DNS domain.
pub fn address(run: &ValidRun, process: Process) -> String {
    format!("{}.{}.{}.svc", run.host_name(process), run.id.name, run.id.namespace)
}

fn tensorflow(run: &ValidRun, process: Process, told: &mut Told) {
    let servers = endpoints(run, RoleName::ParameterServer);
    let workers = endpoints(run, RoleName::Worker);
    // A single process finds nobody, and a `TF_CONFIG` would make it wait for itself.
    if run.layout.processes().len() > 1 {
        let config = TfConfig {
            cluster: TfCluster {
                chief: endpoints(run, RoleName::Chief),
                ps: servers.clone(),
                worker: workers.clone(),
            },
            task: TfTask { r#type: process.role.as_str(), index: process.index },
            environment: "cloud",
        };
        let text = serde_json::to_string(&config).expect("strings and numbers are JSON");
        told.add("TF_CONFIG", text);
    }
    if !servers.is_empty() {
        told.add("AZ_BATCHAI_PS_HOSTS", servers.join(","));
    }
    if !workers.is_empty() {
        told.add("AZ_BATCHAI_WORKER_HOSTS", workers.join(","));
    }
}

fn endpoints(run: &ValidRun, role: RoleName) -> Vec<String> {
    let of_role = run.layout.processes().iter().filter(|process| process.role == role);
    of_role.map(|process| format!("{}:{TENSORFLOW_PORT}", address(run, *process))).collect()
}

fn pytorch(run: &ValidRun, process: Process, processes_per_node: usize, told: &mut Told) {
    let nodes = run.layout.nodes();
    let master = address(run, run.layout.primary());
    told.add("MASTER_ADDR", &master);
    told.add("MASTER_PORT", PYTORCH_PORT);
    if processes_per_node == 1 {
        // With several, torchrun sets these for each process it starts.
        told.add("RANK", process.index);
        told.add("WORLD_SIZE", nodes);
        told.add("AZ_BATCHAI_PYTORCH_INIT_METHOD", format!("tcp://{master}:{PYTORCH_PORT}"));
    }
    told.add("PET_MASTER_ADDR", &master);
    told.add("PET_MASTER_PORT", PYTORCH_PORT);
    told.add("PET_NNODES", nodes);
    told.add("PET_NODE_RANK", process.index);
    told.add("PET_NPROC_PER_NODE", processes_per_node);
}

fn jax(run: &ValidRun, process: Process, told: &mut Told) {
    told.add("COORDINATOR_ADDRESS", address(run, run.layout.primary()));
    told.add("COORDINATOR_PORT", JAX_PORT);
    told.add("NUM_PROCESSES", run.layout.nodes());
    told.add("PROCESS_ID", process.index);
}

/// The order of fields is the order of the text.
#[derive(Serialize)]
struct TfConfig<'a> {
    cluster: TfCluster,
    task: TfTask<'a>,
    environment: &'a str,
}

/// Sorted by name. A role that has no process is not named.
#[derive(Serialize)]
struct TfCluster {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chief: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ps: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    worker: Vec<String>,
}

#[derive(Serialize)]
struct TfTask<'a> {
    r#type: &'a str,
    index: usize,
}

#[derive(Default)]
struct Told(Vec<Variable>);

impl Told {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push(Variable { name: name.to_owned(), value: format!("{value}") });
    }
}
