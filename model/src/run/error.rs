//! Everything that can be wrong with a Run beyond what the schema refuses.
//!
//! Most of these are refused by the API server already. They are checked again because a schema can be relaxed by hand
//! or be older than the operator, and because some depend on the machines.

use trainyard_api::distribution::RoleName;

use super::pod_template::Conflict;

/// Why a Run cannot be run. Each text names the field, the value, what was expected and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRun {
    /// The object did not come from an API server.
    #[error("Run {run}: metadata.{missing} is missing, so it does not come from an API server")]
    NotFromServer {
        /// `namespace/name`, as far as known.
        run: String,
        /// The field.
        missing: &'static str,
    },
    /// More or fewer nodes than a Run may have.
    #[error(
        "Run {run}: spec.nodeCount is {found}, expected 1 to {most}; create a Run with another nodeCount"
    )]
    NodeCount {
        /// `namespace/name`.
        run: String,
        /// What is written.
        found: i32,
        /// The limit.
        most: i32,
    },
    /// Two ways in which processes find each other, or none inside `distribution`.
    #[error(
        "Run {run}: spec.distribution has {found} of tensorflow, pytorch and jax, expected exactly one; \
         create a Run with one of them, or without distribution"
    )]
    Distribution {
        /// `namespace/name`.
        run: String,
        /// How many are written.
        found: usize,
    },
    /// A count below nothing or above what one node may have.
    #[error(
        "Run {run}: spec.distribution.{field} is {found}, expected {least} to {most}; create a Run with another count"
    )]
    Count {
        /// `namespace/name`.
        run: String,
        /// The field below `spec.distribution`.
        field: &'static str,
        /// What is written.
        found: i32,
        /// The least that is allowed.
        least: i32,
        /// The most that is allowed.
        most: i32,
    },
    /// Chief and workers leave nodes without a process.
    #[error(
        "Run {run}: chief.count and worker.count are {processes} together, expected at least nodeCount, which is \
         {nodes}, or nodes would do nothing; lower nodeCount, raise worker.count, or leave worker.count out"
    )]
    IdleNodes {
        /// `namespace/name`.
        run: String,
        /// Chief and workers.
        processes: usize,
        /// Nodes.
        nodes: usize,
    },
    /// More parameter servers than nodes.
    #[error(
        "Run {run}: parameterServer.count is {servers}, expected at most nodeCount, which is {nodes}: at most one \
         parameter server sits on a node; lower parameterServer.count or raise nodeCount"
    )]
    TooManyParameterServers {
        /// `namespace/name`.
        run: String,
        /// Parameter servers.
        servers: usize,
        /// Nodes.
        nodes: usize,
    },
    /// A variable that trainyard sets is set by the user, too.
    #[error(
        "Run {run}: {place} sets {variable}, which trainyard sets itself for the {role} of this Run; \
         remove it there, or read it under another name"
    )]
    ReservedVariable {
        /// `namespace/name`.
        run: String,
        /// The field.
        place: String,
        /// The variable.
        variable: String,
        /// The role for which trainyard sets it.
        role: RoleName,
    },
    /// It shares machines and chooses which of their accelerators it is shown.
    #[error(
        "Run {run}: {place} sets {variable}, and with resourcesPerNode other Runs have accelerators of the same machine; \
         remove it there: each process sees those of resourcesPerNode.accelerators. A Run without resourcesPerNode has whole \
         machines and may set it"
    )]
    ChoosesAccelerators {
        /// `namespace/name`.
        run: String,
        /// The field.
        place: String,
        /// The variable.
        variable: &'static str,
    },
    /// A variable is set in two places of equal right.
    #[error(
        "Run {run}: {variable} is set in podTemplate.env and in {place}; keep it in one of them, \
         because neither is meant to overrule the other"
    )]
    VariableTwice {
        /// `namespace/name`.
        run: String,
        /// The other field.
        place: String,
        /// The variable.
        variable: String,
    },
    /// The additions to pods contradict themselves, or what trainyard makes.
    #[error("Run {run}: {conflict}")]
    PodTemplate {
        /// `namespace/name`.
        run: String,
        /// What.
        conflict: Conflict,
    },
    /// Sidecars take all that a process has.
    #[error(
        "Run {run}: podTemplate.sidecars take {taken} {resource} beside each process, which leaves it nothing of its {share} on \
         a node; lower their resources, run fewer processes on a node, or use a larger vmSize"
    )]
    SidecarsTakeAll {
        /// `namespace/name`.
        run: String,
        /// `cpu` or `memory`.
        resource: &'static str,
        /// What they take together, in words.
        taken: String,
        /// What the process has with them, in words.
        share: String,
    },
    /// The accelerators of a node cannot be shared equally by its processes.
    #[error(
        "Run {run}: {processes} processes on one node cannot share its {count} {resource} equally; \
         change {field} so that the number of processes on a node divides {count}"
    )]
    AcceleratorsDoNotDivide {
        /// `namespace/name`.
        run: String,
        /// Processes on one node that use accelerators.
        processes: usize,
        /// Accelerators of that node.
        count: i64,
        /// Their resource name.
        resource: String,
        /// The field that decides the number of processes.
        field: &'static str,
    },
    /// What is written in `resourcesPerNode` is no amount.
    #[error(
        "Run {run}: spec.resourcesPerNode.{field} is {found}, expected an amount of more than 0, as 2 accelerators, cpu \
         7500m or memory 64Gi; create a Run with one, or without resourcesPerNode to take whole nodes"
    )]
    Portion {
        /// `namespace/name`.
        run: String,
        /// The field below `spec.resourcesPerNode`.
        field: &'static str,
        /// What is written.
        found: String,
    },
    /// It asks for accelerators where there are none.
    #[error(
        "Run {run}: spec.resourcesPerNode.accelerators asks for {wanted}, and nodes of its Cluster have none; use a Cluster \
         of a vmSize with accelerators, or ask for cpu or memory"
    )]
    NoAccelerators {
        /// `namespace/name`.
        run: String,
        /// What is written.
        wanted: i64,
    },
    /// It asks for a number of accelerators where there are several kinds.
    #[error(
        "Run {run}: spec.resourcesPerNode.accelerators does not say which of {kinds} it means; a Run on this vmSize can ask for \
         cpu and memory, or take whole nodes"
    )]
    ManyKindsOfAccelerators {
        /// `namespace/name`.
        run: String,
        /// Their resource names.
        kinds: String,
    },
    /// It asks for more of a node than there is.
    #[error(
        "Run {run}: spec.resourcesPerNode asks for {wanted} {resource} on each node, and a node of its Cluster has {available} for \
         runs; ask for less, or use a Cluster of a larger vmSize"
    )]
    ExceedsNode {
        /// `namespace/name`.
        run: String,
        /// `cpu`, `memory` or a resource name.
        resource: String,
        /// What it asks for, in words.
        wanted: String,
        /// What a node has, in words.
        available: String,
    },
    /// A node is too small to give each process a part.
    #[error(
        "Run {run}: {processes} processes on one node leave each of them no {resource} of the node's {available}; \
         run fewer processes on a node, or use a larger vmSize"
    )]
    NodeTooSmall {
        /// `namespace/name`.
        run: String,
        /// Processes on that node.
        processes: usize,
        /// `cpu` or `memory`.
        resource: &'static str,
        /// What the node has, in words.
        available: String,
    },
}
