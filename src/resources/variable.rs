//! An environment variable whose value may come from elsewhere: the user's, each field by its own name.

use k8s_openapi::api::core::v1 as core;
use trainyard_api::pod_template::{EnvVar, EnvVarSource, FieldRef, KeyRef};

/// A variable.
pub fn variable(one: &EnvVar) -> core::EnvVar {
    let EnvVar { name, value, value_from } = one;
    core::EnvVar { name: name.clone(), value: value.clone(), value_from: value_from.as_ref().map(source) }
}

fn source(from: &EnvVarSource) -> core::EnvVarSource {
    let EnvVarSource { secret_key_ref, config_map_key_ref, field_ref } = from;
    core::EnvVarSource {
        secret_key_ref: secret_key_ref.as_ref().map(|KeyRef { name, key, optional }| {
            core::SecretKeySelector { name: name.clone(), key: key.clone(), optional: *optional }
        }),
        config_map_key_ref: config_map_key_ref.as_ref().map(|KeyRef { name, key, optional }| {
            core::ConfigMapKeySelector { name: name.clone(), key: key.clone(), optional: *optional }
        }),
        field_ref: field_ref.as_ref().map(|FieldRef { field_path }| core::ObjectFieldSelector {
            field_path: field_path.clone(),
            api_version: None,
        }),
        ..core::EnvVarSource::default()
    }
}
