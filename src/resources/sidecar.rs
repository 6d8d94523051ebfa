//! A container beside the Run's own, in each of its pods.
//!
//! It is a native sidecar: an init container that is always restarted. So it runs before the training starts, it is started
//! again when it exits, however often; the kubelet stops it when the training is done; and neither its end nor its exit
//! code has a say in how the pod ended. An ordinary container that does not end by itself would keep its machine for ever.
//!
//! It sees no accelerator unless its user says so, which only one who has the whole machine may: they belong to the
//! training, and its image may ask for all of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use trainyard_api::pod_template::{Sidecar, SidecarResources, VolumeMount};
use trainyard_api::variables::{NO_DEVICES, VISIBLE_DEVICES};

use super::{security, variable, volume};

/// Builds the container.
pub fn sidecar(written: &Sidecar) -> core::Container {
    // No `..`: a field that is accepted must be handed on.
    let Sidecar {
        name,
        image,
        image_pull_policy,
        command,
        args,
        env,
        volume_mounts,
        security_context,
        resources,
    } = written;
    let words = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    core::Container {
        name: name.clone(),
        image: Some(image.clone()),
        image_pull_policy: image_pull_policy.map(|policy| policy.to_string()),
        command: words(command),
        args: words(args),
        env: Some(environment(env)),
        volume_mounts: mounts(volume_mounts),
        security_context: security_context.as_ref().map(security::of_container),
        resources: Some(requests(resources)),
        restart_policy: Some("Always".to_owned()),
        ..core::Container::default()
    }
}

fn environment(env: &[trainyard_api::pod_template::EnvVar]) -> Vec<core::EnvVar> {
    let none = core::EnvVar {
        name: VISIBLE_DEVICES.to_owned(),
        value: Some(NO_DEVICES.to_owned()),
        value_from: None,
    };
    let is_set = env.iter().any(|one| one.name == VISIBLE_DEVICES);
    (!is_set).then_some(none).into_iter().chain(env.iter().map(variable::variable)).collect()
}

/// Where a container sees the volumes.
pub fn mounts(written: &[VolumeMount]) -> Option<Vec<core::VolumeMount>> {
    Some(written.iter().map(volume::mount).collect()).filter(|list: &Vec<_>| !list.is_empty())
}

/// Memory is limited to what was taken from the process's share, so that it fails alone; cpu is not.
fn requests(resources: &SidecarResources) -> core::ResourceRequirements {
    let SidecarResources { cpu, memory } = resources;
    let memory = ("memory".to_owned(), volume::quantity(memory));
    core::ResourceRequirements {
        limits: Some(BTreeMap::from([memory.clone()])),
        requests: Some(BTreeMap::from([memory, ("cpu".to_owned(), volume::quantity(cpu))])),
        claims: None,
    }
}
