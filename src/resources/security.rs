//! Under whom a Run's containers run, and what they may do: the user's words, each field by its own name.

use k8s_openapi::api::core::v1 as core;
use trainyard_api::pod_template::security::{Capabilities, SeccompProfile};
use trainyard_api::pod_template::{ContainerSecurityContext, PodSecurityContext};

/// For all containers of a pod.
pub fn of_pod(written: &PodSecurityContext) -> core::PodSecurityContext {
    // No `..` here and below: a field that is accepted must be handed on.
    let PodSecurityContext {
        run_as_user,
        run_as_group,
        run_as_non_root,
        fs_group,
        fs_group_change_policy,
        supplemental_groups,
        seccomp_profile,
    } = written;
    core::PodSecurityContext {
        run_as_user: *run_as_user,
        run_as_group: *run_as_group,
        run_as_non_root: *run_as_non_root,
        fs_group: *fs_group,
        fs_group_change_policy: fs_group_change_policy.map(|policy| policy.to_string()),
        supplemental_groups: Some(supplemental_groups.clone()).filter(|list| !list.is_empty()),
        seccomp_profile: seccomp_profile.as_ref().map(profile),
        ..core::PodSecurityContext::default()
    }
}

/// For one container.
pub fn of_container(written: &ContainerSecurityContext) -> core::SecurityContext {
    let ContainerSecurityContext {
        run_as_user,
        run_as_group,
        run_as_non_root,
        read_only_root_filesystem,
        allow_privilege_escalation,
        capabilities,
        seccomp_profile,
    } = written;
    core::SecurityContext {
        run_as_user: *run_as_user,
        run_as_group: *run_as_group,
        run_as_non_root: *run_as_non_root,
        read_only_root_filesystem: *read_only_root_filesystem,
        allow_privilege_escalation: *allow_privilege_escalation,
        capabilities: capabilities.as_ref().map(|Capabilities { add, drop }| core::Capabilities {
            add: Some(add.clone()).filter(|list| !list.is_empty()),
            drop: Some(drop.clone()).filter(|list| !list.is_empty()),
        }),
        seccomp_profile: seccomp_profile.as_ref().map(profile),
        ..core::SecurityContext::default()
    }
}

fn profile(written: &SeccompProfile) -> core::SeccompProfile {
    let SeccompProfile { r#type, localhost_profile } = written;
    core::SeccompProfile { type_: r#type.to_string(), localhost_profile: localhost_profile.clone() }
}
