//! Commands out of pages, as a person types them.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use trainyard_e2e::controlplane::{ControlPlane, bin_folder};
use trainyard_e2e::installation::{CACHE_OF_KUBECTL, checkout, kubectl_cache, plugin_binary};

/// A page, by its path from the root of the checkout.
pub fn page(path: &str) -> Result<String> {
    std::fs::read_to_string(checkout().join(path)).with_context(|| path.to_owned())
}

/// Lines of a page's `sh` blocks, comments cut off.
pub fn commands(markdown: &str) -> Vec<String> {
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
pub fn shell(plane: &ControlPlane, command: &str) -> Result<String> {
    shell_in(&checkout(), plane, command)
}

/// The same in another folder.
pub fn shell_in(folder: &Path, plane: &ControlPlane, command: &str) -> Result<String> {
    let plugin = plugin_binary()?;
    let plugins = plugin.parent().context("a program is in a folder")?;
    let (ours, others) = (bin_folder(), std::env::var("PATH").unwrap_or_default());
    let path = format!("{}:{}:{others}", ours.display(), plugins.display());
    // What watches goes on for ever; three seconds of it must show something.
    let watches = command.ends_with(" -w");
    let command = if watches { format!("timeout 3 {command} || [ $? = 124 ]") } else { command.to_owned() };
    let output = Command::new("sh")
        .args(["-c", &command])
        .current_dir(folder)
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

#[test]
fn commands_are_read_without_their_comments() {
    let markdown = "text\n```sh\nmake demo     # builds\nkubectl get tyr -w\n```\n```yaml\nkind: Run\n```\n";
    assert_eq!(commands(markdown), ["make demo", "kubectl get tyr -w"]);
}
