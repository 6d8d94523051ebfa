//! Wire types of `trainyard.dev/v1alpha1`: what users write, what trainyard answers, and the CRDs made from both.
//!
//! No client, no I/O, no clock. Everyone else depends on this crate; it depends on none of ours.
//!
//! | module | has |
//! |---|---|
//! | [`cluster`] | `Cluster`: a pool of equal machines |
//! | [`cluster_node`] | `ClusterNode`: one machine of a Cluster |
//! | [`experiment`] | `Experiment`: a named group of Runs |
//! | [`run`], [`run_status`] | `Run`: one training job, and what is answered about it |
//! | [`retention`] | what is kept of finished Runs and their pods |
//! | [`distribution`] | how the processes of a Run find each other |
//! | [`provisioning_class`] | `ProvisioningClass`: which engine makes machines |
//! | [`vm_size`] | `VmSize`: facts about a size |
//! | [`shipped`] | the VmSizes that come with trainyard |
//! | [`capacity`] | what a machine has and a claim takes; reading of quantities |
//! | [`placement`] | taints, tolerations, requirements |
//! | [`conditions`], [`duration`], [`text`] | forms that several kinds share |
//! | [`variables`] | environment variables trainyard sets itself |
//! | [`names`] | group, labels, annotations, finalizers, field managers |
//! | [`schema`] | bounds and rules that several schemas share |
//! | [`crds`] | the CRDs, as objects and as YAML |

// Printer columns repeat `type_ = "string"`; the lint takes them for one attribute written twice.
#![allow(clippy::duplicated_attributes)]

mod closed_set;

pub mod capacity;
pub mod cluster;
pub mod cluster_node;
pub mod conditions;
pub mod crds;
pub mod distribution;
pub mod duration;
pub mod experiment;
pub mod names;
pub mod placement;
pub mod pod_template;
pub mod provisioning_class;
pub mod resources_per_node;
pub mod retention;
pub mod run;
pub mod run_status;
pub mod scale;
pub mod schema;
pub mod shipped;
pub mod tenancy;
pub mod text;
pub mod text_total;
pub mod variables;
pub mod vm_size;

pub use cluster::Cluster;
pub use cluster_node::ClusterNode;
pub use crds::all_crds;
pub use experiment::Experiment;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
pub use provisioning_class::ProvisioningClass;
pub use run::Run;
pub use shipped::shipped_vm_sizes;
pub use vm_size::VmSize;
