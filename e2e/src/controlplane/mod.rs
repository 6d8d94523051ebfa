//! A real Kubernetes control plane on this machine, for tests and for the demonstration.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use trainyard_e2e::controlplane::{Component, ControlPlane, Options};
//!
//! let plane = ControlPlane::start(Options::default()).await?;
//! let client = plane.client().await?;
//! plane.kill(Component::Karpenter)?;
//! plane.restart(Component::Karpenter).await?;
//! # Ok(()) }
//! ```
//!
//! In: [`Options`], and the programs that `controlplane build` makes. Out: an API server on a port of 127.0.0.1 with
//! controller-manager, scheduler, kwok and Karpenter, each a process of its own that can be killed, stopped and
//! started again. Several run side by side. All state is in `<checkout>/.local/run/<name>/`.
//!
//! Guarantees: everything ends with the [`ControlPlane`] value, and with the process that holds it, however that
//! ends; the folder goes, too. Every wait is bounded, and its error shows the component's log.
//!
//! With `TRAINYARD_E2E_CONTEXT=<context>` nothing is started and that context of the user's kubeconfig is used; what
//! needs the processes (kill, pause, audit log, refusals) is an error then. `KUBEBUILDER_ASSETS` is searched before
//! the programs built here.

pub mod annotations;
mod audit;
mod binaries;
mod build;
mod certificates;
mod component;
mod karpenter;
mod kubeconfig;
mod machines;
mod ports;
mod process;
mod run_folder;
mod start;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};

pub use audit::{AuditEvent, AuditLog, Mark, WriteCounts};
pub use binaries::{bin_folder, binary};
pub use build::build;
pub use component::Component;
pub use karpenter::{LaunchError, NODE_CLASS, Refusal, Refusals, ZONES};
pub use machines::{add_machine, bring_back_node, lose_node, remove_node, what_is_set};
pub use process::{Process, ProcessSpec};
pub use run_folder::{Owner, end_control_plane, folder_of, live_control_planes};
pub use wait::eventually;

use ports::Ports;
use run_folder::RunFolder;

/// What to start. The default is everything.
#[derive(Clone, Debug)]
pub struct Options {
    name: Option<String>,
    components: BTreeSet<Component>,
    extra: BTreeMap<Component, Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: None, components: Component::ALL.into(), extra: BTreeMap::new() }
    }
}

impl Options {
    /// A name to find it by (`controlplane list`); without one it gets a name nobody else has.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Leaves a component out: half a second and its memory saved. etcd and the API server cannot be left out.
    #[must_use]
    pub fn without(mut self, component: Component) -> Self {
        self.components.remove(&component);
        self
    }

    /// Adds a command line argument, such as `--node-monitor-grace-period=10s` for the controller-manager. It comes
    /// after the ones given anyway and overrides them.
    #[must_use]
    pub fn arg(mut self, component: Component, argument: impl Into<String>) -> Self {
        self.extra.entry(component).or_default().push(argument.into());
        self
    }
}

/// A control plane that is up. Dropping it ends it.
pub struct ControlPlane {
    backing: Backing,
    kubeconfig: PathBuf,
    timings: Timings,
}

/// Whose control plane it is. The processes come before the folder they write to: they are dropped first.
enum Backing {
    Ours(Box<Ours>),
    External { _folder: RunFolder },
}

struct Ours {
    options: Options,
    ports: Ports,
    processes: Mutex<BTreeMap<Component, Arc<Process>>>,
    folder: RunFolder,
}

/// How long each step of the start took.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    steps: Vec<(&'static str, Duration)>,
}

impl Timings {
    /// From nothing to everything ready.
    pub fn total(&self) -> Duration {
        self.steps.iter().map(|(_, time)| *time).sum()
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:.2} s", self.total().as_secs_f64())?;
        for (step, time) in &self.steps {
            write!(f, ", {step} {:.2}", time.as_secs_f64())?;
        }
        Ok(())
    }
}

impl ControlPlane {
    /// Starts a control plane and returns when it answers, the account `default` exists, and kwok and
    /// Karpenter, where wanted, have read what there is.
    pub async fn start(options: Options) -> Result<Self> {
        match std::env::var_os("TRAINYARD_E2E_CONTEXT") {
            Some(context) => start::external(&options, &context.to_string_lossy()).await,
            None => start::ours(options).await,
        }
    }

    /// The control plane with default options that all tests of a test program share; started by the first to ask.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: tokio::sync::OnceCell<ControlPlane> = tokio::sync::OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async {
                let plane = Self::start(Options::default()).await?;
                eprintln!("control plane: {}", plane.timings());
                Ok(plane)
            })
            .await
    }

    /// How long the start took.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new client of the administrator. Its connections belong to the current runtime: every test needs its own.
    pub async fn client(&self) -> Result<kube::Client> {
        client_of(&self.kubeconfig).await
    }

    /// A client of the administrator who acts as somebody else, with the rights of that user and no others.
    pub async fn client_as(&self, user: &str) -> Result<kube::Client> {
        let mut config = config_of(&self.kubeconfig).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        kube::Client::try_from(config).context("making a client")
    }

    /// Writes a kubeconfig for a `ServiceAccount` that exists, with a token for a day.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = Api::<ServiceAccount>::namespaced(self.client().await?, namespace)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("asking for a token of ServiceAccount {namespace}/{name}"))?;
        let token = answer.status.context("the answer to a token request has no status")?.token;
        let folder = self.kubeconfig.parent().context("a kubeconfig is in a folder")?;
        let path = folder.join(format!("sa-{namespace}-{name}.kubeconfig"));
        kubeconfig::write_with_token(&self.kubeconfig, &path, &token)?;
        Ok(path)
    }

    /// A new client that has the rights of a `ServiceAccount` and no others.
    pub async fn service_account_client(&self, namespace: &str, name: &str) -> Result<kube::Client> {
        client_of(&self.service_account_kubeconfig(namespace, name).await?).await
    }

    /// Its folder: a place for files of a test that shall go with it, such as the operator's log.
    pub fn folder(&self) -> &Path {
        match &self.backing {
            Backing::Ours(ours) => ours.folder.path(),
            Backing::External { _folder: folder } => folder.path(),
        }
    }

    /// One of eight ports kept free for what is started beside the control plane (0 to 7).
    pub fn spare_port(&self, index: u16) -> Result<u16> {
        self.ours()?
            .ports
            .spare(index)
            .with_context(|| format!("spare port {index}: there are eight, from 0"))
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&self, component: Component) -> Result<()> {
        self.process(component)?.kill()
    }

    /// SIGSTOP.
    pub fn pause(&self, component: Component) -> Result<()> {
        self.process(component)?.pause()
    }

    /// SIGCONT.
    pub fn resume(&self, component: Component) -> Result<()> {
        self.process(component)?.resume()
    }

    /// Kills the component if it runs and starts it again on the same port and data; returns when it answers.
    pub async fn restart(&self, component: Component) -> Result<()> {
        let ours = self.ours()?;
        self.process(component)?.kill()?;
        if component == Component::Kwok {
            machines::release_nodes(&self.client().await?).await?;
        }
        ours.start(component)?;
        ours.wait_until_ready(component, &self.kubeconfig).await
    }

    /// Resident memory, in bytes.
    pub fn rss(&self, component: Component) -> Result<u64> {
        self.process(component)?.rss()
    }

    /// The processor time it has used, in seconds.
    pub fn cpu_seconds(&self, component: Component) -> Result<f64> {
        self.process(component)?.cpu_seconds()
    }

    /// The programs that it consists of.
    pub fn components(&self) -> Result<Vec<Component>> {
        Ok(self.ours()?.processes().keys().copied().collect())
    }

    /// Its process, for everything else.
    pub fn process(&self, component: Component) -> Result<Arc<Process>> {
        let ours = self.ours()?;
        ours.processes().get(&component).cloned().with_context(|| format!("{component} was not asked for"))
    }

    /// The audit log of the API server.
    pub fn audit_log(&self) -> Result<AuditLog> {
        Ok(AuditLog::new(self.audit_log_path()?))
    }

    /// Its file.
    pub fn audit_log_path(&self) -> Result<PathBuf> {
        Ok(self.ours()?.folder.path().join("audit.log"))
    }

    /// A mark behind every request that was answered before this call: a request of its own is sent, and awaited in
    /// the log.
    pub async fn audit_mark(&self) -> Result<Mark> {
        let log = self.audit_log()?;
        let before = log.mark()?;
        let token = format!("trainyard-mark-{}-{}", std::process::id(), next_number());
        let request = http::Request::get(format!("/version?{token}")).body(Vec::new())?;
        self.client().await?.request_text(request).await.context("marking the audit log")?;
        eventually("the mark in the audit log", Duration::from_secs(10), || async {
            let found = log.text_since(before)?.contains(&token);
            if found { Ok(()) } else { bail!("not there yet") }
        })
        .await?;
        log.mark()
    }

    /// Has launches of Karpenter refused or delayed, from the next one on; replaces what was set before.
    pub fn set_refusals(&self, refusals: &Refusals) -> Result<()> {
        karpenter::write_refusals(self.ours()?.folder.path(), refusals)
    }

    /// How many claims the rule of that id has refused.
    pub fn refused(&self, id: &str) -> Result<u32> {
        karpenter::refused(self.ours()?.folder.path(), id)
    }

    fn ours(&self) -> Result<&Ours> {
        match &self.backing {
            Backing::Ours(ours) => Ok(ours),
            Backing::External { .. } => {
                bail!("not possible with TRAINYARD_E2E_CONTEXT: its processes are not ours")
            }
        }
    }
}

impl Ours {
    fn processes(&self) -> MutexGuard<'_, BTreeMap<Component, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // Somebody may still hold one of them.
        for process in self.processes().values() {
            let _ = process.kill();
        }
    }
}

async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    kube::Client::try_from(config_of(kubeconfig).await?).context("making a client")
}

async fn config_of(kubeconfig: &Path) -> Result<kube::Config> {
    let read = || format!("reading {}", kubeconfig.display());
    let text = Kubeconfig::read_from(kubeconfig).with_context(read)?;
    kube::Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await.with_context(read)
}

fn next_number() -> u64 {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
