//! The processes of a control plane and their command lines. Pure: paths and ports in, [`ProcessSpec`] out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Result;

use super::binaries::{asset, binary, source};
use super::ports::Ports;
use super::process::ProcessSpec;

/// The services' addresses; nothing answers there, since nothing forwards them.
const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The first of them is the API server's, and is in its certificate.
pub(super) const SERVICE_IP: &str = "10.96.0.1";

/// A process of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The store. Without fsync: its data ends with the control plane.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kwok, which plays the kubelet of every node labelled `kwok.x-k8s.io/node=fake`.
    Kwok,
    /// The Karpenter core with its kwok provider.
    Karpenter,
}

impl Component {
    /// In the order they are started.
    pub const ALL: [Self; 6] =
        [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Scheduler, Self::Kwok, Self::Karpenter];

    /// The program's name, and its log's.
    pub fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kwok => "kwok",
            Self::Karpenter => "karpenter",
        }
    }

    /// What must run for it to become ready.
    pub(super) fn needs(self) -> &'static [Self] {
        match self {
            Self::Etcd => &[],
            Self::ApiServer => &[Self::Etcd],
            Self::ControllerManager | Self::Scheduler | Self::Kwok | Self::Karpenter => {
                &[Self::Etcd, Self::ApiServer]
            }
        }
    }

    /// Who it is to the API server, as (user, group); also the user name in the audit log. None for those that are
    /// no clients.
    pub fn identity(self) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Self::Etcd | Self::ApiServer => None,
            Self::ControllerManager => Some(("system:kube-controller-manager", None)),
            Self::Scheduler => Some(("system:kube-scheduler", None)),
            Self::Kwok => Some(("kwok", Some("system:masters"))),
            Self::Karpenter => Some(("karpenter", Some("system:masters"))),
        }
    }

    /// How it is started in `folder`, with `extra` arguments at the end, where they override.
    pub(super) fn spec(self, folder: &Path, ports: Ports, extra: &[String]) -> Result<ProcessSpec> {
        let mut args = match self {
            Self::Etcd => etcd(folder, ports),
            Self::ApiServer => apiserver(folder, ports),
            Self::ControllerManager => controller_manager(folder, ports),
            Self::Scheduler => scheduler(folder, ports),
            Self::Kwok => kwok(folder, ports)?,
            Self::Karpenter => Vec::new(),
        };
        args.extend_from_slice(extra);
        let env = if self == Self::Karpenter { karpenter(folder, ports) } else { BTreeMap::new() };
        Ok(ProcessSpec {
            name: self.program().to_owned(),
            program: binary(self.program())?,
            args,
            env,
            log: folder.join("log").join(format!("{}.log", self.program())),
        })
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// `--name=value` for each pair.
fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// The kubeconfig of one of the components, or of the administrator.
pub(super) fn kubeconfig(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(format!("{name}.kubeconfig"))
}

fn etcd(folder: &Path, ports: Ports) -> Vec<String> {
    let (client, peer) = (local(ports.etcd()), local(ports.etcd_peer()));
    let mut args = flags([
        ("data-dir", text(&folder.join("etcd"))),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("default={peer}")),
        ("log-level", "warn".to_owned()),
        ("auto-compaction-retention", "1".to_owned()),
        ("quota-backend-bytes", (4_u64 << 30).to_string()),
    ]);
    args.push("--unsafe-no-fsync".to_owned());
    args
}

fn apiserver(folder: &Path, ports: Ports) -> Vec<String> {
    let pki = |name: &str| text(&folder.join("pki").join(name));
    flags([
        ("etcd-servers", local(ports.etcd())),
        ("bind-address", "127.0.0.1".to_owned()),
        // Without it the server looks for a default route and gives up when there is none.
        ("advertise-address", "127.0.0.1".to_owned()),
        // The address of loopback is not allowed in the endpoints of a Service, and nobody uses them here.
        ("endpoint-reconciler-type", "none".to_owned()),
        ("secure-port", ports.apiserver().to_string()),
        ("service-cluster-ip-range", SERVICE_RANGE.to_owned()),
        ("authorization-mode", "RBAC".to_owned()),
        ("authentication-config", text(&source("authentication.yaml"))),
        ("client-ca-file", pki("ca.crt")),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-key-file", pki("service-account.pub")),
        ("service-account-signing-key-file", pki("service-account.key")),
        ("allow-privileged", "true".to_owned()),
        ("audit-policy-file", text(&source("audit-policy.yaml"))),
        ("audit-log-path", text(&folder.join("audit.log"))),
        // In megabytes: never a second file, marks are positions in the first.
        ("audit-log-maxsize", "100000".to_owned()),
        ("profiling", "false".to_owned()),
    ])
}

/// Raised everywhere: what is measured are the API server and the operator, not the patience of other clients.
fn client_limits() -> [(&'static str, String); 2] {
    [("kube-api-qps", "2000".to_owned()), ("kube-api-burst", "4000".to_owned())]
}

fn controller_manager(folder: &Path, ports: Ports) -> Vec<String> {
    let config = text(&kubeconfig(folder, Component::ControllerManager.program()));
    let mut args = flags([
        ("kubeconfig", config.clone()),
        ("authentication-kubeconfig", config.clone()),
        ("authorization-kubeconfig", config),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", ports.controller_manager().to_string()),
        ("leader-elect", "false".to_owned()),
        // They serve nobody but this machine, and would complain every ten seconds that there is no front proxy.
        ("authentication-skip-lookup", "true".to_owned()),
        ("root-ca-file", text(&folder.join("pki/ca.crt"))),
        ("service-account-private-key-file", text(&folder.join("pki/service-account.key"))),
        // Every controller under its own name: the audit log then tells who wrote.
        ("use-service-account-credentials", "true".to_owned()),
        ("profiling", "false".to_owned()),
    ]);
    args.extend(flags(client_limits()));
    args
}

fn scheduler(folder: &Path, ports: Ports) -> Vec<String> {
    let config = text(&kubeconfig(folder, Component::Scheduler.program()));
    let mut args = flags([
        ("kubeconfig", config.clone()),
        ("authentication-kubeconfig", config.clone()),
        ("authorization-kubeconfig", config),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", ports.scheduler().to_string()),
        ("leader-elect", "false".to_owned()),
        ("authentication-skip-lookup", "true".to_owned()),
        ("profiling", "false".to_owned()),
    ]);
    args.extend(flags(client_limits()));
    args
}

fn kwok(folder: &Path, ports: Ports) -> Result<Vec<String>> {
    let mut args = flags([
        ("kubeconfig", text(&kubeconfig(folder, Component::Kwok.program()))),
        ("manage-nodes-with-label-selector", "kwok.x-k8s.io/node=fake".to_owned()),
        ("node-lease-duration-seconds", "40".to_owned()),
        ("node-ip", "127.0.0.1".to_owned()),
        ("cidr", "10.99.0.0/16".to_owned()),
        ("server-address", format!("127.0.0.1:{}", ports.kwok())),
    ]);
    for config in [source("kwok-options.yaml"), asset("kwok-node-stages.yaml")?, source("kwok-stages.yaml")] {
        args.push(format!("--config={}", text(&config)));
    }
    Ok(args)
}

fn karpenter(folder: &Path, ports: Ports) -> BTreeMap<String, String> {
    [
        ("KUBECONFIG", text(&kubeconfig(folder, Component::Karpenter.program()))),
        ("METRICS_PORT", ports.karpenter_metrics().to_string()),
        ("HEALTH_PROBE_PORT", ports.karpenter_health().to_string()),
        ("KUBE_CLIENT_QPS", "2000".to_owned()),
        ("KUBE_CLIENT_BURST", "4000".to_owned()),
        ("SYSTEM_NAMESPACE", "kube-system".to_owned()),
        ("INSTANCE_TYPES_FILE_PATH", text(&folder.join(super::karpenter::INSTANCE_TYPES))),
        ("TRAINYARD_REFUSALS_FILE", text(&folder.join(super::karpenter::REFUSALS))),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
