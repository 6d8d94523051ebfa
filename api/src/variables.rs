//! Environment variables: the names trainyard sets itself, and the rules that keep a user's from hiding them.
//!
//! A variable that both set would decide silently who wins; `torchrun` refuses contradictions only after machines were
//! paid for. So the API server refuses them. A Run without distribution may set `TF_CONFIG` or `RANK` as it likes.

use kube::core::Rule;

/// TensorFlow's description of the cluster.
pub const TF_CONFIG: &str = "TF_CONFIG";

/// Set in every run, from Batch AI.
pub const ALWAYS: [&str; 5] = [
    "AZ_BATCH_HOST_LIST",
    "AZ_BATCHAI_CLUSTER_NAME",
    "AZ_BATCHAI_NUM_GPUS",
    "AZ_BATCHAI_NUM_GPUS_PER_NODE",
    "AZ_BATCHAI_TASK_INDEX",
];

/// Set with `distribution.tensorflow`.
pub const TENSORFLOW: [&str; 3] = [TF_CONFIG, "AZ_BATCHAI_PS_HOSTS", "AZ_BATCHAI_WORKER_HOSTS"];

/// Set with `distribution.pytorch`, by trainyard or by torchrun.
pub const PYTORCH: [&str; 13] = [
    "AZ_BATCHAI_PYTORCH_BACKEND",
    "AZ_BATCHAI_PYTORCH_INIT_METHOD",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
    "PET_NNODES",
    "PET_NODE_RANK",
    "PET_NPROC_PER_NODE",
    "RANK",
    "WORLD_SIZE",
];

/// Set with `distribution.jax`.
pub const JAX: [&str; 4] = ["COORDINATOR_ADDRESS", "COORDINATOR_PORT", "NUM_PROCESSES", "PROCESS_ID"];

/// What the container runtime of the accelerators' maker reads of a container to find out which of them it is shown. The
/// device plugin sets it for who asks for some, trainyard for who does not; who sets it himself is shown what he likes.
pub const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
/// Its value that shows none.
pub const NO_DEVICES: &str = "void";

fn list(names: &[&str]) -> String {
    format!("['{}']", names.join("', '"))
}

/// For a map of variables.
pub(crate) fn names_are_valid() -> Rule {
    Rule::new("self.all(name, name.matches('^[A-Za-z_][A-Za-z0-9_]*$'))").message(
        "names of environment variables must have only letters, digits and '_', and not start with a digit",
    )
}

/// For the map of variables of a TensorFlow role.
pub(crate) fn role_leaves_ours_alone() -> Rule {
    let ours = [&ALWAYS[..], &TENSORFLOW[..]].concat();
    Rule::new(format!("self.all(name, !(name in {}))", list(&ours)))
        .message(format!("trainyard sets these variables itself: {}", ours.join(", ")).as_str())
}

/// For the spec of a Run, and the variables set in every run.
pub(crate) fn run_leaves_ours_alone() -> Rule {
    reserved("true", &ALWAYS, "trainyard sets these variables itself")
}

/// For the spec of a Run, and the variables of TensorFlow.
pub(crate) fn tensorflow_leaves_ours_alone() -> Rule {
    reserved(
        "has(self.distribution) && has(self.distribution.tensorflow)",
        &TENSORFLOW,
        "with distribution.tensorflow trainyard sets these variables itself",
    )
}

/// For the spec of a Run, and the variables of torchrun.
pub(crate) fn pytorch_leaves_ours_alone() -> Rule {
    reserved(
        "has(self.distribution) && has(self.distribution.pytorch)",
        &PYTORCH,
        "with distribution.pytorch trainyard sets these variables itself",
    )
}

/// For the spec of a Run, and the variables of JAX.
pub(crate) fn jax_leaves_ours_alone() -> Rule {
    reserved(
        "has(self.distribution) && has(self.distribution.jax)",
        &JAX,
        "with distribution.jax trainyard sets these variables itself",
    )
}

fn reserved(when: &str, names: &[&str], why: &str) -> Rule {
    let names_in_cel = list(names);
    Rule::new(format!(
        "!({when}) || ((!has(self.environment) || self.environment.all(name, !(name in {names_in_cel}))) && \
         (!has(self.podTemplate) || !has(self.podTemplate.env) || \
         self.podTemplate.env.all(variable, !(variable.name in {names_in_cel}))))"
    ))
    .message(format!("{why}: {}", names.join(", ")).as_str())
}

/// For the spec of a Run: who shares machines does not choose which accelerators he is shown.
pub(crate) fn neighbours_accelerators_stay_hidden() -> Rule {
    let absent_from = |holder: &str| {
        format!("(!has({holder}.environment) || !('{VISIBLE_DEVICES}' in {holder}.environment))")
    };
    let absent_from_role = |role: &str| {
        let holder = format!("self.distribution.tensorflow.{role}");
        format!("(!has({holder}) || {})", absent_from(&holder))
    };
    let absent_from_list =
        |holder: &str| format!("(!has({holder}.env) || {holder}.env.all(v, v.name != '{VISIBLE_DEVICES}'))");
    Rule::new(format!(
        "!has(self.resourcesPerNode) || ({} && (!has(self.podTemplate) || ({} && \
         (!has(self.podTemplate.sidecars) || self.podTemplate.sidecars.all(one, {})))) && \
         (!has(self.distribution) || !has(self.distribution.tensorflow) || ({} && {} && {} && {})))",
        absent_from("self"),
        absent_from_list("self.podTemplate"),
        absent_from_list("one"),
        absent_from_role("chief"),
        absent_from_role("worker"),
        absent_from_role("parameterServer"),
        absent_from_role("evaluator"),
    ))
    .message(
        format!(
            "with resourcesPerNode no container may set {VISIBLE_DEVICES}: other Runs have accelerators of the same \
             machine. Leave it out; each process sees those of resourcesPerNode.accelerators, and a Run that needs to \
             choose takes whole machines, without resourcesPerNode"
        )
        .as_str(),
    )
}

/// For the spec of a Run: one name is not set in two places that do not override each other.
pub(crate) fn are_set_once() -> Rule {
    let absent_from =
        |holder: &str| format!("(!has({holder}.environment) || !(v.name in {holder}.environment))");
    let absent_from_role = |role: &str| {
        let holder = format!("self.distribution.tensorflow.{role}");
        format!("(!has({holder}) || {})", absent_from(&holder))
    };
    Rule::new(format!(
        "!has(self.podTemplate) || !has(self.podTemplate.env) || self.podTemplate.env.all(v, {} && \
         (!has(self.distribution) || !has(self.distribution.tensorflow) || ({} && {} && {} && {})))",
        absent_from("self"),
        absent_from_role("chief"),
        absent_from_role("worker"),
        absent_from_role("parameterServer"),
        absent_from_role("evaluator"),
    ))
    .message(
        "a variable must not be both in podTemplate.env and in an environment: take it out of one of them",
    )
    .field_path(".podTemplate.env")
}
