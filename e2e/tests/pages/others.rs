//! The pages that are read beside a running installation: commands of each, and all objects.

use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trainyard_e2e::controlplane::{ControlPlane, Options};
use trainyard_e2e::installation::checkout;

use crate::documents::yaml_blocks;
use crate::readme::targets_of_make;
use crate::shell::{commands, page, shell, shell_in};

/// Whose commands are run, or read, by whom. A page that begins to show commands has to be added here.
const SHOWN: [(&str, usize); 7] = [
    ("docs/benchmarks.md", 9),
    ("docs/events.md", 1),
    ("docs/install.md", 4),
    ("docs/plan.md", 1),
    // In `readme` and `static_nodes`.
    ("README.md", 9),
    ("docs/static.md", 4),
    // By the plugin's tests, as `console`.
    ("docs/why.md", 0),
];

/// The README and everything under `docs/`.
fn pages() -> Result<Vec<String>> {
    let docs = std::fs::read_dir(checkout().join("docs"))?;
    let names: std::io::Result<Vec<String>> =
        docs.map(|entry| Ok(format!("docs/{}", entry?.file_name().to_string_lossy()))).collect();
    Ok(["README.md".to_owned()].into_iter().chain(names?).collect())
}

#[test]
fn no_page_shows_a_command_that_nobody_runs() -> Result<()> {
    for path in pages()? {
        let found = commands(&page(&path)?).len();
        let run = SHOWN.iter().find(|(shown, _)| *shown == path).map_or(0, |(_, count)| *count);
        ensure!(found == run, "{path} shows {found} commands, and {run} are run");
        let indented = page(&path)?
            .lines()
            .filter(|line| {
                ["kubectl", "helm", "make", "cargo", "target/release"].iter().any(|program| {
                    line.strip_prefix("    ").is_some_and(|l| l.starts_with(&format!("{program} ")))
                })
            })
            .count();
        ensure!(indented == 0, "{path} shows commands outside of a block of `sh`");
    }
    Ok(())
}

/// What they measure takes hours; that they are commands at all, the program itself says (`what_the_page_shows_is_understood`).
#[test]
fn targets_on_the_page_of_benchmarks_are_there() -> Result<()> {
    let targets = targets_of_make()?;
    let shown = commands(&page("docs/benchmarks.md")?);
    let asked: Vec<_> = shown.iter().filter_map(|line| line.strip_prefix("make ")).collect();
    ensure!(!asked.is_empty(), "the page shows no target");
    for target in asked {
        let name = target.split_whitespace().next().unwrap_or_default();
        ensure!(targets.iter().any(|there| there == name), "the Makefile has no {name}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_pages_show_beside_an_installation_works() -> Result<()> {
    let plane = ControlPlane::start(Options::default()).await?;
    // Where somebody has the charts, and values of his own.
    let folder = plane.folder().join("somebody");
    std::fs::create_dir(&folder)?;
    symlink(checkout().join("charts"), folder.join("charts"))?;
    std::fs::write(folder.join("my-values.yaml"), "log: {level: debug}\nreplicas: 2\n")?;
    let install = commands(&page("docs/install.md")?);
    for command in &install {
        shell_in(&folder, &plane, command)?;
    }
    let deployment = "kubectl -n trainyard-system get deployment -o json";
    let made: Value = serde_json::from_str(&shell(&plane, deployment)?)?;
    ensure!(made["items"][0]["spec"]["replicas"] == 2, "the values were not taken: {made:#}");
    let releases = shell(&plane, "helm list --all-namespaces --output json")?;
    let releases: Vec<Value> = serde_json::from_str(&releases)?;
    let revisions: Vec<_> = releases.iter().map(|release| release["revision"].as_str()).collect();
    ensure!(revisions == [Some("2"), Some("2")], "installed, then upgraded: {revisions:?}");

    for path in ["docs/events.md", "docs/plan.md"] {
        for command in commands(&page(path)?) {
            shell(&plane, &command)?;
        }
    }

    // Every object as the API server judges it, in a namespace that is there.
    let mut objects = 0;
    for path in pages()? {
        for (line, block) in yaml_blocks(&page(&path)?) {
            for object in serde_saphyr::from_multiple::<Value>(&block)? {
                let Some(kind) = object["kind"].as_str() else { continue };
                if let Some(namespace) = object["metadata"]["namespace"].as_str() {
                    let _ = shell(&plane, &format!("kubectl create namespace {namespace}"));
                }
                let file = folder.join("object.json");
                std::fs::write(&file, object.to_string())?;
                let apply = format!("kubectl apply --dry-run=server -f {}", file.display());
                shell(&plane, &apply).with_context(|| format!("{path}:{line}, {kind}"))?;
                objects += 1;
            }
        }
    }
    ensure!(objects >= 12, "the pages show {objects} objects");
    Ok(())
}
