//! The volumes of a Run's pods, and where its containers see them: the user's, each field by its own name.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use trainyard_api::pod_template::volume::{
    ClaimedVolume, ConfigMapFiles, CsiVolume, EmptyDir, HostPath, KeyToPath, NfsVolume, ProjectedKeys,
    ProjectedSource, ProjectedToken, ProjectedVolume, SecretFiles, SecretName,
};
use trainyard_api::pod_template::{Volume, VolumeMount};

/// A quantity, however it is written.
pub fn quantity(written: &IntOrString) -> Quantity {
    match written {
        IntOrString::Int(number) => Quantity(number.to_string()),
        IntOrString::String(text) => Quantity(text.clone()),
    }
}

/// A volume.
pub fn volume(written: &Volume) -> core::Volume {
    // No `..` here and below: a field that is accepted must be handed on.
    let Volume {
        name,
        empty_dir,
        config_map,
        secret,
        persistent_volume_claim,
        csi,
        nfs,
        projected,
        host_path,
    } = written;
    core::Volume {
        name: name.clone(),
        empty_dir: empty_dir.as_ref().map(|EmptyDir { medium, size_limit }| core::EmptyDirVolumeSource {
            medium: medium.map(|medium| medium.to_string()),
            size_limit: size_limit.as_ref().map(quantity),
        }),
        config_map: config_map.as_ref().map(|ConfigMapFiles { name, items, default_mode, optional }| {
            core::ConfigMapVolumeSource {
                name: name.clone(),
                items: files(items),
                default_mode: *default_mode,
                optional: only_if(*optional),
            }
        }),
        secret: secret.as_ref().map(|SecretFiles { secret_name, items, default_mode, optional }| {
            core::SecretVolumeSource {
                secret_name: Some(secret_name.clone()),
                items: files(items),
                default_mode: *default_mode,
                optional: only_if(*optional),
            }
        }),
        persistent_volume_claim: persistent_volume_claim.as_ref().map(
            |ClaimedVolume { claim_name, read_only }| core::PersistentVolumeClaimVolumeSource {
                claim_name: claim_name.clone(),
                read_only: only_if(*read_only),
            },
        ),
        csi: csi.as_ref().map(of_driver),
        nfs: nfs.as_ref().map(|NfsVolume { server, path, read_only }| core::NFSVolumeSource {
            server: server.clone(),
            path: path.clone(),
            read_only: only_if(*read_only),
        }),
        projected: projected.as_ref().map(|ProjectedVolume { sources, default_mode }| {
            core::ProjectedVolumeSource {
                sources: Some(sources.iter().map(projection).collect()),
                default_mode: *default_mode,
            }
        }),
        host_path: host_path.as_ref().map(|HostPath { path, r#type }| core::HostPathVolumeSource {
            path: path.clone(),
            type_: r#type.map(|kind| kind.to_string()),
        }),
        ..core::Volume::default()
    }
}

/// Where a container sees a volume.
pub fn mount(written: &VolumeMount) -> core::VolumeMount {
    let VolumeMount { name, mount_path, sub_path, read_only } = written;
    core::VolumeMount {
        name: name.clone(),
        mount_path: mount_path.clone(),
        sub_path: sub_path.clone(),
        read_only: only_if(*read_only),
        ..core::VolumeMount::default()
    }
}

/// What is false by default is left out, as most people would write it.
fn only_if(value: bool) -> Option<bool> {
    value.then_some(true)
}

fn files(items: &[KeyToPath]) -> Option<Vec<core::KeyToPath>> {
    let one = |KeyToPath { key, path }: &KeyToPath| core::KeyToPath {
        key: key.clone(),
        path: path.clone(),
        mode: None,
    };
    Some(items.iter().map(one).collect()).filter(|list: &Vec<_>| !list.is_empty())
}

fn of_driver(written: &CsiVolume) -> core::CSIVolumeSource {
    let CsiVolume { driver, read_only, fs_type, volume_attributes, node_publish_secret_ref } = written;
    core::CSIVolumeSource {
        driver: driver.clone(),
        read_only: only_if(*read_only),
        fs_type: fs_type.clone(),
        volume_attributes: Some(volume_attributes.clone()).filter(|map| !map.is_empty()),
        node_publish_secret_ref: node_publish_secret_ref
            .as_ref()
            .map(|SecretName { name }| core::LocalObjectReference { name: name.clone() }),
    }
}

fn projection(source: &ProjectedSource) -> core::VolumeProjection {
    let ProjectedSource { config_map, secret, service_account_token } = source;
    core::VolumeProjection {
        config_map: config_map.as_ref().map(|ProjectedKeys { name, items, optional }| {
            core::ConfigMapProjection {
                name: name.clone(),
                items: files(items),
                optional: only_if(*optional),
            }
        }),
        secret: secret.as_ref().map(|ProjectedKeys { name, items, optional }| core::SecretProjection {
            name: name.clone(),
            items: files(items),
            optional: only_if(*optional),
        }),
        service_account_token: service_account_token.as_ref().map(
            |ProjectedToken { path, audience, expiration_seconds }| core::ServiceAccountTokenProjection {
                path: path.clone(),
                audience: audience.clone(),
                expiration_seconds: *expiration_seconds,
            },
        ),
        ..core::VolumeProjection::default()
    }
}
