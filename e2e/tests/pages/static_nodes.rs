//! The page on static Nodes.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use trainyard_e2e::controlplane::{ControlPlane, Options, add_machine, eventually};
use trainyard_e2e::installation::{Operator, install};

use crate::shell::{commands, page, shell};

#[tokio::test]
async fn every_command_of_the_page_on_static_nodes_does_what_it_says() -> Result<()> {
    let page = page("docs/static.md")?;
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
