//! Flags and environment.
//!
//! Everything a person can set is here, once: `--help` is the reference. Each flag has an environment variable with
//! the prefix `TRAINYARD_`; the flag wins. Where the API server is follows `KUBECONFIG`, as for every Kubernetes tool.

use std::{net::SocketAddr, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::{
    kubernetes::{
        client::Limits,
        leader::{Candidacy, Timing},
    },
    telemetry::{logging::LogFormat, metrics::ControllerName},
};

/// Elastic pools of training machines on Kubernetes: Cluster, Experiment and Run.
#[derive(Debug, Parser)]
#[command(name = "trainyard", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

/// What the program is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator (the default).
    Run(Settings),
    /// Print the custom resource definitions as YAML.
    Crds,
}

impl Arguments {
    /// The subcommand; running the operator if none was given.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Run(self.settings))
    }
}

/// Settings of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Settings {
    /// Take part in an election, so that of several processes one acts. Without it, run one process only.
    #[arg(long, env = "TRAINYARD_LEADER_ELECTION", default_value_t = true, action = ArgAction::Set)]
    pub leader_election: bool,

    /// Namespace of the lease; by default the namespace this process runs in.
    #[arg(long, env = "TRAINYARD_LEASE_NAMESPACE", value_parser = not_empty)]
    pub lease_namespace: Option<String>,

    /// Name of the lease.
    #[arg(long, env = "TRAINYARD_LEASE_NAME", default_value = "trainyard", value_parser = not_empty)]
    pub lease_name: String,

    /// This process's name in the lease, unique among those that run at the same time; by default host name and
    /// process number. A process that starts under the name of one that died takes over its lease at once.
    #[arg(long, env = "TRAINYARD_IDENTITY", value_parser = not_empty)]
    pub identity: Option<String>,

    /// Address of /livez, /readyz and /metrics; port 0 takes any free one.
    #[arg(long, env = "TRAINYARD_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Form of the log.
    #[arg(long, env = "TRAINYARD_LOG_FORMAT", default_value_t, value_enum)]
    pub log_format: LogFormat,

    /// What is logged: a level, or levels by module (info,trainyard=debug).
    #[arg(long, env = "TRAINYARD_LOG_LEVEL", default_value = "info", value_parser = not_empty)]
    pub log_level: String,

    /// Clusters decided for at once.
    #[arg(long, env = "TRAINYARD_CLUSTER_CONCURRENCY", default_value_t = 8, value_parser = at_least_one)]
    pub cluster_concurrency: usize,

    /// Clusters whose machines are worked on at once.
    #[arg(long, env = "TRAINYARD_NODE_CONCURRENCY", default_value_t = 8, value_parser = at_least_one)]
    pub node_concurrency: usize,

    /// Runs worked on at once.
    #[arg(long, env = "TRAINYARD_RUN_CONCURRENCY", default_value_t = 32, value_parser = at_least_one)]
    pub run_concurrency: usize,

    /// Experiments worked on at once.
    #[arg(long, env = "TRAINYARD_EXPERIMENT_CONCURRENCY", default_value_t = 2, value_parser = at_least_one)]
    pub experiment_concurrency: usize,

    /// Requests to the API server in flight at once, watches not counted.
    #[arg(long, env = "TRAINYARD_API_CONCURRENCY", default_value_t = Limits::default().concurrency,
          value_parser = at_least_one)]
    pub api_concurrency: usize,

    /// Time limit of a request to the API server, in seconds; watches are spared.
    #[arg(long, env = "TRAINYARD_API_TIMEOUT_SECONDS", default_value_t = Limits::default().request_time.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub api_timeout_seconds: u64,
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("must not be empty".into()) } else { Ok(text.to_owned()) }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if (1..=1000).contains(&number) => Ok(number),
        _ => Err("must be a number from 1 to 1000".into()),
    }
}

impl Settings {
    /// How many keys a controller works on at once.
    pub fn concurrency(&self, controller: ControllerName) -> usize {
        match controller {
            ControllerName::Cluster => self.cluster_concurrency,
            ControllerName::Node => self.node_concurrency,
            ControllerName::Run => self.run_concurrency,
            ControllerName::Experiment => self.experiment_concurrency,
            // Looked at when an administrator changes one; there is nothing to tune.
            ControllerName::VmSize => 4,
        }
    }

    /// The bounds on requests.
    pub fn limits(&self) -> Limits {
        Limits {
            request_time: Duration::from_secs(self.api_timeout_seconds),
            concurrency: self.api_concurrency,
        }
    }

    /// This process's identity.
    pub fn identity(&self) -> String {
        self.identity.clone().unwrap_or_else(|| {
            // Inside a pod the host name is the pod's name. A host without one is told apart by the process number.
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}-{}", host.trim(), std::process::id())
        })
    }

    /// Where and as whom to stand for election; `own_namespace` is where this process runs.
    pub fn candidacy(&self, own_namespace: &str) -> Candidacy {
        Candidacy {
            namespace: self.lease_namespace.clone().unwrap_or_else(|| own_namespace.to_owned()),
            name: self.lease_name.clone(),
            identity: self.identity(),
            timing: Timing::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Command, String> {
        let arguments = [&["trainyard"], arguments].concat();
        Arguments::try_parse_from(arguments).map(Arguments::into_command).map_err(|error| error.to_string())
    }

    fn settings(arguments: &[&str]) -> Settings {
        match parse(arguments).unwrap() {
            Command::Run(settings) => settings,
            Command::Crds => panic!("not the operator"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn running_is_the_default_with_and_without_its_name() {
        assert_eq!(settings(&[]), settings(&["run"]));
        assert_eq!(settings(&["--lease-name", "x"]), settings(&["run", "--lease-name", "x"]));
        assert!(matches!(parse(&["crds"]), Ok(Command::Crds)));
    }

    #[test]
    fn defaults_are_those_of_the_parts() {
        let settings = settings(&[]);
        assert_eq!(settings.limits().concurrency, Limits::default().concurrency);
        assert_eq!(settings.limits().request_time, Limits::default().request_time);
        assert!(settings.leader_election);
        assert_eq!(settings.concurrency(ControllerName::Run), 32);
    }

    #[test]
    fn the_lease_is_where_the_process_runs_unless_told() {
        let candidacy = settings(&["--identity", "me"]).candidacy("here");
        assert_eq!((candidacy.namespace.as_str(), candidacy.identity.as_str()), ("here", "me"));
        let candidacy = settings(&["--lease-namespace", "there"]).candidacy("here");
        assert_eq!(candidacy.namespace, "there");
        assert!(candidacy.identity.ends_with(&format!("-{}", std::process::id())));
    }

    #[test]
    fn nonsense_is_refused_with_what_is_expected() {
        for (arguments, expected) in [
            (["--run-concurrency", "0"], "1 to 1000"),
            (["--api-timeout-seconds", "0"], "1..=60"),
            (["--lease-name", ""], "must not be empty"),
            (["--log-format", "xml"], "text, json"),
            (["--listen", "8080"], "invalid socket address"),
            (["--leader-election", "maybe"], "true, false"),
        ] {
            let error = parse(&arguments).unwrap_err();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
