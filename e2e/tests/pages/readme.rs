//! The README.

use std::time::Duration;

use anyhow::{Result, bail};
use trainyard_e2e::controlplane::{ControlPlane, Options, eventually};
use trainyard_e2e::installation::Operator;

use crate::shell::{commands, page, shell};

/// What `make` can be asked for.
pub fn targets_of_make() -> Result<Vec<String>> {
    let makefile = page("Makefile")?;
    Ok(makefile
        .lines()
        .filter_map(|line| line.split_once(": ").or(line.split_once(':')))
        .map(|(name, _)| name.to_owned())
        .collect())
}

#[tokio::test]
async fn every_command_of_the_readme_does_what_it_says() -> Result<()> {
    let readme = page("README.md")?;
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
