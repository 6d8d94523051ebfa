//! trainyard on a control plane, as its users install it: both charts, and the operator under the `ServiceAccount` of the
//! chart and nothing more. The operator is a process of this machine, not a pod, so that it can be killed and stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::ResourceExt as _;

use crate::controlplane::{ControlPlane, Process, ProcessSpec, binary, eventually};

/// Namespace of the operator.
pub const NAMESPACE: &str = "trainyard-system";
/// Release name of the chart, and so the name of the operator's `ServiceAccount`.
pub const RELEASE: &str = "trainyard";

/// The operator's user to the API server and in its audit log.
pub const OPERATOR: &str = "system:serviceaccount:trainyard-system:trainyard";

/// The folder of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Runs `kubectl` against the control plane and returns what it prints.
pub fn kubectl(plane: &ControlPlane, args: &[&str]) -> Result<String> {
    run(kubectl_command(plane)?.args(args))
}

/// Runs `kubectl` with `input` as its standard input.
pub fn kubectl_with_input(plane: &ControlPlane, args: &[&str], input: &str) -> Result<String> {
    run_with_input(kubectl_command(plane)?.args(args), input)
}

fn kubectl_command(plane: &ControlPlane) -> Result<Command> {
    let mut command = Command::new(binary("kubectl")?);
    command.env(CACHE_OF_KUBECTL, kubectl_cache(plane)).arg("--kubeconfig").arg(plane.kubeconfig_path());
    Ok(command)
}

/// The variable that tells kubectl where to remember what an API server serves, instead of in the user's home.
pub const CACHE_OF_KUBECTL: &str = "KUBECACHEDIR";

/// Where kubectl remembers that; it goes with the control plane.
pub fn kubectl_cache(plane: &ControlPlane) -> PathBuf {
    plane.folder().join("kubectl-cache")
}

/// Installs CRDs, roles, sizes and the class of the local control plane. The chart's Deployment gets no replica.
pub async fn install(plane: &ControlPlane) -> Result<()> {
    install_crds(plane)?;
    kubectl_with_input(
        plane,
        &["apply", "-f", "-"],
        &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"),
    )?;
    let chart = render("trainyard", &["--set", "replicas=0"])?;
    kubectl_with_input(plane, &["apply", "--server-side", "-f", "-"], &chart)?;
    let class = checkout().join("deploy/local/provisioning-class.yaml");
    kubectl(plane, &["apply", "-f", &class.display().to_string()])?;
    Ok(())
}

/// Installs the CRDs and waits until they are served.
pub fn install_crds(plane: &ControlPlane) -> Result<()> {
    let crds = render("trainyard-crds", &[])?;
    kubectl_with_input(plane, &["apply", "--server-side", "-f", "-"], &crds)?;
    let mut established: Vec<String> =
        ["wait", "--for=condition=Established", "--timeout=30s"].map(ToOwned::to_owned).to_vec();
    established.extend(trainyard_api::all_crds().iter().map(|crd| format!("crd/{}", crd.name_any())));
    kubectl(plane, &established.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(())
}

/// What Helm makes of a chart with these settings, as [`install`] installs it: a stream of YAML documents.
pub fn render(chart: &str, settings: &[&str]) -> Result<String> {
    let folder = checkout().join("charts").join(chart);
    let mut command = Command::new(binary("helm")?);
    command.args(["template", RELEASE]).arg(folder).args(["--namespace", NAMESPACE]).args(settings);
    run(&mut command)
}

/// A running operator. Dropping it kills it.
pub struct Operator {
    process: Arc<Process>,
    port: u16,
}

impl Operator {
    /// Starts one and waits until it is ready to lead or to stand by. `index` tells several apart (0 to 3).
    pub async fn start(plane: &ControlPlane, index: u16) -> Result<Self> {
        Self::start_with(plane, index, &[]).await
    }

    /// As [`Self::start`], with further arguments.
    pub async fn start_with(plane: &ControlPlane, index: u16, args: &[&str]) -> Result<Self> {
        let kubeconfig = plane.service_account_kubeconfig(NAMESPACE, RELEASE).await?;
        let port = plane.spare_port(index)?;
        let mut arguments: Vec<String> = [
            "run",
            "--lease-namespace",
            NAMESPACE,
            "--identity",
            &format!("operator-{index}"),
            "--listen",
            &format!("127.0.0.1:{port}"),
        ]
        .map(ToOwned::to_owned)
        .to_vec();
        if !args.contains(&"--log-level") {
            arguments.extend(["--log-level", "info,trainyard=debug"].map(ToOwned::to_owned));
        }
        arguments.extend(args.iter().map(|arg| (*arg).to_owned()));
        let spec = ProcessSpec {
            name: format!("operator-{index}"),
            program: operator_binary()?,
            args: arguments,
            env: BTreeMap::from([("KUBECONFIG".to_owned(), kubeconfig.display().to_string())]),
            log: plane.folder().join(format!("operator-{index}.log")),
        };
        let operator = Self { process: Arc::new(Process::start(spec)?), port };
        operator.wait_until_ready().await?;
        Ok(operator)
    }

    /// Its process: to kill it, to stop it, to measure it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it answers on `path` of its health and metrics port.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(self.port, path).await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        eventually("the operator to be ready", Duration::from_secs(20), || async {
            if let Some(status) = self.process.ended() {
                bail!("it ended with {status}:\n{}", self.process.log_tail());
            }
            let (status, body) = self.get("/readyz").await?;
            if status == 200 { Ok(()) } else { bail!("/readyz answers {status}: {body}") }
        })
        .await
        .with_context(|| format!("the operator's log ends with:\n{}", self.process.log_tail()))
    }
}

/// The operator that `cargo build` made beside this program.
pub fn operator_binary() -> Result<PathBuf> {
    built("trainyard")
}

/// The kubectl plugin that `cargo build` made beside this program.
pub fn plugin_binary() -> Result<PathBuf> {
    built("kubectl-trainyard")
}

fn built(program: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let found =
        here.ancestors().skip(1).take(2).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.with_context(|| {
        format!("there is no `{program}` near {}: run `cargo build -p {program}`", here.display())
    })
}

async fn http_get(port: u16, path: &str) -> Result<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let talk = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
        let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
        Ok((status, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), talk).await.context("no answer within 5 s")?
}

/// Runs a program to its end and returns its output; an error has both.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    outcome(command, &output)
}

fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    child.stdin.take().context("a child without standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    outcome(command, &output)
}

fn outcome(command: &Command, output: &std::process::Output) -> Result<String> {
    let out = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(out.into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{} {:?} ended with {}:\n{out}{error}",
        command.get_program().display(),
        command.get_args(),
        output.status
    )
}
