//! What the local control plane promises about its processes, tried on them.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use trainyard_e2e::controlplane::{
    AuditEvent, Component, ControlPlane, Options, Process, ProcessSpec, binary, eventually, folder_of,
    live_control_planes,
};
use trainyard_e2e::installation::{kubectl, kubectl_cache};

const LIMIT: Duration = Duration::from_mins(1);

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn two_control_planes_run_side_by_side_and_one_ends_without_the_other() -> Result<()> {
    let options = || Options::default().without(Component::Karpenter);
    let (a, b) = tokio::try_join!(ControlPlane::start(options()), ControlPlane::start(options()))?;
    eprintln!("side by side: {} | {}", a.timings(), b.timings());

    let namespace: Namespace = object(json!({"metadata": {"name": "only-in-a"}}));
    Api::<Namespace>::all(a.client().await?).create(&PostParams::default(), &namespace).await?;
    let in_b = Api::<Namespace>::all(b.client().await?);
    assert!(in_b.get_opt("only-in-a").await?.is_none());

    let folder = a.folder().to_owned();
    drop(a);
    assert!(!folder.exists(), "{} is still there", folder.display());
    assert_eq!(processes_naming(&folder), BTreeSet::new());
    assert!(in_b.get_opt("default").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn what_kubectl_remembers_goes_with_the_control_plane() -> Result<()> {
    let others =
        Component::ALL.into_iter().filter(|one| !matches!(one, Component::Etcd | Component::ApiServer));
    let plane = ControlPlane::start(others.fold(Options::default(), Options::without)).await?;
    kubectl(&plane, &["get", "namespaces"])?;
    let cache = kubectl_cache(&plane);
    assert!(fs::read_dir(&cache)?.count() > 0, "nothing in {}: it is in the user's home", cache.display());
    drop(plane);
    assert!(!cache.exists());
    Ok(())
}

#[tokio::test]
async fn a_component_can_be_killed_paused_and_started_again() -> Result<()> {
    let plane = ControlPlane::start(Options::default().without(Component::Karpenter)).await?;
    let namespace: Namespace = object(json!({"metadata": {"name": "survives"}}));
    Api::<Namespace>::all(plane.client().await?).create(&PostParams::default(), &namespace).await?;

    let node: Node = object(json!({"metadata": {"name": "n1", "labels": {"kwok.x-k8s.io/node": "fake"}}}));
    let nodes = Api::<Node>::all(plane.client().await?);
    nodes.create(&PostParams::default(), &node).await?;
    eventually("the node to be ready", LIMIT, || async {
        let conditions = nodes.get("n1").await?.status.and_then(|s| s.conditions).unwrap_or_default();
        ensure!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"), "{conditions:?}");
        Ok(())
    })
    .await?;

    for component in [Component::ApiServer, Component::Etcd, Component::ControllerManager, Component::Kwok] {
        let start = Instant::now();
        plane.kill(component)?;
        assert!(plane.process(component)?.ended().is_some());
        if component == Component::ApiServer {
            assert!(Api::<Namespace>::all(plane.client().await?).get("survives").await.is_err());
        }
        plane.restart(component).await?;
        eprintln!("{component} killed and back: {:.2?}", start.elapsed());
    }
    eventually("the namespace made before", LIMIT, || async {
        Ok(Api::<Namespace>::all(plane.client().await?).get("survives").await?)
    })
    .await?;

    // The new kwok plays the machine of the one that was killed, and does not wait until its lease has run out.
    let pod: Pod = object(json!({
        "metadata": {"name": "after-restart"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "main"}]},
    }));
    let pods = Api::<Pod>::namespaced(plane.client().await?, "default");
    pods.create(&PostParams::default(), &pod).await?;
    eventually("the pod to run", Duration::from_secs(20), || async {
        let phase = pods.get("after-restart").await?.status.and_then(|s| s.phase);
        ensure!(phase.as_deref() == Some("Running"), "{phase:?}");
        Ok(())
    })
    .await?;

    // Stopped, the controller-manager gives no new namespace its ServiceAccount; continued, it does.
    plane.pause(Component::ControllerManager)?;
    let client = plane.client().await?;
    let namespace: Namespace = object(json!({"metadata": {"name": "while-paused"}}));
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let accounts = Api::<ServiceAccount>::namespaced(client, "while-paused");
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", plane.process(Component::ControllerManager)?.pid()))?;
    assert!(stat.contains(") T "), "not stopped: {stat}");
    assert!(accounts.get_opt("default").await?.is_none());
    plane.resume(Component::ControllerManager)?;
    eventually("the ServiceAccount", LIMIT, || async { Ok(accounts.get("default").await?) }).await?;

    assert!(plane.rss(Component::ApiServer)? > 50 << 20);
    assert!(plane.cpu_seconds(Component::ApiServer)? > 0.1);
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_shows_the_log_of_the_culprit_and_leaves_nothing() -> Result<()> {
    let options =
        Options::default().without(Component::Karpenter).name(format!("wrong-{}", std::process::id()));
    let error = match ControlPlane::start(options.arg(Component::Etcd, "--no-such-flag")).await {
        Ok(_) => bail!("it started"),
        Err(error) => format!("{error:#}"),
    };
    assert!(error.contains("etcd has ended"), "{error}");
    assert!(error.contains("no-such-flag"), "{error}");
    assert!(!folder_of(&format!("wrong-{}", std::process::id())).exists());
    Ok(())
}

#[tokio::test]
async fn a_service_account_has_its_own_rights_and_name_in_the_audit_log() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let admin = plane.client().await?;
    let params = PostParams::default();
    let account: ServiceAccount = object(json!({"metadata": {"name": "reader"}}));
    Api::<ServiceAccount>::namespaced(admin.clone(), "default").create(&params, &account).await?;
    let client = plane.service_account_client("default", "reader").await?;

    let mark = plane.audit_mark().await?;
    let namespace: Namespace = object(json!({"metadata": {"name": "audited"}}));
    let refused = Api::<Namespace>::all(client).create(&params, &namespace).await.unwrap_err();
    assert!(refused.to_string().contains("system:serviceaccount:default:reader"), "{refused}");
    Api::<Namespace>::all(admin.clone()).create(&params, &namespace).await?;
    let dry_run = PostParams { dry_run: true, ..params };
    let other: Namespace = object(json!({"metadata": {"name": "not-stored"}}));
    Api::<Namespace>::all(admin).create(&dry_run, &other).await?;
    plane.audit_mark().await?;

    let log = plane.audit_log()?;
    let namespaces = |event: &AuditEvent| event.resource == "namespaces" && event.verb == "create";
    let seen: Vec<_> =
        log.since(mark)?.into_iter().filter(namespaces).map(|e| (e.user, e.code, e.dry_run)).collect();
    let reader = "system:serviceaccount:default:reader";
    assert_eq!(
        seen,
        [(reader.to_owned(), 403, false), ("admin".to_owned(), 201, false), ("admin".to_owned(), 201, true)]
    );
    let writes = log.writes_since(mark, namespaces)?;
    assert_eq!(writes.values().sum::<usize>(), 1, "{writes:?}");
    Ok(())
}

#[tokio::test]
async fn it_listens_on_loopback_only_and_lets_nobody_in_without_credentials() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    for component in Component::ALL {
        let listening = listening_addresses(plane.process(component)?.pid());
        // Ports are written in hexadecimal behind the address, the last byte of 127.0.0.1 first.
        assert!(listening.iter().all(|a| a.starts_with("0100007F:")), "{component}: {listening:?}");
        assert!(!listening.is_empty(), "{component} listens nowhere?");
    }

    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig_path())?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info = AuthInfo::default();
    let anybody = kube::Client::try_from(config)?;
    let get = |path: &str| http::Request::get(path).body(Vec::new()).unwrap();
    assert_eq!(anybody.request_text(get("/readyz")).await?, "ok");
    for path in ["/api/v1/namespaces", "/version", "/metrics"] {
        let refused = anybody.request_text(get(path)).await.unwrap_err();
        assert!(refused.to_string().contains("Unauthorized"), "{path}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_context_of_the_users_kubeconfig_serves_instead_and_nothing_is_started() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let kubeconfig = plane.kubeconfig_path().display().to_string();
    let external =
        Holder::up("external", &[], &[("KUBECONFIG", &kubeconfig), ("TRAINYARD_E2E_CONTEXT", "local")])
            .await?;
    let kubeconfig = Kubeconfig::read_from(external.folder.join("admin.kubeconfig"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let namespaces = Api::<Namespace>::all(kube::Client::try_from(config)?);
    assert!(namespaces.get_opt("default").await?.is_some());
    let started = processes_naming(&external.folder);
    assert!(started.iter().all(|(_, command)| command.starts_with("sh ")), "{started:?}");
    Ok(())
}

#[tokio::test]
async fn programs_of_kubebuilder_assets_go_before_those_built_here() -> Result<()> {
    let assets = std::env::temp_dir().join(format!("assets-{}", std::process::id()));
    fs::create_dir_all(&assets)?;
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        std::os::unix::fs::symlink(binary(program)?, assets.join(program))?;
    }
    let folder = assets.display().to_string();
    let up = Holder::up("assets", &["--no-karpenter"], &[("KUBEBUILDER_ASSETS", &folder)]).await;
    let started = up.map(|up| processes_naming(&up.folder));
    fs::remove_dir_all(&assets)?;
    let started = started?;
    let from_assets = |program: &str| {
        let expected = assets.join(program).display().to_string();
        started.iter().any(|(_, command)| command.starts_with(&expected))
    };
    assert!(from_assets("etcd") && from_assets("kube-apiserver"), "{started:?}");
    assert!(!from_assets("kube-scheduler"));
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_when_the_process_that_holds_it_is_killed() -> Result<()> {
    let holder = Holder::up("killed", &[], &[]).await?;
    // Six components and the janitor.
    let before = processes_naming(&holder.folder);
    assert_eq!(before.len(), 7, "{before:?}");

    holder.process.kill()?;
    eventually("everything to be gone", Duration::from_secs(20), || async {
        let left = processes_naming(&holder.folder);
        ensure!(
            left.is_empty() && !holder.folder.exists(),
            "{left:?}, folder there: {}",
            holder.folder.exists()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_folder_whose_janitor_was_killed_too_goes_with_the_next_start() -> Result<()> {
    let holder = Holder::up("orphan", &["--no-karpenter"], &[]).await?;
    let folder = holder.folder.clone();
    let janitor =
        processes_naming(&folder).into_iter().find(|(_, command)| command.starts_with("sh ")).unwrap();
    Command::new("kill").args(["-9", &janitor.0.to_string()]).status()?;
    holder.process.kill()?;
    eventually("the components to be gone", Duration::from_secs(20), || async {
        let left = processes_naming(&folder);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;

    // The same name is free again; another test may have started one and removed the folder already.
    let holder = Holder::up("orphan", &["--no-karpenter"], &[]).await?;
    assert_eq!(holder.folder, folder);
    let twice = Command::new(CONTROLPLANE).args(["up", "--name", &holder.name]).output()?;
    let message = String::from_utf8_lossy(&twice.stderr);
    assert!(message.contains("is running already"), "{message}");
    Ok(())
}

#[tokio::test]
async fn what_was_started_detached_is_listed_and_ends_on_demand() -> Result<()> {
    let name = format!("detached-{}", std::process::id());
    let run = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(CONTROLPLANE).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let kubeconfig = run(&["up", "--no-karpenter", "--detach", "--name", &name])?;
    let list = run(&["list"]);
    run(&["down", "--name", &name])?;
    let (list, folder) = (list?, folder_of(&name));
    assert_eq!(Path::new(kubeconfig.trim()), folder.join("admin.kubeconfig"));
    assert!(list.lines().any(|line| line.starts_with(&format!("{name}\tready"))), "{list}");
    assert!(!folder.exists());
    assert_eq!(processes_naming(&folder), BTreeSet::new());
    Ok(())
}

const CONTROLPLANE: &str = env!("CARGO_BIN_EXE_controlplane");

/// A process of its own that holds a control plane, as a person would have it; it ends with this one at the latest.
struct Holder {
    name: String,
    folder: PathBuf,
    process: Process,
}

impl Holder {
    async fn up(name: &str, arguments: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        let log = std::env::temp_dir().join(format!("{name}.log"));
        let process = Process::start(ProcessSpec {
            name: "controlplane".to_owned(),
            program: CONTROLPLANE.into(),
            args: [&["up", "--name", &name], arguments].concat().iter().map(|&s| s.to_owned()).collect(),
            env: env.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            log: log.clone(),
        })?;
        let up = eventually(&format!("the control plane {name}"), LIMIT, || async {
            let owners = live_control_planes()?;
            let ready = owners.iter().any(|owner| owner.name == name && owner.ready);
            ensure!(ready, "{owners:?}\n{}", process.log_tail());
            Ok(())
        })
        .await;
        fs::remove_file(log)?;
        up?;
        Ok(Self { folder: folder_of(&name), name, process })
    }
}

/// (process id, command line) of living processes that name the folder in their arguments or environment.
fn processes_naming(folder: &Path) -> BTreeSet<(u32, String)> {
    let wanted = folder.to_str().unwrap();
    let text =
        |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\0', " ");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let command = text(entry.path().join("cmdline"));
            let named = command.contains(wanted) || text(entry.path().join("environ")).contains(wanted);
            (named && !command.is_empty()).then_some((pid, command))
        })
        .collect()
}

/// Local addresses, as /proc/net/tcp writes them, that the process listens on.
fn listening_addresses(pid: u32) -> Vec<String> {
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok()?.to_str()?.strip_prefix("socket:[").map(str::to_owned))
        .map(|inode| inode.trim_end_matches(']').to_owned())
        .collect();
    ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| {
            let table = fs::read_to_string(format!("/proc/net/{table}")).unwrap();
            table.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN.
            (fields[3] == "0A" && sockets.contains(fields[9])).then(|| fields[1].to_owned())
        })
        .collect()
}
