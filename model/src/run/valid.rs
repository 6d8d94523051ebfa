//! The parse of a Run, and its result.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use trainyard_api::Run;
use trainyard_api::capacity::Capacity;
use trainyard_api::distribution::{Distribution, RoleName};
use trainyard_api::pod_template::{EnvVar, PodTemplate};
use trainyard_api::run::{ClusterRef, Container, MAX_NODES, Priority, Retries, RunSpec, SuccessPolicy};
use trainyard_api::variables::VISIBLE_DEVICES;

use super::error::InvalidRun;
use super::layout::{Layout, Process, ProcessShare, Unshareable};
use super::pod_template::{self, Sidecars};
use super::portion::{NoAmount, Portion};
use super::processes::{Processes, Role, Wiring, field_of, written};
use super::wiring;

/// Which Run, exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: tells it from a later one of the same name.
    pub uid: String,
}

impl std::fmt::Display for RunIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Run whose every part has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidRun {
    /// Which Run.
    pub id: RunIdentity,
    /// Name of its Cluster.
    pub cluster: String,
    /// Name of its Experiment, in its namespace.
    pub experiment: String,
    /// Its place in the queue.
    pub priority: Priority,
    /// When it was created: second in the order of the queue.
    pub created: Timestamp,
    /// The container of every role.
    pub container: Container,
    /// Additions to its pods; empty when none are written.
    pub pod_template: PodTemplate,
    /// What the sidecars of one process take together.
    pub sidecars: Sidecars,
    /// What each role runs, in the order chief, worker, ps, evaluator. Roles without a process are absent.
    pub roles: Vec<Role>,
    /// What it takes of each machine; absent, the whole of it.
    pub portion: Option<Portion>,
    /// Which process sits where.
    pub layout: Layout,
    /// How processes find each other.
    pub wiring: Wiring,
    /// Whose exit makes it a success.
    pub success: SuccessPolicy,
    /// Longest time of one attempt, counted from `attempts[].launched`.
    pub limit: SignedDuration,
    /// How long machines may be bought for it that wait for the rest.
    pub gang_timeout: SignedDuration,
    /// How often it may be tried again.
    pub budgets: Budgets,
    /// Whether its user wants it stopped for now.
    pub suspend: bool,
    /// Whether its user wants it to end.
    pub cancel: bool,
}

/// The two budgets of further attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Failures of the training or its set-up after which it is tried again.
    pub user: i32,
    /// Failures of machines after which it is tried again.
    pub infrastructure: i32,
}

impl ValidRun {
    /// Checks a Run as an API server returned it.
    pub fn parse(run: &Run) -> Result<Self, InvalidRun> {
        let metadata = &run.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let shown = format!("{namespace}/{name}");
        let missing = |missing| InvalidRun::NotFromServer { run: shown.clone(), missing };
        let uid = metadata.uid.clone().ok_or_else(|| missing("uid"))?;
        let created = metadata.creation_timestamp.as_ref().ok_or_else(|| missing("creationTimestamp"))?.0;
        if name.is_empty() {
            return Err(missing("name"));
        }

        // No `..`: a new field must make somebody decide what it means here.
        let RunSpec {
            cluster_ref: ClusterRef { name: cluster, namespace: _ },
            experiment,
            priority,
            node_count,
            resources_per_node,
            container,
            command,
            args,
            environment,
            distribution,
            success_policy,
            max_wall_clock_time,
            // Read where they matter, with the status that they count in: see `limits`.
            max_total_time: _,
            retries: Retries { user, infrastructure },
            gang_timeout,
            queue_deadline: _,
            // What is left of it afterwards is no matter of its parse.
            clean_pod_policy: _,
            ttl_after_finished: _,
            suspend,
            cancel,
            pod_template,
        } = &run.spec;
        if !(1..=MAX_NODES).contains(node_count) {
            return Err(InvalidRun::NodeCount { run: shown, found: *node_count, most: MAX_NODES });
        }
        let portion = match resources_per_node.as_ref().map(Portion::parse).transpose() {
            Ok(portion) => portion,
            Err(NoAmount { field, found }) => return Err(InvalidRun::Portion { run: shown, field, found }),
        };
        let base = Role {
            name: RoleName::Worker,
            count: 0,
            command: command.clone(),
            args: args.clone(),
            environment: environment.clone(),
        };
        let processes = Processes::of(&shown, *node_count, distribution.as_ref(), base)?;
        let pod_template = pod_template.clone().unwrap_or_default();
        let sidecars = pod_template::check(&pod_template, container.security_context.as_ref())
            .map_err(|conflict| InvalidRun::PodTemplate { run: shown, conflict })?;
        let run = Self {
            id: RunIdentity { namespace, name, uid },
            cluster: cluster.clone(),
            experiment: experiment.clone(),
            priority: *priority,
            created,
            container: container.clone(),
            pod_template,
            sidecars,
            portion,
            roles: processes.roles,
            layout: processes.layout,
            wiring: processes.wiring,
            success: *success_policy,
            limit: SignedDuration::from(*max_wall_clock_time),
            gang_timeout: SignedDuration::from(*gang_timeout),
            budgets: Budgets { user: *user, infrastructure: *infrastructure },
            suspend: *suspend,
            cancel: *cancel,
        };
        run.variables_are_free(distribution.as_ref())?;
        Ok(run)
    }

    /// What a role runs.
    pub fn role(&self, name: RoleName) -> Option<&Role> {
        self.roles.iter().find(|role| role.name == name)
    }

    /// Whether a process is told a host's name, be it its own: then that name must be known.
    pub fn names_hosts(&self) -> bool {
        self.wiring != Wiring::Alone || self.layout.processes().len() > 1
    }

    /// The name of a process's host, and of its pod in the first attempt: `<run>-<role>-<index>`.
    pub fn host_name(&self, process: Process) -> String {
        format!("{}-{}-{}", self.id.name, process.role, process.index)
    }

    /// The name of a process's pod: its host's name, with the attempt's number from the second one on.
    pub fn pod_name(&self, process: Process, attempt: i32) -> String {
        let host = self.host_name(process);
        if attempt <= 1 { host } else { format!("{host}-a{attempt}") }
    }

    /// What a process gets of its node, of which this Run has `capacity`: its part, less what its sidecars take of it.
    pub fn share(&self, process: Process, capacity: &Capacity) -> Result<ProcessShare, InvalidRun> {
        let with_sidecars = self.pod_share(process, capacity)?;
        let (millis, mebibytes) =
            (|amount: i64| format!("{amount}m"), |amount: i64| format!("{}Mi", amount / (1 << 20)));
        let Sidecars { cpu_millis, memory_bytes } = self.sidecars;
        let (all_cpu, all_memory) = (with_sidecars.cpu_millis, with_sidecars.memory_bytes);
        self.sidecars.leave(with_sidecars).map_err(|resource| {
            let (taken, share) = match resource {
                "cpu" => (millis(cpu_millis), millis(all_cpu)),
                _ => (mebibytes(memory_bytes), mebibytes(all_memory)),
            };
            InvalidRun::SidecarsTakeAll { run: self.id.to_string(), resource, taken, share }
        })
    }

    /// What all containers of a process get together.
    fn pod_share(&self, process: Process, capacity: &Capacity) -> Result<ProcessShare, InvalidRun> {
        let run = self.id.to_string();
        self.layout.share(process, capacity, self.wiring.programs_per_process()).map_err(
            |fault| match fault {
                Unshareable::Accelerators { processes, count, resource } => {
                    InvalidRun::AcceleratorsDoNotDivide {
                        run,
                        processes,
                        count,
                        resource,
                        field: match self.wiring {
                            Wiring::PyTorch { .. } => "pytorch.processCountPerNode",
                            Wiring::TensorFlow | Wiring::Alone | Wiring::Jax => "worker.count or nodeCount",
                        },
                    }
                }
                Unshareable::Cpu { processes } => InvalidRun::NodeTooSmall {
                    run,
                    processes,
                    resource: "cpu",
                    available: format!("{} thousandths of a cpu", capacity.cpu_millis),
                },
                Unshareable::Memory { processes } => InvalidRun::NodeTooSmall {
                    run,
                    processes,
                    resource: "memory",
                    available: format!("{} bytes", capacity.memory_bytes),
                },
            },
        )
    }

    /// Whether this Run gets its part of machines that have `machine`, and every process its part of that.
    pub fn fits(&self, machine: &Capacity) -> Result<(), InvalidRun> {
        let capacity = &self.part_of(machine)?;
        self.layout.processes().iter().try_for_each(|process| self.share(*process, capacity).map(|_| ()))
    }

    /// Nothing the user sets has the name of a variable that trainyard sets for the same process.
    fn variables_are_free(&self, distribution: Option<&Distribution>) -> Result<(), InvalidRun> {
        let run = || self.id.to_string();
        let from_template: BTreeSet<&str> =
            self.pod_template.env.iter().map(|one| one.name.as_str()).collect();
        for role in &self.roles {
            let Some(process) = self.layout.processes().iter().find(|process| process.role == role.name)
            else {
                continue;
            };
            let place_of = |variable: &str| {
                let own = distribution
                    .and_then(|one| one.tensorflow.as_ref())
                    .and_then(|one| written(one, role.name));
                if own.is_some_and(|own| own.environment.contains_key(variable)) {
                    format!("distribution.tensorflow.{}.environment", field_of(role.name))
                } else {
                    "environment".to_owned()
                }
            };
            for ours in wiring::variables(self, *process, 0) {
                let place = if role.environment.contains_key(&ours.name) {
                    place_of(&ours.name)
                } else if from_template.contains(ours.name.as_str()) {
                    "podTemplate.env".to_owned()
                } else {
                    continue;
                };
                let variable = ours.name;
                return Err(InvalidRun::ReservedVariable { run: run(), place, variable, role: role.name });
            }
            if let Some(twice) = role.environment.keys().find(|name| from_template.contains(name.as_str())) {
                let place = place_of(twice);
                return Err(InvalidRun::VariableTwice { run: run(), place, variable: twice.clone() });
            }
            if self.portion.is_some() && role.environment.contains_key(VISIBLE_DEVICES) {
                return Err(self.chooses_accelerators(place_of(VISIBLE_DEVICES)));
            }
        }
        if self.portion.is_some() {
            self.template_hides_accelerators()?;
        }
        Ok(())
    }

    /// Of a Run that shares machines: no container may ask its runtime for the accelerators of others.
    fn template_hides_accelerators(&self) -> Result<(), InvalidRun> {
        let sets = |env: &[EnvVar]| env.iter().any(|one| one.name == VISIBLE_DEVICES);
        if sets(&self.pod_template.env) {
            return Err(self.chooses_accelerators("podTemplate.env".to_owned()));
        }
        match self.pod_template.sidecars.iter().find(|sidecar| sets(&sidecar.env)) {
            Some(one) => {
                Err(self.chooses_accelerators(format!("env of podTemplate.sidecars[name={}]", one.name)))
            }
            None => Ok(()),
        }
    }

    fn chooses_accelerators(&self, place: String) -> InvalidRun {
        InvalidRun::ChoosesAccelerators { run: self.id.to_string(), place, variable: VISIBLE_DEVICES }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::run::fixture::{machine, run};

    fn parsed(spec: Value) -> ValidRun {
        ValidRun::parse(&run(spec)).expect("a valid Run")
    }

    #[test]
    fn the_shortest_run_is_one_worker_with_all_defaults() {
        let run = parsed(json!({}));
        assert_eq!(run.layout.processes().len(), 1);
        assert_eq!(run.roles[0].name, RoleName::Worker);
        assert_eq!((run.budgets.user, run.budgets.infrastructure), (0, 10));
        assert_eq!(run.limit, SignedDuration::from_hours(168));
        assert_eq!(run.pod_name(run.layout.primary(), 1), "r1-worker-0");
        assert_eq!(run.pod_name(run.layout.primary(), 2), "r1-worker-0-a2");
        assert_eq!(run.host_name(run.layout.primary()), "r1-worker-0");
    }

    #[test]
    fn a_role_overrules_command_args_and_single_variables() {
        let run = parsed(json!({
            "command": ["python", "train.py"], "args": ["--all"], "environment": {"A": "run", "B": "run"},
            "distribution": {"tensorflow": {
                "chief": {"args": ["--chief"]},
                "parameterServer": {"command": ["python", "ps.py"], "environment": {"B": "ps"}},
            }},
            "nodeCount": 2,
        }));
        let [chief, worker, server] = run.roles.as_slice() else { panic!("three roles: {:?}", run.roles) };
        assert_eq!(
            (chief.args.as_slice(), chief.command.len(), chief.count),
            (["--chief".to_owned()].as_slice(), 2, 1)
        );
        assert_eq!((worker.args.as_slice(), worker.count), (["--all".to_owned()].as_slice(), 1));
        assert_eq!(server.command[1], "ps.py");
        assert_eq!((server.environment["A"].as_str(), server.environment["B"].as_str()), ("run", "ps"));
    }

    #[rstest]
    #[case(json!({"nodeCount": 0}), "spec.nodeCount is 0, expected 1 to 1000")]
    #[case(json!({"distribution": {}}), "has 0 of tensorflow, pytorch and jax")]
    #[case(json!({"distribution": {"tensorflow": {}, "jax": {}}}), "has 2 of tensorflow, pytorch and jax")]
    #[case(json!({"distribution": {"tensorflow": {"evaluator": {"count": 2}}}}), "evaluator.count is 2, expected 0 to 1")]
    #[case(json!({"distribution": {"jax": {}}, "environment": {"PROCESS_ID": "0"}}), "environment sets PROCESS_ID")]
    #[case(json!({"distribution": {"tensorflow": {"evaluator": {"environment": {"TF_CONFIG": "{}"}}}}}), "distribution.tensorflow.evaluator.environment sets TF_CONFIG")]
    #[case(json!({"distribution": {"tensorflow": {"chief": {"count": 2}}}}), "chief.count is 2, expected 0 to 1")]
    #[case(json!({"distribution": {"tensorflow": {"worker": {"count": 17}}}}), "worker.count is 17, expected 0 to 16")]
    #[case(json!({"nodeCount": 3, "distribution": {"tensorflow": {"worker": {"count": 2}}}}), "2 together, expected at least nodeCount, which is 3")]
    #[case(json!({"distribution": {"tensorflow": {"parameterServer": {"count": 2}}}}), "parameterServer.count is 2, expected at most nodeCount, which is 1")]
    #[case(json!({"distribution": {"pytorch": {"processCountPerNode": 0}}}), "processCountPerNode is 0, expected 1 to 16")]
    #[case(json!({"environment": {"AZ_BATCHAI_TASK_INDEX": "1"}}), "environment sets AZ_BATCHAI_TASK_INDEX, which trainyard sets itself for the worker")]
    #[case(json!({"nodeCount": 2, "distribution": {"tensorflow": {}}, "podTemplate": {"env": [{"name": "TF_CONFIG", "value": "{}"}]}}), "podTemplate.env sets TF_CONFIG")]
    #[case(json!({"distribution": {"pytorch": {}}, "environment": {"PET_NNODES": "2"}}), "environment sets PET_NNODES")]
    #[case(json!({"distribution": {"tensorflow": {"parameterServer": {"environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}}}}), "distribution.tensorflow.parameterServer.environment sets NVIDIA_VISIBLE_DEVICES")]
    #[case(json!({"resourcesPerNode": {"accelerators": 1}, "environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}), "environment sets NVIDIA_VISIBLE_DEVICES, and with resourcesPerNode")]
    #[case(json!({"resourcesPerNode": {"accelerators": 1}, "distribution": {"tensorflow": {"worker": {"environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}}}}), "distribution.tensorflow.worker.environment sets NVIDIA_VISIBLE_DEVICES, and with resourcesPerNode")]
    #[case(json!({"resourcesPerNode": {"accelerators": 1}, "podTemplate": {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"}]}}), "podTemplate.env sets NVIDIA_VISIBLE_DEVICES, and with resourcesPerNode")]
    #[case(json!({"resourcesPerNode": {"accelerators": 1}, "podTemplate": {"sidecars": [{"name": "spy", "image": "a", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}], "resources": {"cpu": "1m", "memory": "1Mi"}}]}}), "env of podTemplate.sidecars[name=spy] sets NVIDIA_VISIBLE_DEVICES")]
    #[case(json!({"distribution": {"tensorflow": {"worker": {"environment": {"A": "1"}}}}, "podTemplate": {"env": [{"name": "A", "value": "2"}]}}), "A is set in podTemplate.env and in distribution.tensorflow.worker.environment")]
    fn what_is_wrong_is_named_with_value_and_expectation(#[case] spec: Value, #[case] expected: &str) {
        let message = ValidRun::parse(&run(spec)).expect_err("an invalid Run").to_string();
        assert!(message.starts_with("Run ml/r1: ") && message.contains(expected), "{message}");
    }

    #[test]
    fn a_variable_of_another_distribution_is_free() {
        parsed(json!({"environment": {"TF_CONFIG": "{}", "MASTER_ADDR": "me"}}));
        parsed(
            json!({"distribution": {"tensorflow": {}}, "environment": {"RANK": "0", "PYTHONUNBUFFERED": "0"}}),
        );
        parsed(json!({"environment": {"NVIDIA_VISIBLE_DEVICES": "0,1"}}));
    }

    #[test]
    fn accelerators_that_do_not_divide_are_refused_with_both_numbers() {
        let three = parsed(json!({"distribution": {"tensorflow": {"worker": {"count": 3}}}}));
        let message = three.fits(&machine(4)).expect_err("3 does not divide 4").to_string();
        assert!(
            message.contains("3 processes on one node cannot share its 4 nvidia.com/gpu equally"),
            "{message}"
        );
        three.fits(&machine(6)).expect("3 divides 6");
        let torch = parsed(json!({"distribution": {"pytorch": {"processCountPerNode": 8}}}));
        let message = torch.fits(&machine(4)).expect_err("8 does not divide 4").to_string();
        assert!(
            message.contains("8 processes") && message.contains("pytorch.processCountPerNode"),
            "{message}"
        );
    }

    #[test]
    fn a_machine_smaller_than_its_processes_is_named() {
        let two = parsed(json!({"distribution": {"tensorflow": {"worker": {"count": 2}}}}));
        let tiny = Capacity { cpu_millis: 1, memory_bytes: 1 << 30, ..Capacity::default() };
        let message = two.fits(&tiny).expect_err("one thousandth for two").to_string();
        assert!(message.contains("no cpu of the node's 1 thousandths"), "{message}");
    }
}
