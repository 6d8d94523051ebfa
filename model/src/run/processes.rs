//! Roles, layout and wiring: what follows from a Run's `distribution`.

use std::collections::BTreeMap;

use trainyard_api::distribution::{
    Distribution, Jax, MAX_PROCESSES_PER_NODE, MAX_WORKERS, PyTorch, PyTorchBackend, RoleName, TensorFlow,
    TensorFlowRole,
};

use super::error::InvalidRun;
use super::layout::Layout;

/// What one role runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// The role.
    pub name: RoleName,
    /// How many processes.
    pub count: usize,
    /// The program and its first arguments; empty means the image's.
    pub command: Vec<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Environment: the Run's, overruled by the role's.
    pub environment: BTreeMap<String, String>,
}

/// How processes find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// They are told nothing of each other.
    Alone,
    /// Through `TF_CONFIG`.
    TensorFlow,
    /// Through the variables of torchrun.
    PyTorch {
        /// Programs that torchrun starts in each pod.
        processes_per_node: usize,
        /// The backend named to scripts.
        backend: Option<PyTorchBackend>,
    },
    /// Through the arguments of `jax.distributed.initialize`.
    Jax,
}

impl Wiring {
    /// Programs in one pod that use accelerators by themselves.
    pub fn programs_per_process(self) -> usize {
        match self {
            Self::Alone | Self::TensorFlow | Self::Jax => 1,
            Self::PyTorch { processes_per_node, .. } => processes_per_node,
        }
    }
}

/// Roles, layout and wiring: what follows from `distribution`.
pub(super) struct Processes {
    pub(super) roles: Vec<Role>,
    pub(super) layout: Layout,
    pub(super) wiring: Wiring,
}

impl Processes {
    /// What follows from a Run's `distribution`, for the processes of one role that are like `base`.
    pub(super) fn of(
        run: &str,
        nodes: i32,
        distribution: Option<&Distribution>,
        base: Role,
    ) -> Result<Self, InvalidRun> {
        // No `..`: a new way must make somebody decide what it means here.
        let Some(Distribution { tensorflow, pytorch, jax }) = distribution else {
            return Ok(Self::one_for_each_node(nodes, base, Wiring::Alone));
        };
        match (tensorflow, pytorch, jax) {
            (Some(tensorflow), None, None) => Self::tensorflow(run, nodes, tensorflow, &base),
            (None, Some(pytorch), None) => Self::pytorch(run, nodes, pytorch, base),
            (None, None, Some(Jax {})) => Ok(Self::one_for_each_node(nodes, base, Wiring::Jax)),
            _ => {
                let written = [tensorflow.is_some(), pytorch.is_some(), jax.is_some()];
                let found = written.into_iter().filter(|one| *one).count();
                Err(InvalidRun::Distribution { run: run.to_owned(), found })
            }
        }
    }

    fn one_for_each_node(nodes: i32, base: Role, wiring: Wiring) -> Self {
        let nodes = nodes as usize;
        Self { roles: vec![Role { count: nodes, ..base }], layout: Layout::new(nodes, 0, nodes, 0), wiring }
    }

    fn pytorch(run: &str, nodes: i32, pytorch: &PyTorch, base: Role) -> Result<Self, InvalidRun> {
        let PyTorch { process_count_per_node, backend } = pytorch;
        let field = "pytorch.processCountPerNode";
        in_range(run, field, *process_count_per_node, 1, MAX_PROCESSES_PER_NODE)?;
        let wiring =
            Wiring::PyTorch { processes_per_node: *process_count_per_node as usize, backend: *backend };
        Ok(Self::one_for_each_node(nodes, base, wiring))
    }

    fn tensorflow(run: &str, nodes: i32, tensorflow: &TensorFlow, base: &Role) -> Result<Self, InvalidRun> {
        let chiefs = tensorflow.chief_count();
        let workers = tensorflow.worker_count(nodes);
        let servers = tensorflow.parameter_server_count();
        let evaluators = tensorflow.evaluator_count();
        in_range(run, "tensorflow.chief.count", chiefs, 0, 1)?;
        in_range(
            run,
            "tensorflow.worker.count",
            workers,
            0,
            MAX_WORKERS.min(nodes * MAX_PROCESSES_PER_NODE),
        )?;
        in_range(run, "tensorflow.parameterServer.count", servers, 0, MAX_WORKERS)?;
        in_range(run, "tensorflow.evaluator.count", evaluators, 0, 1)?;
        let (nodes, chiefs, workers) = (nodes as usize, chiefs as usize, workers as usize);
        let (servers, evaluators) = (servers as usize, evaluators as usize);
        if chiefs + workers < nodes {
            return Err(InvalidRun::IdleNodes { run: run.to_owned(), processes: chiefs + workers, nodes });
        }
        if servers > nodes {
            return Err(InvalidRun::TooManyParameterServers { run: run.to_owned(), servers, nodes });
        }
        let counts = [
            (RoleName::Chief, chiefs),
            (RoleName::Worker, workers),
            (RoleName::ParameterServer, servers),
            (RoleName::Evaluator, evaluators),
        ];
        let roles = counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| base.overruled_by(name, count, written(tensorflow, name)))
            .collect();
        let layout = Layout::new(nodes, chiefs, workers, servers).evaluated_by(evaluators);
        Ok(Self { roles, layout, wiring: Wiring::TensorFlow })
    }
}

impl Role {
    fn overruled_by(&self, name: RoleName, count: usize, written: Option<&TensorFlowRole>) -> Self {
        let mut role = Self { name, count, ..self.clone() };
        if let Some(TensorFlowRole { count: _, command, args, environment }) = written {
            if let Some(command) = command {
                role.command.clone_from(command);
            }
            if let Some(args) = args {
                role.args.clone_from(args);
            }
            role.environment.extend(environment.clone());
        }
        role
    }
}

pub(super) fn written(tensorflow: &TensorFlow, role: RoleName) -> Option<&TensorFlowRole> {
    match role {
        RoleName::Chief => tensorflow.chief.as_ref(),
        RoleName::Worker => tensorflow.worker.as_ref(),
        RoleName::ParameterServer => tensorflow.parameter_server.as_ref(),
        RoleName::Evaluator => tensorflow.evaluator.as_ref(),
    }
}

pub(super) fn field_of(role: RoleName) -> &'static str {
    match role {
        RoleName::Chief => "chief",
        RoleName::Worker => "worker",
        RoleName::ParameterServer => "parameterServer",
        RoleName::Evaluator => "evaluator",
    }
}

fn in_range(run: &str, field: &'static str, found: i32, least: i32, most: i32) -> Result<(), InvalidRun> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(InvalidRun::Count { run: run.to_owned(), field, found, least, most })
    }
}
