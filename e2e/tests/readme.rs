//! Every command that the README and the page on static Nodes show, run as it stands there on a fresh control plane.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use trainyard_e2e::controlplane::{ControlPlane, Options, add_machine, bin_folder, eventually};
use trainyard_e2e::installation::{
    CACHE_OF_KUBECTL, Operator, checkout, install, kubectl_cache, plugin_binary,
};

/// Lines of the README's `sh` blocks, comments cut off.
fn commands(markdown: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in markdown.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside => {
                let command = command
                    .split("    #")
                    .next()
                    .unwrap_or_default()
                    .split("  # ")
                    .next()
                    .unwrap_or_default();
                found.push(command.trim().to_owned());
            }
            _ => {}
        }
    }
    found.retain(|command| !command.is_empty());
    found
}

/// Runs a command as a person in the checkout would, with the control plane's kubectl and helm first in the path.
fn shell(plane: &ControlPlane, command: &str) -> Result<String> {
    let plugin = plugin_binary()?;
    let plugins = plugin.parent().context("a program is in a folder")?;
    let (ours, others) = (bin_folder(), std::env::var("PATH").unwrap_or_default());
    let path = format!("{}:{}:{others}", ours.display(), plugins.display());
    // What watches goes on for ever; three seconds of it must show something.
    let watches = command.ends_with(" -w");
    let command = if watches { format!("timeout 3 {command} || [ $? = 124 ]") } else { command.to_owned() };
    let output = Command::new("sh")
        .args(["-c", &command])
        .current_dir(checkout())
        .env("PATH", path)
        .env("KUBECONFIG", plane.kubeconfig_path())
        .env(CACHE_OF_KUBECTL, kubectl_cache(plane))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {command}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || (watches && printed.trim().is_empty()) {
        bail!(
            "`{command}` ended with {}:\n{printed}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    println!("$ {command}\n{printed}");
    Ok(printed)
}

fn targets_of_make() -> Result<Vec<String>> {
    let makefile = std::fs::read_to_string(checkout().join("Makefile"))?;
    Ok(makefile
        .lines()
        .filter_map(|line| line.split_once(": ").or(line.split_once(':')))
        .map(|(name, _)| name.to_owned())
        .collect())
}

#[tokio::test]
async fn every_command_of_the_readme_does_what_it_says() -> Result<()> {
    let readme = std::fs::read_to_string(checkout().join("README.md"))?;
    let (make, shown): (Vec<_>, Vec<_>) =
        commands(&readme).into_iter().partition(|line| line.starts_with("make "));
    let targets = targets_of_make()?;
    for command in &make {
        let target = command.split_whitespace().nth(1).unwrap_or_default().to_owned();
        assert!(targets.contains(&target), "the README says `{command}`, and the Makefile has no {target}");
    }

    let plane = ControlPlane::start(Options::default()).await?;
    let (install, rest): (Vec<_>, Vec<_>) = shown.into_iter().partition(|line| line.starts_with("helm "));
    assert_eq!(install.len(), 2, "two charts are installed");
    for command in &install {
        shell(&plane, command)?;
    }
    shell(&plane, "kubectl apply -f deploy/local/provisioning-class.yaml")?;
    let _operator = Operator::start(&plane, 0).await?;
    shell(&plane, "kubectl apply -f deploy/samples/1-cluster.yaml -f deploy/samples/4-gang-of-four.yaml")?;
    eventually("the gang to be told what it waits for", Duration::from_secs(60), || async {
        let waiting =
            shell(&plane, "kubectl get tyr gang -o jsonpath='{.status.queue.message}{.status.message}'")?;
        if waiting.is_empty() {
            bail!("nothing is said yet")
        }
        Ok(())
    })
    .await?;
    assert!(rest.len() >= 3, "the README shows how to look at runs: {rest:?}");
    for command in &rest {
        shell(&plane, command)?;
    }
    Ok(())
}

#[tokio::test]
async fn every_command_of_the_page_on_static_nodes_does_what_it_says() -> Result<()> {
    let page = std::fs::read_to_string(checkout().join("docs/static.md"))?;
    let shown = commands(&page);
    let plane = ControlPlane::start(Options::default()).await?;
    install(&plane).await?;
    let _operator = Operator::start(&plane, 0).await?;
    let client = plane.client().await?;
    let amounts = json!({"cpu": "16", "memory": "62Gi", "pods": "110", "nvidia.com/gpu": "2"});
    for name in ["lab-1", "lab-2"] {
        add_machine(&client, name, &json!({}), &amounts).await?;
    }
    assert!(shown.len() >= 4, "the page shows how to lend machines: {shown:?}");
    for command in &shown[..2] {
        shell(&plane, command)?;
    }
    let ends = async |what: &str, asked: &str, wanted: &str| {
        eventually(what, Duration::from_secs(90), || async {
            let said = shell(&plane, asked)?;
            if said.trim() == wanted { Ok(()) } else { bail!("`{said}`") }
        })
        .await
    };
    let phase = "kubectl get tyr on-premises -o jsonpath='{.status.phase}'";
    ends("the run to work", phase, "Running").await?;
    for command in &shown[2..] {
        let printed = shell(&plane, command)?;
        assert!(printed.contains("lab-1") && printed.contains("lab-2"), "{command} shows\n{printed}");
    }
    ends("the run to be done", phase, "Completed").await?;
    let taken = "kubectl get nodes -l trainyard.node-restriction.kubernetes.io/engine -o name";
    ends("the machines to be given back", taken, "").await
}

#[test]
fn commands_are_read_without_their_comments() {
    let markdown = "text\n```sh\nmake demo     # builds\nkubectl get tyr -w\n```\n```yaml\nkind: Run\n```\n";
    assert_eq!(commands(markdown), ["make demo", "kubectl get tyr -w"]);
}
