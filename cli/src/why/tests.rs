//! Answers from an API server, with more or fewer rights.

use std::path::Path;

use serde_json::json;
use trainyard_api::cluster_node::VmSizeFacts;
use trainyard_api::tenancy::NamespaceSelector;
use trainyard_api::{Cluster, ProvisioningClass, Run, VmSize, shipped_vm_sizes};
use trainyard_fake_apiserver::{FakeServer, Fault, Matching, Verb};
use trainyard_model::catalogue::reference;

use super::*;

fn now() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().expect("a time")
}

fn exported(folder: &str) -> manifest::Manifest {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/why").join(folder);
    manifest::read(&[folder], "ml").expect("the objects are valid")
}

/// A server that holds what a folder of `tests/why` has exported, and the catalogue.
fn server(folder: &str) -> FakeServer {
    let server = FakeServer::new();
    let exported = exported(folder);
    exported.clusters.iter().for_each(|one| drop(server.put(one)));
    exported.nodes.iter().for_each(|one| drop(server.put(one)));
    exported.runs.iter().for_each(|one| drop(server.put(one)));
    exported.classes.iter().for_each(|one| drop(server.put(one)));
    let size = shipped_vm_sizes().into_iter().find(|size| size.spec.answers_to("Standard_NC24ads_A100_v4"));
    server.put(&size.expect("that size is shipped"));
    let class: ProvisioningClass = serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "ProvisioningClass", "metadata": {"name": "azure"},
        "spec": {"karpenter": {"nodeClassRef": {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "gpu"}}},
    }))
    .expect("a class");
    server.put(&class);
    server
}

async fn answer(server: &FakeServer, words: &str) -> anyhow::Result<Answer> {
    let target = Target::parse(&[words.to_owned()]).expect("a target");
    ask(Reader::new(server.client("kubectl")), "ml", &target, now()).await
}

fn from_files(folder: &str, words: &str) -> Answer {
    let manifest = exported(folder);
    let target = Target::parse(&[words.to_owned()]).expect("a target");
    let subject = find::in_files(&manifest, "ml", &target).expect("it is there");
    let origin = Origin::Cluster { classes: false, sizes: false };
    explain(&subject, Some(Objects { manifest, origin, is_whole: true }), now()).expect("an answer")
}

fn lists(resource: &str) -> Matching {
    Matching::any().verb(Verb::List).resource(resource)
}

#[tokio::test]
async fn a_live_answer_is_that_of_the_exported_objects_and_nothing_is_written() {
    for words in ["gang", "run/endless", "short", "cluster/nc6", "node/nc6-3f9a1c-3", "vm-1"] {
        let server = server("a_busy_cluster");
        let live = answer(&server, words).await.expect("an answer");
        assert_eq!(live.text(), from_files("a_busy_cluster", words).text(), "{words}");
        assert_eq!(server.count(&Matching::writes()), 0);
    }
}

#[tokio::test]
async fn who_may_not_read_the_catalogue_is_told_so_and_gets_the_same_answer() {
    let server = server("a_busy_cluster");
    server.fail(lists("provisioningclasses"), Fault::Forbidden);
    server.fail(lists("vmsizes"), Fault::Forbidden);
    let live = answer(&server, "gang").await.expect("an answer");
    let [missing] = &live.not_known[..] else { panic!("{:?}", live.not_known) };
    assert!(missing.starts_with("You may not list provisioningclasses and vmsizes: "), "{missing}");
    assert_eq!(live.why, from_files("a_busy_cluster", "gang").why);
}

/// The answers to each question of somebody who may read the catalogue, and of somebody who may not.
async fn with_and_without_rights(server: &FakeServer, questions: &[&str]) -> Vec<(Answer, Answer)> {
    let mut answers = Vec::new();
    for words in questions {
        let known = answer(server, words).await.expect("an answer");
        assert_eq!(known.not_known, [""; 0], "{words}");
        server.fail(lists("provisioningclasses"), Fault::Forbidden);
        server.fail(lists("vmsizes"), Fault::Forbidden);
        let hidden = answer(server, words).await.expect("an answer");
        assert!(hidden.not_known[0].starts_with("You may not list"), "{:?}", hidden.not_known);
        server.heal();
        answers.push((known, hidden));
    }
    answers
}

fn assert_same(answers: Vec<(Answer, Answer)>) {
    for (known, mut hidden) in answers {
        hidden.not_known.clear();
        assert_eq!(hidden.text(), known.text());
        assert_eq!(hidden.report, known.report);
    }
}

/// An administrator's own size, of four accelerators, takes the place of the shipped one in all that is there.
fn with_a_size_of_its_own(server: &FakeServer) -> VmSize {
    let mut size: VmSize = server.get("", "standard-nc24ads-a100-v4").expect("it is there");
    size.metadata.name = Some("lab-box".to_owned());
    size.spec.size_name = "Lab_Box".to_owned();
    size.spec.aliases = vec!["box".to_owned()];
    size.spec.accelerators[0].count = 4;
    server.put(&size);
    server.edit::<Cluster>("ml", "nc6", |cluster| cluster.spec.vm_size = "box".to_owned());
    for node in server.list::<ClusterNode>() {
        let name = node.metadata.name.expect("a name");
        server.edit::<ClusterNode>("ml", &name, |node| node.spec.vm_size = VmSizeFacts::of(&size.spec));
    }
    size
}

#[tokio::test]
async fn a_size_of_ones_own_that_is_hidden_stalls_nothing_wherever_it_is_recorded() {
    for folder in ["a_busy_cluster", "a_stock_out", "nodes"] {
        let questions = match folder {
            "a_busy_cluster" => ["gang", "pair", "cluster/nc6"],
            "a_stock_out" => ["mnist", "held", "cluster/nc6"],
            _ => ["pair", "cluster/nc6", "node/nc6-3f9a1c-5"],
        };
        let server = server(folder);
        let size = with_a_size_of_its_own(&server);
        // Its nodes tell.
        assert_same(with_and_without_rights(&server, &questions).await);
        // The Cluster tells, also when there are no nodes.
        server.edit::<Cluster>("ml", "nc6", |cluster| {
            cluster.status.get_or_insert_default().vm_size = Some(VmSizeFacts::of(&size.spec));
        });
        assert_same(with_and_without_rights(&server, &questions).await);
    }
}

/// Half of a machine each, so that machines are counted by what the size promises.
#[tokio::test]
async fn how_many_runs_share_a_machine_of_a_hidden_size_is_known() {
    let server = server("a_stock_out");
    let size = with_a_size_of_its_own(&server);
    server.remove::<ClusterNode>("ml", "nc6-3f9a1c-3");
    for name in ["mnist", "held"] {
        server.edit::<Run>("ml", name, |run| {
            run.spec.node_count = 1;
            run.spec.resources_per_node =
                serde_json::from_value(json!({"accelerators": 2})).expect("half of four");
            run.status.get_or_insert_default().queue = None;
        });
    }
    server.edit::<Cluster>("ml", "nc6", |cluster| {
        let status = cluster.status.get_or_insert_default();
        (status.backoff, status.errors) = (Vec::new(), Vec::new());
        status.vm_size = Some(VmSizeFacts::of(&size.spec));
    });
    let answers = with_and_without_rights(&server, &["mnist", "held", "cluster/nc6"]).await;
    assert!(
        answers[2].1.why.contains(&"At this moment trainyard is to ask for a machine: node 4".to_owned()),
        "one for both: {:?}",
        answers[2].1.why
    );
    assert_same(answers);
    // Never a stall, nor that a run does not fit, of which the operator knows nothing.
    let capacity =
        serde_json::from_value(json!({"cpuMillis": 23_500, "memoryBytes": 200_000_000_000_i64, "pods": 100,
        "accelerators": {"nvidia.com/gpu": 4}}));
    let capacity: trainyard_api::capacity::Capacity = capacity.expect("a capacity");
    for measured in [Some(capacity), None] {
        server.edit::<Cluster>("ml", "nc6", |cluster| {
            let status = cluster.status.get_or_insert_default();
            (status.vm_size, status.node_capacity) = (None, measured);
        });
        for (known, hidden) in with_and_without_rights(&server, &["mnist", "held", "cluster/nc6"]).await {
            assert_eq!((hidden.state, hidden.reason), (known.state, known.reason));
        }
    }
}

#[tokio::test]
async fn who_may_not_read_the_class_of_a_hall_is_told_that_its_machines_are_in_use() {
    let server = server("a_hall_in_use");
    let questions = ["mnist", "cluster/vision"];
    let answers = with_and_without_rights(&server, &questions).await;
    assert_eq!(answers[0].1.reason.as_deref(), Some("NoFreeMachines"));
    assert_same(answers);
    // As an operator of an earlier version left it.
    server.edit::<Cluster>("ml", "vision", |cluster| {
        let class = cluster.status.get_or_insert_default().provisioning_class.as_mut();
        class.expect("it is recorded").engine = None;
    });
    assert_same(with_and_without_rights(&server, &questions).await);
}

#[tokio::test]
async fn what_a_class_grants_is_known_to_who_may_not_read_it() {
    for (per_cluster, per_namespace, limit) in [
        (Some(2), None, "ProvisioningClass azure grants 2 nodes to one Cluster"),
        (
            None,
            Some(5),
            "ProvisioningClass azure grants 5 nodes to all Clusters of a namespace, and the others have 1 of them",
        ),
    ] {
        let server = server("a_busy_cluster");
        let class = server.edit::<ProvisioningClass>("", "azure", |class| {
            class.spec.max_nodes_per_cluster = per_cluster;
            class.spec.max_nodes_per_namespace = per_namespace;
        });
        let cluster = server.edit::<Cluster>("ml", "nc6", |cluster| {
            cluster.spec.provisioning_class = Some("azure".to_owned());
            cluster.spec.scale.max_nodes = 6;
            cluster.status.get_or_insert_default().provisioning_class = Some(reference(&class));
        });
        let node = server.get::<ClusterNode>("ml", "nc6-3f9a1c-1").expect("it is there");
        put_another(&server, cluster, node);
        let answers = with_and_without_rights(&server, &["gang", "cluster/nc6"]).await;
        let said = format!("The Cluster may have 4 nodes and no more (NodeLimitReached): {limit}");
        assert!(answers[0].1.why.iter().any(|one| one.starts_with(&said)), "{:?}", answers[0].1.why);
        assert_same(answers);
    }
}

/// A Cluster of the same class with one node.
fn put_another(server: &FakeServer, mut cluster: Cluster, mut node: ClusterNode) {
    (cluster.metadata.name, cluster.metadata.uid) = (Some("other".to_owned()), Some("cluster-2".to_owned()));
    (node.metadata.name, node.metadata.uid) = (Some("other-3f9a1c-1".to_owned()), Some("other-1".to_owned()));
    (node.spec.cluster.name, node.spec.cluster.uid) = ("other".to_owned(), "cluster-2".to_owned());
    server.put(&cluster);
    server.put(&node);
}

/// Without the labels of the namespace nobody knows whom an exported class is for, but the operator.
#[test]
fn a_class_that_is_exported_without_namespaces_is_the_operators_to_judge() {
    let mut manifest = exported("a_hall_in_use");
    manifest.classes[0].spec.allowed_namespaces =
        serde_json::from_value(json!({"matchLabels": {"team": "vision"}})).ok();
    assert!(manifest.classes[0].spec.allowed_namespaces.is_some());
    let origin = Origin::of_export(&manifest);
    assert_eq!(origin, Origin::Cluster { classes: false, sizes: false });
    let target = Target::parse(&["mnist".to_owned()]).expect("a target");
    let subject = find::in_files(&manifest, "ml", &target).expect("it is there");
    let told =
        explain(&subject, Some(Objects { manifest, origin, is_whole: true }), now()).expect("an answer");
    assert_eq!(told.reason.as_deref(), Some("NoFreeMachines"));
}

#[tokio::test]
async fn what_the_operator_says_of_the_catalogue_is_believed_by_who_may_not_read_it() {
    let server = server("a_missing_class");
    server.fail(lists("provisioningclasses"), Fault::Forbidden);
    let live = answer(&server, "mnist").await.expect("an answer");
    assert_eq!(live.reason.as_deref(), Some("ClusterStalled"));
    assert!(
        live.why[0].ends_with("(ProvisioningClassNotFound): ProvisioningClass azure does not exist"),
        "{:?}",
        live.why
    );
    // With the right to look, the class that has been made since is seen before the operator has.
    server.heal();
    let live = answer(&server, "mnist").await.expect("an answer");
    assert_eq!(live.reason.as_deref(), Some("NodesPreparing"));
    assert!(
        live.why.iter().any(|said| said.starts_with("trainyard last wrote another reason")),
        "{:?}",
        live.why
    );
}

#[tokio::test]
async fn with_fewer_rights_what_was_last_written_is_told() {
    for hidden in ["clusternodes", "runs"] {
        let server = server("a_busy_cluster");
        server.fail(lists(hidden), Fault::Forbidden);
        let live = answer(&server, "gang").await.expect("an answer");
        assert_eq!(
            live.summary, "Run ml/gang waits in the queue of Cluster nc6 at position 1.",
            "as status has it"
        );
        assert_eq!(live.why[0], "NodesBusy: needs 4 nodes: 2 idle, 2 busy");
        assert_eq!(live.place, None, "nothing is exact");
        let start = format!("You may not list {hidden} in namespace ml: ");
        assert!(live.not_known[0].starts_with(&start), "{:?}", live.not_known);
        assert!(!live.what_you_can_do.is_empty());
    }
    let server = server("a_busy_cluster");
    server.fail(Matching::any().resource("clusters"), Fault::Forbidden);
    let live = answer(&server, "gang").await.expect("an answer");
    assert!(
        live.not_known[0].starts_with("You may not read Cluster nc6 in namespace ml: "),
        "{:?}",
        live.not_known
    );
}

#[tokio::test]
async fn a_queue_that_is_shared_is_exact_only_for_who_may_see_all_of_it() {
    let server = server("a_busy_cluster");
    server.edit::<Cluster>("ml", "nc6", |cluster| {
        cluster.spec.allowed_namespaces = Some(NamespaceSelector::default());
    });
    let mut foreign =
        exported("a_busy_cluster").runs.into_iter().find(|run| run.spec.node_count == 4).expect("gang");
    foreign.metadata.namespace = Some("other".to_owned());
    foreign.metadata.uid = Some("foreign-uid".to_owned());
    foreign.metadata.creation_timestamp =
        Some(trainyard_api::Time("2030-01-01T11:00:00Z".parse().expect("a time")));
    foreign.spec.cluster_ref.namespace = Some("ml".to_owned());
    server.put(&foreign);
    let live = answer(&server, "run/gang").await.expect("an answer");
    assert_eq!(
        live.place.map(|place| (place.position, place.of)),
        Some((3, 5)),
        "behind the one of the other namespace"
    );

    server.fail(lists("runs").namespace(""), Fault::Forbidden);
    let live = answer(&server, "run/gang").await.expect("an answer");
    assert_eq!(live.place, None);
    assert!(
        live.not_known[0].starts_with("Cluster nc6 is shared, and you may not list"),
        "{:?}",
        live.not_known
    );
}

#[tokio::test]
async fn a_finished_run_is_explained_by_itself() {
    let server = server("runs_that_ended");
    server.fail(Matching::any().verb(Verb::List), Fault::Forbidden);
    server.fail(Matching::any().resource("clusters"), Fault::Forbidden);
    let live = answer(&server, "run/stubborn").await.expect("an answer");
    assert_eq!(live.text(), from_files("runs_that_ended", "run/stubborn").text());
}

#[tokio::test]
async fn who_may_read_nothing_is_told_which_role_it_takes() {
    let server = server("a_busy_cluster");
    server.fail(Matching::any(), Fault::Forbidden);
    let error = answer(&server, "gang").await.expect_err("nothing is known").to_string();
    assert!(
        error.starts_with("you may not read the Run or Cluster or ClusterNode gang in namespace ml"),
        "{error}"
    );
    assert!(error.ends_with("the role view"), "{error}");
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_what_was_looked_for_and_similar_names() {
    let server = server("a_busy_cluster");
    let error = answer(&server, "gnag").await.expect_err("there is none").to_string();
    assert_eq!(
        error,
        "nothing is named gnag in namespace ml: looked for a Run, a Cluster, a ClusterNode, or one whose Node has that name; \
         similar: run/gang; -n asks in another namespace"
    );
}

#[tokio::test]
async fn a_node_that_has_gone_is_explained_by_its_events() {
    let server = server("a_stock_out");
    let event = |name: &str, reason: &str, note: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ml"},
            "eventTime": "2030-01-01T11:55:00.000000Z", "reason": reason, "note": note,
            "regarding": {"kind": "ClusterNode", "namespace": "ml", "name": "nc6-3f9a1c-2"},
        }))
        .expect("an Event")
    };
    server.put(&event("one", "MachineFailed", "StockOut: none left"));
    let live = answer(&server, "nc6-3f9a1c-2").await.expect("an answer");
    assert_eq!(live.state, "Gone");
    assert_eq!(live.happened, ["2030-01-01T11:55:00Z MachineFailed: StockOut: none left"]);
    server.fail(lists("events"), Fault::Forbidden);
    let live = answer(&server, "nc6-3f9a1c-2").await.expect("an answer");
    assert!(live.not_known[0].starts_with("You may not list events.events.k8s.io"), "{:?}", live.not_known);
}

#[tokio::test]
async fn places_are_exact_however_long_the_queue_is() {
    let server = server("a_busy_cluster");
    let gang: Run = server.get("ml", "gang").expect("it is there");
    for number in 0..700 {
        let mut run = gang.clone();
        run.metadata.name = Some(format!("r{number:03}"));
        run.metadata.uid = Some(format!("r{number:03}-uid"));
        server.put(&run);
    }
    let live = answer(&server, "r612").await.expect("an answer");
    assert_eq!(live.place.map(|place| (place.position, place.of)), Some((615, 704)));
    assert!(server.count(&lists("runs")) > 1, "they are read page by page");
}
