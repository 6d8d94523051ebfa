//! What contradicts itself, or what trainyard makes, in a Run's `podTemplate`; and what its sidecars take.
//!
//! In: what the user wrote. Out: the sidecars' requests in numbers, or the first [`Conflict`]. Nothing is merged: a Run has all
//! of what it says, or is refused with the two sides of the contradiction. An API server has refused most of it already.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use trainyard_api::capacity;
use trainyard_api::pod_template::{
    ContainerSecurityContext, EnvVar, MAIN_CONTAINER, PodTemplate, RESERVED_PATH, RESERVED_PREFIX, Sidecar,
    SidecarResources, VolumeMount,
};

use super::layout::ProcessShare;
use super::wiring;

/// The least memory of a sidecar: fewer bytes are a unit that was forgotten.
const LEAST_MEMORY: i64 = 1 << 20;

/// What cannot be together. Each text begins with the field below `spec`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// An annotation that is trainyard's.
    #[error("podTemplate.annotations sets {0}, which trainyard sets itself; remove it there")]
    OurAnnotation(String),
    /// A volume, container or path that is trainyard's.
    #[error("podTemplate.{place} has {found}; {ours} trainyard's own: {instead}")]
    Ours {
        /// The field below `podTemplate`.
        place: String,
        /// What is written.
        found: String,
        /// What is reserved.
        ours: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// One name or path for two things.
    #[error("podTemplate.{place} has {found} twice; keep one of them, or give the other one another {key}")]
    Twice {
        /// The field below `podTemplate`.
        place: String,
        /// What is written twice.
        found: String,
        /// What tells them apart.
        key: &'static str,
    },
    /// A volume with no or several sources.
    #[error(
        "podTemplate.volumes: {volume} has {found} sources, expected exactly one; take the others out, or write one"
    )]
    Sources {
        /// Its name.
        volume: String,
        /// How many.
        found: usize,
    },
    /// A mount of a volume that there is not.
    #[error(
        "podTemplate.{place} mounts {volume} at {path}, and podTemplate.volumes has no volume of that name (it has: \
         {known}); add it, or take the mount out"
    )]
    NoSuchVolume {
        /// The field below `podTemplate`.
        place: String,
        /// The name.
        volume: String,
        /// The path.
        path: String,
        /// The names that there are.
        known: String,
    },
    /// It must not run as root, and its user is root.
    #[error(
        "{place} has runAsUser 0, which is root, and runAsNonRoot {from} is true; take one of them out, or write \
         another user"
    )]
    RootIsForbidden {
        /// The field that makes it root.
        place: String,
        /// Where it is forbidden.
        from: String,
    },
    /// A sidecar that takes nothing that can be counted.
    #[error(
        "podTemplate.sidecars: resources.{field} of {sidecar} is {found}, expected {expected}; write that"
    )]
    Amount {
        /// Its name.
        sidecar: String,
        /// `cpu` or `memory`.
        field: &'static str,
        /// What is written.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// What the sidecars of one process take together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sidecars {
    /// Thousandths of a cpu.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

impl Sidecars {
    /// What they leave of a process's share for the process itself; else the resource of which nothing is left.
    pub fn leave(self, share: ProcessShare) -> Result<ProcessShare, &'static str> {
        let cpu_millis = share.cpu_millis.saturating_sub(self.cpu_millis);
        let memory_bytes = share.memory_bytes.saturating_sub(self.memory_bytes);
        if cpu_millis < 1 {
            return Err("cpu");
        }
        if memory_bytes < 1 {
            return Err("memory");
        }
        Ok(ProcessShare { cpu_millis, memory_bytes, ..share })
    }
}

/// Checks what is written, for a Run whose own container has this security context.
pub(super) fn check(
    template: &PodTemplate,
    of_main: Option<&ContainerSecurityContext>,
) -> Result<Sidecars, Conflict> {
    // No `..`: a new field must make somebody decide with what it can be in conflict.
    let PodTemplate {
        env,
        annotations,
        volumes,
        volume_mounts,
        security_context,
        service_account_name: _,
        automount_service_account_token: _,
        runtime_class_name: _,
        sidecars,
    } = template;
    let is_ours = |key: &str| key.starts_with("trainyard.dev/") || wiring::POD_ANNOTATIONS.contains(&key);
    if let Some(key) = annotations.keys().find(|key| is_ours(key)) {
        return Err(Conflict::OurAnnotation(key.clone()));
    }
    for volume in volumes {
        if volume.name.starts_with(RESERVED_PREFIX) {
            return Err(ours(
                "volumes",
                &volume.name,
                "names that begin with trainyard- are",
                "name it otherwise",
            ));
        }
        let found = volume.sources();
        if found != 1 {
            return Err(Conflict::Sources { volume: volume.name.clone(), found });
        }
    }
    let names: BTreeSet<&str> = once("volumes", "name", volumes.iter().map(|volume| volume.name.as_str()))?;
    once("env", "name", env.iter().map(|one: &EnvVar| one.name.as_str()))?;
    mounts("volumeMounts", volume_mounts, &names)?;
    once("sidecars", "name", sidecars.iter().map(|sidecar| sidecar.name.as_str()))?;
    let pod = security_context.as_ref();
    let (pod_user, pod_forbids) =
        (pod.and_then(|pod| pod.run_as_user), pod.and_then(|pod| pod.run_as_non_root).unwrap_or(false));
    let as_root = |place: &str, own: Option<&ContainerSecurityContext>| {
        let user = own.and_then(|own| own.run_as_user);
        let forbids = own.and_then(|own| own.run_as_non_root);
        if user.or(pod_user) != Some(0) || !forbids.unwrap_or(pod_forbids) {
            return Ok(());
        }
        let field = |is_own: bool| if is_own { place } else { "podTemplate.securityContext" }.to_owned();
        Err(Conflict::RootIsForbidden {
            place: field(user.is_some()),
            from: format!("in {}", field(forbids.is_some())),
        })
    };
    as_root("container.securityContext", of_main)?;
    let mut together = Sidecars::default();
    for sidecar in sidecars {
        let Sidecar { name, env, volume_mounts, security_context, resources, .. } = sidecar;
        if name == MAIN_CONTAINER || name.starts_with(RESERVED_PREFIX) {
            let reserved = "main, and names that begin with trainyard-, are";
            return Err(ours("sidecars", name, reserved, "name the sidecar otherwise"));
        }
        let place = format!("sidecars: {name}");
        once(&format!("{place}: env"), "name", env.iter().map(|one| one.name.as_str()))?;
        mounts(&format!("{place}: volumeMounts"), volume_mounts, &names)?;
        as_root(&format!("podTemplate.{place}: securityContext"), security_context.as_ref())?;
        let (cpu_millis, memory_bytes) = amounts(name, resources)?;
        together.cpu_millis = together.cpu_millis.saturating_add(cpu_millis);
        together.memory_bytes = together.memory_bytes.saturating_add(memory_bytes);
    }
    Ok(together)
}

fn ours(place: &str, found: &str, ours: &'static str, instead: &'static str) -> Conflict {
    Conflict::Ours { place: place.to_owned(), found: found.to_owned(), ours, instead }
}

/// The names, each of which is there once.
fn once<'a>(
    place: &str,
    key: &'static str,
    names: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<&'a str>, Conflict> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Conflict::Twice { place: place.to_owned(), found: name.to_owned(), key });
        }
    }
    Ok(seen)
}

fn mounts(place: &str, mounts: &[VolumeMount], volumes: &BTreeSet<&str>) -> Result<(), Conflict> {
    for VolumeMount { name, mount_path, sub_path: _, read_only: _ } in mounts {
        if !volumes.contains(name.as_str()) {
            let known: Vec<&str> = volumes.iter().copied().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let (place, volume, path) = (place.to_owned(), name.clone(), mount_path.clone());
            return Err(Conflict::NoSuchVolume { place, volume, path, known });
        }
        let below = mount_path.strip_prefix(RESERVED_PATH);
        if below.is_some_and(|below| below.is_empty() || below.starts_with('/')) {
            return Err(ours(place, mount_path, "/trainyard and what is below are", "mount it elsewhere"));
        }
    }
    once(place, "mountPath", mounts.iter().map(|mount| mount.mount_path.as_str())).map(drop)
}

/// Thousandths of a cpu and bytes.
fn amounts(sidecar: &str, resources: &SidecarResources) -> Result<(i64, i64), Conflict> {
    let SidecarResources { cpu, memory } = resources;
    let read =
        |field, written: &IntOrString, parse: fn(&Quantity) -> Option<i64>, least, expected| {
            let found = match written {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(text) => text.clone(),
            };
            parse(&Quantity(found.clone()))
                .filter(|amount| *amount >= least)
                .ok_or_else(|| Conflict::Amount { sidecar: sidecar.to_owned(), field, found, expected })
        };
    Ok((
        read("cpu", cpu, capacity::millis, 0, "an amount, as 250m or 1")?,
        read("memory", memory, capacity::bytes, LEAST_MEMORY, "at least 1Mi, as 256Mi")?,
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use crate::run::ValidRun;
    use crate::run::fixture::{machine, run};

    fn sidecar(name: &str, cpu: &str, memory: &str) -> Value {
        json!({"name": name, "image": "i", "resources": {"cpu": cpu, "memory": memory}})
    }

    fn refusal(spec: Value) -> String {
        ValidRun::parse(&run(spec)).expect_err("an invalid Run").to_string()
    }

    #[rstest]
    #[case(json!({"annotations": {"karpenter.sh/do-not-disrupt": "false"}}), "podTemplate.annotations sets karpenter.sh/do-not-disrupt, which trainyard sets itself")]
    #[case(json!({"annotations": {"trainyard.dev/x": ""}}), "podTemplate.annotations sets trainyard.dev/x")]
    #[case(json!({"volumes": [{"name": "trainyard-code", "emptyDir": {}}]}), "podTemplate.volumes has trainyard-code; names that begin with trainyard- are trainyard's own: name it otherwise")]
    #[case(json!({"volumes": [{"name": "a"}]}), "podTemplate.volumes: a has 0 sources, expected exactly one")]
    #[case(json!({"volumes": [{"name": "a", "emptyDir": {}, "nfs": {"server": "s", "path": "/"}}]}), "a has 2 sources")]
    #[case(json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]}), "podTemplate.volumes has a twice; keep one of them, or give the other one another name")]
    #[case(json!({"volumeMounts": [{"name": "a", "mountPath": "/a"}]}), "podTemplate.volumeMounts mounts a at /a, and podTemplate.volumes has no volume of that name (it has: none); add it")]
    #[case(json!({"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/a"}]}), "podTemplate.volumeMounts has /a twice; keep one of them, or give the other one another mountPath")]
    #[case(json!({"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": [{"name": "a", "mountPath": "/trainyard"}]}), "podTemplate.volumeMounts has /trainyard; /trainyard and what is below are trainyard's own: mount it elsewhere")]
    #[case(json!({"env": [{"name": "A", "value": ""}, {"name": "A", "value": ""}]}), "podTemplate.env has A twice")]
    #[case(json!({"sidecars": [sidecar("main", "1", "1Gi")]}), "podTemplate.sidecars has main; main, and names that begin with trainyard-, are trainyard's own: name the sidecar otherwise")]
    #[case(json!({"sidecars": [sidecar("a", "1", "1Gi"), sidecar("a", "1", "1Gi")]}), "podTemplate.sidecars has a twice")]
    #[case(json!({"sidecars": [sidecar("a", "one", "1Gi")]}), "podTemplate.sidecars: resources.cpu of a is one, expected an amount, as 250m or 1; write that")]
    #[case(json!({"sidecars": [sidecar("a", "1", "256")]}), "resources.memory of a is 256, expected at least 1Mi, as 256Mi")]
    #[case(json!({"sidecars": [{"name": "a", "image": "i", "resources": {"cpu": 1, "memory": "1Gi"}, "volumeMounts": [{"name": "b", "mountPath": "/b"}]}]}), "podTemplate.sidecars: a: volumeMounts mounts b at /b")]
    #[case(json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": true}}), "podTemplate.securityContext has runAsUser 0, which is root, and runAsNonRoot in podTemplate.securityContext is true")]
    #[case(json!({"securityContext": {"runAsNonRoot": true}, "sidecars": [{"name": "a", "image": "i", "resources": {"cpu": 1, "memory": "1Gi"}, "securityContext": {"runAsUser": 0}}]}), "podTemplate.sidecars: a: securityContext has runAsUser 0, which is root, and runAsNonRoot in podTemplate.securityContext is true")]
    fn a_conflict_is_refused_with_both_sides(#[case] template: Value, #[case] expected: &str) {
        let message = refusal(json!({"podTemplate": template}));
        assert!(message.starts_with("Run ml/r1: ") && message.contains(expected), "{message}");
    }

    #[test]
    fn a_container_may_say_for_itself_what_the_pod_forbids_or_is() {
        let spec = |own: Value, pod: Value| json!({"container": {"image": "i", "securityContext": own}, "podTemplate": {"securityContext": pod}});
        let message = refusal(spec(json!({"runAsUser": 0}), json!({"runAsNonRoot": true})));
        assert!(message.contains("container.securityContext has runAsUser 0"), "{message}");
        for (own, pod) in [
            (json!({"runAsNonRoot": false}), json!({"runAsUser": 0, "runAsNonRoot": false})),
            (json!({"runAsUser": 1000}), json!({"runAsUser": 0, "runAsNonRoot": false})),
            (json!({"runAsUser": 0, "runAsNonRoot": false}), json!({"runAsNonRoot": true})),
        ] {
            ValidRun::parse(&run(spec(own.clone(), pod))).unwrap_or_else(|error| panic!("{own}: {error}"));
        }
    }

    #[test]
    fn what_sidecars_take_is_not_the_process_s_any_more() {
        let with = |sidecars: Value| {
            ValidRun::parse(&run(json!({
                "distribution": {"tensorflow": {"worker": {"count": 2}}}, "podTemplate": {"sidecars": sidecars}})))
            .expect("a valid Run")
        };
        let two = with(json!([sidecar("a", "250m", "1Gi"), sidecar("b", "1", "512Mi")]));
        // Each of two workers has half of 8 cpus, 16 GiB and 4 accelerators.
        let share = two.share(two.layout.primary(), &machine(4)).expect("it fits");
        assert_eq!((share.cpu_millis, share.memory_bytes), (4000 - 1250, (8 << 30) - (3 << 29)));
        assert_eq!(share.accelerator_count(), 2);

        for (sidecars, expected) in [
            (
                json!([sidecar("a", "4", "1Gi")]),
                "podTemplate.sidecars take 4000m cpu beside each process, which leaves it nothing of its 4000m on a node",
            ),
            (
                json!([sidecar("a", "0", "8Gi")]),
                "take 8192Mi memory beside each process, which leaves it nothing of its 8192Mi",
            ),
        ] {
            let message = with(sidecars).fits(&machine(4)).expect_err("nothing is left").to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
