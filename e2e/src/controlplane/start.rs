//! Bringing a control plane up, step by step, with a time for each.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, ListParams};
use tokio::time::{Instant, sleep};

use super::certificates::{Authority, Pair, token_keys};
use super::component::{Component, SERVICE_IP, kubeconfig as kubeconfig_of};
use super::kubeconfig::{self, write_private};
use super::ports::Ports;
use super::process::Process;
use super::run_folder::RunFolder;
use super::{Backing, ControlPlane, Options, Ours, Timings, build, client_of, karpenter};

/// Longer than any step takes on a loaded machine with two cores (2 s each on an idle one), shorter than a person
/// waits for a test that hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// Starts nothing: the control plane of a context of the user's kubeconfig.
pub(super) async fn external(options: &Options, context: &str) -> Result<ControlPlane> {
    let start = Instant::now();
    let mut folder = RunFolder::take(options.name.as_deref())?;
    let kubeconfig = kubeconfig::write_from_context(folder.path(), context)?;
    Api::<Node>::all(client_of(&kubeconfig).await?)
        .list(&ListParams::default().limit(1))
        .await
        .with_context(|| format!("the cluster of context {context:?} does not answer"))?;
    folder.set_ready()?;
    let timings = Timings { steps: vec![("connected", start.elapsed())] };
    Ok(ControlPlane { backing: Backing::External { _folder: folder }, kubeconfig, timings })
}

/// Starts processes of our own. A port that was free when it was chosen may be taken a moment later by a control plane
/// of another checkout; other ports are tried then.
pub(super) async fn ours(options: Options) -> Result<ControlPlane> {
    for _ in 0..2 {
        match attempt(options.clone()).await {
            Err(error) if format!("{error:#}").contains("address already in use") => {}
            result => return result,
        }
    }
    attempt(options).await
}

async fn attempt(options: Options) -> Result<ControlPlane> {
    let mut clock = Stopwatch { last: Instant::now(), timings: Timings::default() };
    for component in [Component::Etcd, Component::ApiServer] {
        if !options.components.contains(&component) {
            bail!("a control plane without {component} is none");
        }
    }
    build::check_current()?;
    let folder = RunFolder::take(options.name.as_deref())?;
    let ports = Ports { first: folder.owner().first_port };
    write_credentials(folder.path(), ports)?;
    karpenter::write_instance_types(folder.path())?;
    karpenter::write_refusals(folder.path(), &karpenter::Refusals::default())?;
    clock.step("certificates");

    let mut ours = Box::new(Ours { options, ports, processes: Mutex::new(BTreeMap::new()), folder });
    let kubeconfig = kubeconfig_of(ours.folder.path(), "admin");
    ours.start(Component::Etcd)?;
    ours.start(Component::ApiServer)?;
    ours.wait_until_ready(Component::ApiServer, &kubeconfig).await?;
    clock.step("API server");

    for component in [Component::ControllerManager, Component::Scheduler, Component::Kwok] {
        if ours.options.components.contains(&component) {
            ours.start(component)?;
        }
    }
    if ours.options.components.contains(&Component::Karpenter) {
        karpenter::install(&client_of(&kubeconfig).await?).await?;
        ours.start(Component::Karpenter)?;
        clock.step("CRDs");
    }
    for component in Component::ALL.into_iter().filter(|c| ours.options.components.contains(c)) {
        ours.wait_until_ready(component, &kubeconfig).await?;
    }
    clock.step("controllers");
    ours.folder.set_ready()?;
    Ok(ControlPlane { backing: Backing::Ours(ours), kubeconfig, timings: clock.timings })
}

struct Stopwatch {
    last: Instant,
    timings: Timings,
}

impl Stopwatch {
    fn step(&mut self, name: &'static str) {
        self.timings.steps.push((name, self.last.elapsed()));
        self.last = Instant::now();
    }
}

/// Makes and writes all keys, certificates and kubeconfigs.
fn write_credentials(folder: &Path, ports: Ports) -> Result<()> {
    let pki = folder.join("pki");
    let authority = Authority::new()?;
    write_private(&pki.join("ca.crt"), &authority.certificate)?;
    let server = authority.server(SERVICE_IP)?;
    write_private(&pki.join("apiserver.crt"), &server.certificate)?;
    write_private(&pki.join("apiserver.key"), &server.key)?;
    let (private, public) = token_keys()?;
    write_private(&pki.join("service-account.key"), &private)?;
    write_private(&pki.join("service-account.pub"), &public)?;

    let url = format!("https://127.0.0.1:{}", ports.apiserver());
    let write = |name: &str, pair: &Pair| {
        kubeconfig::write(&kubeconfig_of(folder, name), &url, &authority.certificate, pair)
    };
    write("admin", &authority.client("admin", Some("system:masters"))?)?;
    for component in Component::ALL {
        if let Some((user, group)) = component.identity() {
            write(component.program(), &authority.client(user, group)?)?;
        }
    }
    Ok(())
}

impl Ours {
    /// Starts the component, in place of the process it had.
    pub(super) fn start(&self, component: Component) -> Result<()> {
        let extra = self.options.extra.get(&component).cloned().unwrap_or_default();
        let spec = component.spec(self.folder.path(), self.ports, &extra)?;
        self.processes().insert(component, Arc::new(Process::start(spec)?));
        Ok(())
    }

    /// Waits until the component does its work. Fails at once when its process, or one it needs, ends.
    pub(super) async fn wait_until_ready(&self, component: Component, kubeconfig: &Path) -> Result<()> {
        let start = Instant::now();
        let needed: Vec<(Component, Arc<Process>)> = self
            .processes()
            .iter()
            .filter(|(other, _)| **other == component || component.needs().contains(other))
            .map(|(other, process)| (*other, process.clone()))
            .collect();
        let failed = |culprit: Component, why: &anyhow::Error| {
            let log =
                needed.iter().find(|(other, _)| *other == culprit).map(|(_, process)| process.log_tail());
            anyhow!(
                "{component} is not ready after {:.1?}: {why:#}\nlog of {culprit}:\n{}",
                start.elapsed(),
                log.unwrap_or_default()
            )
        };
        let client = client_of(kubeconfig).await?;
        loop {
            for (other, process) in &needed {
                if let Some(status) = process.ended() {
                    return Err(failed(*other, &anyhow!("{other} has ended ({status})")));
                }
            }
            match self.probe(component, &client).await {
                Ok(()) => return Ok(()),
                Err(why) if start.elapsed() > LIMIT => return Err(failed(component, &why)),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn probe(&self, component: Component, client: &kube::Client) -> Result<()> {
        match component {
            Component::Etcd => http_ok(self.ports.etcd(), "/health"),
            // It speaks TLS with a certificate of its own making; that it listens says enough.
            Component::Scheduler => connect(self.ports.scheduler()).map(|_| ()),
            Component::ApiServer => {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                let answer = client.request_text(request).await?;
                if answer == "ok" { Ok(()) } else { bail!("/readyz says {answer}") }
            }
            Component::ControllerManager => {
                let api = Api::<ServiceAccount>::namespaced(client.clone(), "default");
                api.get("default").await.map(|_| ()).context("its first work, the ServiceAccount `default`")
            }
            Component::Kwok => http_ok(self.ports.kwok(), "/readyz"),
            Component::Karpenter => http_ok(self.ports.karpenter_health(), "/readyz"),
        }
    }
}

/// Asks a plain HTTP server of this machine, which answers at once or not at all.
fn http_ok(port: u16, path: &str) -> Result<()> {
    let mut stream = connect(port)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    if status.contains(" 200 ") { Ok(()) } else { bail!("{path} answers {status:?}") }
}

fn connect(port: u16) -> Result<TcpStream> {
    let limit = Duration::from_secs(1);
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit)?;
    stream.set_read_timeout(Some(limit))?;
    Ok(stream)
}
