//! The operator as a process: what it prints, what it listens on, how it ends.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Output, Stdio},
};

/// A kubeconfig whose API server is nowhere; the operator must come up and wait for it.
struct Kubeconfig(std::path::PathBuf);

impl Kubeconfig {
    fn new(name: &str) -> Self {
        let path =
            std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let text = r"
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: 'http://127.0.0.1:9'}}]
users: [{name: nobody, user: {}}]
contexts: [{name: none, context: {cluster: none, user: nobody, namespace: lab}}]
current-context: none
";
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn trainyard() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard"));
    command.env_clear();
    command
}

fn finished(mut command: Command) -> (Output, String) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    (output, stderr)
}

/// An operator that runs, and the address it says it serves on. Killed when dropped.
struct Operator {
    child: Child,
    address: String,
}

impl Operator {
    fn start(kubeconfig: &Kubeconfig, arguments: &[&str]) -> Self {
        let mut child = trainyard()
            .args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(arguments)
            .env("KUBECONFIG", &kubeconfig.0)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                line["address"].as_str().map(ToOwned::to_owned)
            })
            .expect("the operator says where it listens");
        // Keeps reading, so that the operator never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Code and body of an answer.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn terminate(&mut self) -> Option<i32> {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_candidate_is_alive_but_not_ready_and_ends_with_success_when_terminated() {
    let kubeconfig = Kubeconfig::new("candidate");
    let mut operator = Operator::start(&kubeconfig, &[]);
    assert_eq!(operator.get("/livez"), (200, "ok\n".into()));
    let (code, body) = operator.get("/readyz");
    assert_eq!((code, body.as_str()), (503, "waiting for lease lab/trainyard\n"));
    let (code, metrics) = operator.get("/metrics");
    assert!(code == 200 && metrics.contains("trainyard_build_info"), "{metrics}");
    assert_eq!(operator.terminate(), Some(0));
}

#[test]
fn a_wrong_setting_is_explained_and_ends_with_failure() {
    let mut command = trainyard();
    command.args(["run", "--log-level", "trainyard=loud"]);
    let (output, stderr) = finished(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("cannot read the log filter"), "{stderr}");

    let mut command = trainyard();
    command.env("KUBECONFIG", "/nonexistent/config").args(["run", "--listen", "127.0.0.1:0"]);
    let (output, stderr) = finished(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("set KUBECONFIG or run inside a cluster"), "{stderr}");
}

#[test]
fn the_definitions_are_printed_for_every_kind() {
    let mut command = trainyard();
    command.arg("crds");
    let (output, _) = finished(command);
    assert!(output.status.success());
    let yaml = String::from_utf8(output.stdout).unwrap();
    for kind in ["Cluster", "ClusterNode", "Experiment", "Run", "ProvisioningClass", "VmSize"] {
        assert!(yaml.contains(&format!("kind: {kind}\n")), "no {kind}");
    }
}
