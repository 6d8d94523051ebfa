//! One builder for each kind of object that belongs to a Run.
//!
//! In: a [`ValidRun`](trainyard_model::run::ValidRun) and facts about the machine. Out: the object, complete. Pure: no
//! client, no clock, no randomness; the same input gives the same object. Called by the run controller only.
//!
//! * [`pod`]: one process of one attempt; with the parts that a user adds to it, [`sidecar`], [`volume`], [`security`]
//!   and [`variable`].
//! * [`service`]: the headless Service that gives the processes of the current attempt their names.

pub mod pod;
pub mod security;
pub mod service;
pub mod sidecar;
pub mod variable;
pub mod volume;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use trainyard_api::Run;
use trainyard_model::run::RunIdentity;

/// That the object goes when the Run goes. It does not block the Run's deletion: the Run's own finalizer does, and
/// blocking would need one more permission.
fn owner(run: &RunIdentity) -> OwnerReference {
    OwnerReference {
        api_version: Run::api_version(&()).into_owned(),
        kind: Run::kind(&()).into_owned(),
        name: run.name.clone(),
        uid: run.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}
