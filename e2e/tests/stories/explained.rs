//! What somebody with plain user rights is told who asks why.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use trainyard_api::cluster::{Cluster, EngineKind};
use trainyard_api::names::API_VERSION;
use trainyard_api::run::Priority;
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_api::vm_size::VmSize;
use trainyard_e2e::controlplane::{Refusal, binary, bring_back_node, lose_node};
use trainyard_e2e::installation::{CACHE_OF_KUBECTL, checkout, kubectl_cache, plugin_binary};
use trainyard_e2e::stories::{Story, cluster, placed_on, run};

/// Somebody with the built-in role `view` in the namespace, at a terminal.
struct Person<'a> {
    story: &'a Story,
    kubeconfig: std::path::PathBuf,
}

impl<'a> Person<'a> {
    async fn of(story: &'a Story) -> Result<Self> {
        let (namespace, name) = (&story.namespace, "reader");
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::namespaced(story.client.clone(), namespace).create(&PostParams::default(), &account).await?;
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }))?;
        Api::namespaced(story.client.clone(), namespace).create(&PostParams::default(), &binding).await?;
        let kubeconfig = story.stage.plane.service_account_kubeconfig(namespace, name).await?;
        Ok(Self { story, kubeconfig })
    }

    /// Types `kubectl trainyard` and these words; standard output, or standard error of what fails.
    fn types(&self, words: &str) -> Result<String> {
        let plugin = plugin_binary()?;
        let folder = plugin.parent().context("a program is in a folder")?;
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new(binary("kubectl")?)
            .arg("trainyard")
            .args(words.split_whitespace())
            .args(["-n", &self.story.namespace])
            .env("PATH", path)
            .env("KUBECONFIG", &self.kubeconfig)
            .env(CACHE_OF_KUBECTL, kubectl_cache(&self.story.stage.plane))
            .stdin(Stdio::null())
            .output()?;
        let text = if output.status.success() { output.stdout } else { output.stderr };
        let text = String::from_utf8(text)?;
        println!("$ kubectl trainyard {words}\n{text}");
        Ok(text)
    }

    /// What `docs/why.md` says to export for somebody who is asked for help, in a file.
    fn exports(&self) -> Result<String> {
        let page = std::fs::read_to_string(checkout().join("docs/why.md"))?;
        let shown = page.split_once("exported by\n  `kubectl get ").context("the page shows a command")?.1;
        let kinds = shown.split_once(" -n ml -o yaml`").context("it exports as YAML")?.0;
        let output = Command::new(binary("kubectl")?)
            .args(["get", kinds, "-o", "yaml", "-n", &self.story.namespace])
            .env("KUBECONFIG", &self.kubeconfig)
            .env(CACHE_OF_KUBECTL, kubectl_cache(&self.story.stage.plane))
            .stdin(Stdio::null())
            .output()?;
        let file = self.kubeconfig.with_extension("exported.yaml");
        std::fs::write(&file, output.stdout)?;
        Ok(file.to_str().context("a path of text")?.to_owned())
    }

    /// Types it until the answer has all of these.
    async fn is_told(&self, words: &str, parts: &[&str]) -> Result<()> {
        self.story
            .expect(&format!("`kubectl trainyard {words}` to say {parts:?}"), || async {
                let text = self.types(words)?;
                for part in parts {
                    ensure!(text.contains(part), "{part:?} is missing in:\n{text}");
                }
                Ok(())
            })
            .await
    }
}

async fn waits(story: &Story, name: &str, reason: QueueReason) -> Result<()> {
    let says = |status: &trainyard_api::run_status::RunStatus| {
        status.queue.as_ref().is_some_and(|queue| queue.reason == Some(reason))
    };
    story.run_shows(name, &format!("to wait for {reason}"), says).await?;
    Ok(())
}

#[tokio::test]
async fn a_queue_is_told_in_its_exact_order_and_each_wait_with_its_cause() -> Result<()> {
    let story = Story::begin("explained queue").await?;
    let person = Person::of(&story).await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("long").on("pool").nodes(2).at_most("30m")).await?;
    story.run_comes_to("long", RunPhase::Running).await?;
    story.submit(run("gang").on("pool").nodes(2)).await?;
    waits(&story, "gang", QueueReason::NodesBusy).await?;
    story.submit(run("patient").on("pool").priority(Priority::Low)).await?;
    waits(&story, "patient", QueueReason::BehindOthers).await?;
    story.submit(run("huge").on("pool").nodes(3).priority(Priority::High)).await?;
    waits(&story, "huge", QueueReason::ExceedsMaxNodes).await?;

    let space = &story.namespace;
    person
        .is_told(
            "why gang",
            &[
                &format!("Run {space}/gang waits: position 2 of 3 in the queue of Cluster pool; it needs 2 nodes"),
                "NodesBusy: needs 2 nodes: 0 idle, 2 busy; they are free at ",
                &format!("Before it is 1. {space}/huge (High, 3 nodes) ExceedsMaxNodes: "),
                &format!("Nodes are in use by {space}/long (2 nodes, ends at "),
                "The Cluster has 2 of at most 2 nodes (scale.maxNodes), so no further machine can be asked for",
                "It starts ",
                &format!("raise the maximum: kubectl patch tyc pool -n {space} --type merge -p '{{\"spec\":{{\"scale\":{{\"maxNodes\":4}}}}}}'"),
                "You may not list provisioningclasses and vmsizes",
            ],
        )
        .await?;
    person.is_told("why run/patient", &["position 3 of 3", "BehindOthers: ", "NodesBusy: "]).await?;
    person.is_told("why run long", &["is Running: attempt 1 has 2 nodes", "which its user wrote"]).await?;

    let queue: Value = serde_json::from_str(&person.types("queue pool -o json")?)?;
    let order: Vec<(i64, &str, &str)> = queue["waiting"]
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|run| Some((run["position"].as_i64()?, run["run"].as_str()?, run["reason"].as_str()?)))
        .collect();
    assert_eq!(
        order,
        [(1, "huge", "ExceedsMaxNodes"), (2, "gang", "NodesBusy"), (3, "patient", "BehindOthers")]
    );
    assert_eq!(queue["active"][0]["run"], "long");
    assert!(queue["waiting"][1]["estimatedStart"].is_string(), "{queue}");

    let node = story.nodes_of("pool").await?.remove(0).name_any();
    person.is_told(&format!("why {node}"), &[" is at work: works for ", "/long"]).await?;
    let missing = person.types("why gnag")?;
    assert!(missing.contains("nothing is named gnag") && missing.contains("similar: run/gang"), "{missing}");
    Ok(())
}

#[tokio::test]
async fn what_has_happened_to_a_run_is_told_attempt_by_attempt_with_whose_fault_it_was() -> Result<()> {
    let story = Story::begin("explained ends").await?;
    let person = Person::of(&story).await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("stubborn").on("pool").lasting("1s").exiting("3").user_retries(1)).await?;
    story.submit(run("good").on("pool").lasting("1s")).await?;
    story.run_comes_to("stubborn", RunPhase::Failed).await?;
    story.run_comes_to("good", RunPhase::Completed).await?;
    person
        .is_told(
            "why stubborn",
            &[
                "has failed for good ",
                "UserCode, a process of the training failed and retries.user is used up.",
                "Attempt 1 on 1 node, ended at ",
                "Attempt 2 on 1 node, ended at ",
                "The training's own fault; counts against retries.user.",
                "Failures of its own: 2, forgiven are 1 (retries.user).",
                "kubectl logs -n explained-ends stubborn-worker-0-a2",
            ],
        )
        .await?;
    person.is_told("why good", &["has succeeded ", "It did what it should."]).await?;

    // The node they ran on leaves, and what it was is still told.
    story.edit_cluster("pool", json!({"scale": {"idleSecondsBeforeScaleDown": 1}})).await?;
    let node = story.nodes_of("pool").await?.remove(0).name_any();
    story.no_machine_is_left().await?;
    story.cluster_rests_with("pool", 0).await?;
    let left = [
        "is gone: it was node 1 of Cluster pool",
        " NodeRetired: it leaves: it idled longer than idleSecondsBeforeScaleDown",
    ];
    person.is_told(&format!("why {node}"), &left).await?;
    Ok(())
}

#[tokio::test]
async fn a_stock_out_and_a_missing_class_are_named_with_what_to_do() -> Result<()> {
    let story = Story::begin("explained refusals").await?;
    let person = Person::of(&story).await?;
    let size = "Standard_E8s_v5";
    let refusal = Refusal {
        id: "explained".to_owned(),
        instance_type: Some(size.to_owned()),
        message: "no E8s_v5 left in any zone".to_owned(),
        ..Refusal::default()
    };
    let refusing = story.stage.cloud_refuses(refusal)?;
    story.create_cluster(cluster("sold-out").of_size(size)).await?;
    story.submit(run("unlucky").on("sold-out").lasting("1s")).await?;
    person
        .is_told(
            "why unlucky",
            &[
                "CapacityBackoff: waits for 1 node: 0 idle, 1 to be asked for; refused (StockOut), asked again at ",
                "no E8s_v5 left in any zone",
                "they are asked for again ",
                "wait: machines are asked for again by themselves",
            ],
        )
        .await?;
    person
        .is_told(
            "why cluster/sold-out",
            &["waits until machines that were refused can be asked for again", "CapacityBackoff"],
        )
        .await?;
    refusing.ends();
    let told = story.events_about("sold-out").await?;
    let is_refusal = |(reason, note): &(String, String)| {
        reason == "MachinesRefused"
            && note.starts_with("StockOut: ")
            && note.ends_with("no E8s_v5 left in any zone")
    };
    ensure!(told.iter().any(is_refusal), "{told:?}");

    story.create_cluster(cluster("classless").in_class("story-absent")).await?;
    story.submit(run("waiting").on("classless")).await?;
    person
        .is_told(
            "why waiting",
            &[
                "ClusterStalled: needs 1 node, and none can be asked for (ProvisioningClassNotFound)",
                "ProvisioningClass story-absent does not exist",
                "an administrator can create story-absent",
            ],
        )
        .await?;
    person
        .is_told("why cluster/classless", &["is stalled until somebody mends something", "story-absent"])
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_user_is_told_why_a_run_waits_for_a_hall_that_is_in_use_and_what_to_do_about_a_lost_machine()
-> Result<()> {
    let story = Story::begin("explained hall").await?;
    let person = Person::of(&story).await?;
    let hall = story.hall_of(2).await?;
    let size: VmSize = serde_json::from_value(json!({
        "apiVersion": API_VERSION, "kind": "VmSize", "metadata": {"name": "explained-box"},
        "spec": {"sizeName": "Explained_Box", "aliases": ["box"], "family": "own", "vcpus": 4, "memory": "15Gi"},
    }))?;
    Api::<VmSize>::all(story.client.clone()).create(&PostParams::default(), &size).await?;
    for name in ["speech", "vision"] {
        story
            .create_cluster(cluster(name).in_class(hall.class()).of_size("box").max(2).idle_seconds(1))
            .await?;
    }
    story.submit(run("holder").on("speech").nodes(2)).await?;
    let holder = story.run_comes_to("holder", RunPhase::Running).await?;
    story.submit(run("patient").on("vision").nodes(2)).await?;
    waits(&story, "patient", QueueReason::NoFreeMachines).await?;

    let wait = "NoFreeMachines: needs 2 nodes, the cluster has 0; 0 of 2 matching nodes are free: 2 are used by Cluster speech";
    let hidden = "You may not list provisioningclasses and vmsizes";
    person
        .is_told("why patient", &[wait, "it starts by itself as soon as so many machines are free", hidden])
        .await?;
    let told = person.types("why cluster/vision")?;
    ensure!(told.contains("waits until more machines are free: 2 nodes more wanted"), "{told}");
    ensure!(!told.contains("ask for a machine"), "{told}");
    let is_recorded = |vision: &Cluster| {
        let status = vision.status.clone().unwrap_or_default();
        status.vm_size.is_some_and(|size| size.size_name == "Explained_Box" && size.vcpus == 4)
            && status.provisioning_class.is_some_and(|class| class.engine == Some(EngineKind::Static))
    };
    story.cluster_shows("vision", "to record what its user may not read", is_recorded).await?;
    // Whoever is asked for help sees the same in what the user can export.
    let file = person.exports()?;
    let told = person.types(&format!("why patient -f {file}"))?;
    ensure!(told.contains(wait) && !told.contains("asking for"), "{told}");

    let lost = placed_on(&holder)[0].clone();
    lose_node(&story.client, &lost).await?;
    let advice = format!("if it does not come back: kubectl delete node {lost}");
    person
        .is_told(
            &format!("why {lost}"),
            &["is out of use: lost, and given back when it is ready again and empty", &advice],
        )
        .await?;
    bring_back_node(&story.client, &lost).await?;
    story.cancel("holder").await?;
    story.cancel("patient").await?;
    for name in ["speech", "vision"] {
        story.cluster_rests_with(name, 0).await?;
    }
    hall.is_as_it_was().await
}
