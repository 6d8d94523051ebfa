//! The charts against the program they install: settings, permissions, sizes, CRDs. Rendered by Helm, asked of nobody.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;
use trainyard_e2e::installation::{checkout, operator_binary, render, run};
use trainyard_e2e::rights::{Right, Rights, granted};

/// All objects of a chart. Fails, and says what to build, when there is no Helm.
fn rendered(chart: &str, settings: &[&str]) -> Vec<Value> {
    let text = render(chart, settings).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn every_setting_of_the_deployment_is_one_of_the_operator() {
    let help = run(Command::new(operator_binary().unwrap()).args(["run", "--help"])).unwrap();
    let objects = rendered("trainyard", &[]);
    let [deployment] = of_kind(&objects, "Deployment")[..] else { panic!("one Deployment") };
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let mut set = 0;
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(
            help.contains(&format!("[env: {name}=")),
            "{name} is set, and `trainyard run --help` has no such:\n{help}"
        );
        set += 1;
    }
    assert!(set > 4, "the Deployment sets {set} variables");
    assert_eq!(container["args"], serde_json::json!(["run"]));
    // A value the operator refuses would show only where it is started.
    let mut operator = Command::new(operator_binary().unwrap());
    operator.args(["run", "--help"]);
    for variable in container["env"].as_array().unwrap() {
        if let Some(value) = variable["value"].as_str() {
            operator.env(variable["name"].as_str().unwrap(), value);
        }
    }
    run(&mut operator).unwrap();
}

#[test]
fn probes_and_service_use_ports_that_the_operator_listens_on() {
    let objects = rendered("trainyard", &["--set", "metrics.port=9090"]);
    let [deployment] = of_kind(&objects, "Deployment")[..] else { panic!("one Deployment") };
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let listen = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .find(|variable| variable["name"] == "TRAINYARD_LISTEN")
        .unwrap();
    assert_eq!(listen["value"], "0.0.0.0:9090");
    assert_eq!(container["ports"][0]["containerPort"], 9090);
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], container["ports"][0]["name"]);
    }
    let [service] = of_kind(&objects, "Service")[..] else { panic!("one Service") };
    assert_eq!(service["spec"]["ports"][0]["targetPort"], container["ports"][0]["name"]);
    assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
}

/// What the operator asks of the API server: group, resource, verbs, and what for. That it does ask for it is held by
/// `the_operator_uses_every_right_it_has_and_none_that_it_has_not`.
const USED: [(&str, &str, &str); 25] = [
    // Watched by all controllers; read live before their nodes are taken for orphans; finalizers are patches.
    ("trainyard.dev", "clusters", "get list watch patch"),
    // The same; finished ones that their Experiment does not keep are deleted.
    ("trainyard.dev", "runs", "get list watch patch delete"),
    // Only watched.
    ("trainyard.dev", "provisioningclasses", "list watch"),
    ("trainyard.dev", "vmsizes", "list watch"),
    // Made on first use; one that is there already is read, and one whose old Runs are to be deleted.
    ("trainyard.dev", "experiments", "get list watch create"),
    // Their labels decide who may use a shared Cluster or a class.
    ("", "namespaces", "list watch"),
    // Claims are patches; forgetting is a delete.
    ("trainyard.dev", "clusternodes", "get list watch create patch delete"),
    ("trainyard.dev", "clusters/status", "patch"),
    ("trainyard.dev", "runs/status", "patch"),
    ("trainyard.dev", "clusternodes/status", "patch"),
    ("trainyard.dev", "experiments/status", "patch"),
    ("trainyard.dev", "vmsizes/status", "patch"),
    // Gates and finalizers are patches; a rehearsal is a create.
    ("", "pods", "get list watch create patch delete"),
    // One that is there already is read and pointed at the new attempt; one of an earlier Run of the name is deleted, and that of
    // a finished Run in its time.
    ("", "services", "get list watch create patch delete"),
    // Taken and given back, cordoned, and deleted when they belong to no ClusterNode.
    ("", "nodes", "get list watch patch delete"),
    ("apps", "daemonsets", "list watch"),
    ("karpenter.sh", "nodeclaims", "get list watch create patch delete"),
    ("karpenter.sh", "nodepools", "get"),
    ("karpenter.k8s.aws", "ec2nodeclasses", "get"),
    ("karpenter.k8s.gcp", "gcenodeclasses", "get"),
    ("karpenter.azure.com", "aksnodeclasses", "get"),
    ("karpenter.kwok.sh", "kwoknodeclasses", "get"),
    // Why a machine was refused is said nowhere else; in the namespace `default` only.
    ("", "events", "list watch"),
    ("events.k8s.io", "events", "create patch"),
    // In the operator's own namespace.
    ("coordination.k8s.io", "leases", "get create update"),
];

/// What people may do, by role; `edit` has what `view` has, and `admin` what `edit` has.
const FOR_PEOPLE: [(&str, &str, &str); 10] = [
    ("viewer", "clusters", "get list watch"),
    ("viewer", "clusternodes", "get list watch"),
    ("viewer", "experiments", "get list watch"),
    ("viewer", "runs", "get list watch"),
    ("user", "experiments", "get list watch create update patch delete deletecollection"),
    ("user", "runs", "get list watch create update patch delete deletecollection"),
    ("admin", "clusters", "get list watch create update patch delete deletecollection"),
    // Deleted by hand, a machine is replaced after its runs; everything else in a ClusterNode is the operator's.
    ("admin", "clusternodes", "get list watch delete"),
    ("catalogue-viewer", "provisioningclasses", "get list watch"),
    ("catalogue-viewer", "vmsizes", "get list watch"),
];

fn named<'a>(objects: &[&'a Value], name: &str) -> Vec<&'a Value> {
    objects.iter().copied().filter(|object| object["metadata"]["name"] == name).collect()
}

#[test]
fn the_roles_grant_what_is_used_and_nothing_more() {
    let objects = rendered("trainyard", &[]);
    let role_of = |group: &str, resource: &str| match (group, resource) {
        ("coordination.k8s.io", _) => "trainyard-leader",
        ("", "events") => "trainyard-machine-events",
        _ => "trainyard-operator",
    };
    let used = |role: &str| -> Rights {
        let wanted = USED.iter().filter(|(group, resource, _)| role_of(group, resource) == role);
        wanted.flat_map(|(group, resource, verbs)| Right::several(group, resource, verbs)).collect()
    };
    for (kind, role, namespace) in [
        ("ClusterRole", "trainyard-operator", None),
        ("Role", "trainyard-leader", Some("trainyard-system")),
        ("Role", "trainyard-machine-events", Some("default")),
    ] {
        assert_eq!(granted(&objects, kind, role).unwrap(), used(role), "{role}");
        let [found] = named(&of_kind(&objects, kind), role)[..] else { panic!("one {role}") };
        assert_eq!(found["metadata"]["namespace"].as_str(), namespace, "{role}");
    }
    assert_eq!(of_kind(&objects, "Role").len(), 2);
}

#[test]
fn roles_for_people_grant_what_is_written_and_are_added_to_those_that_exist() {
    let objects = rendered("trainyard", &[]);
    let roles = of_kind(&objects, "ClusterRole");
    for role in ["viewer", "user", "admin", "catalogue-viewer"] {
        let [found] = named(&roles, &format!("trainyard-{role}"))[..] else { panic!("one {role}") };
        let granted = granted(&objects, "ClusterRole", &format!("trainyard-{role}")).unwrap();
        for (of, resource, verbs) in FOR_PEOPLE.iter().filter(|(of, ..)| *of == role) {
            let there: Rights = granted.iter().filter(|right| right.resource == *resource).cloned().collect();
            assert_eq!(there, Right::several("trainyard.dev", resource, verbs), "{of} on {resource}");
        }
        for right in &granted {
            assert_eq!(right.group, "trainyard.dev");
            assert!(!right.resource.contains('/'), "{role} may {right}");
            let writes = !["get", "list", "watch", "delete"].contains(&right.verb.as_str());
            assert!(!writes || right.resource != "clusternodes", "{role} may {right}");
        }
        let added_to: Vec<&str> = ["view", "edit", "admin"]
            .into_iter()
            .filter(|kind| {
                found["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{kind}")]
                    == "true"
            })
            .collect();
        let expected: &[&str] = match role {
            "viewer" => &["view", "edit", "admin"],
            "user" => &["edit", "admin"],
            "admin" => &["admin"],
            _ => &[],
        };
        assert_eq!(added_to, expected, "{role}");
    }
    let bindings = |settings: &[&str]| of_kind(&rendered("trainyard", settings), "ClusterRoleBinding").len();
    assert_eq!(bindings(&[]), 1);
    assert_eq!(bindings(&["--set", "userRoles.catalogueForAll=true"]), 2);
    let without = rendered("trainyard", &["--set", "userRoles.install=false"]);
    assert_eq!(of_kind(&without, "ClusterRole").len(), 1);
}

#[test]
fn roles_are_bound_to_the_account_the_operator_runs_under() {
    for settings in [&[][..], &["--set", "serviceAccount.name=other"][..]] {
        let objects = rendered("trainyard", settings);
        let [account] = of_kind(&objects, "ServiceAccount")[..] else { panic!("one ServiceAccount") };
        let [deployment] = of_kind(&objects, "Deployment")[..] else { panic!("one Deployment") };
        let name = &account["metadata"]["name"];
        assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], *name);
        for (binding, role) in [("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")] {
            let bindings = of_kind(&objects, binding);
            assert!(!bindings.is_empty(), "no {binding}");
            for bound in bindings {
                let bound_to = bound["roleRef"]["name"].as_str().unwrap();
                let [role] = named(&of_kind(&objects, role), bound_to)[..] else { panic!("one {bound_to}") };
                assert_eq!(bound["metadata"]["namespace"], role["metadata"]["namespace"]);
                assert_eq!(bound["roleRef"]["kind"], role["kind"]);
                assert_eq!(bound["subjects"][0]["name"], *name);
                assert_eq!(bound["subjects"][0]["namespace"], "trainyard-system");
            }
        }
    }
}

#[test]
fn all_sizes_are_installed_unless_unwanted() {
    let names = |sizes: Vec<&Value>| -> BTreeSet<String> {
        sizes.iter().map(|size| size["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let shipped: BTreeSet<String> =
        trainyard_api::shipped_vm_sizes().into_iter().filter_map(|size| size.metadata.name).collect();
    let objects = rendered("trainyard", &[]);
    let sizes = of_kind(&objects, "VmSize");
    assert_eq!(sizes.len(), shipped.len());
    assert_eq!(names(sizes), shipped);
    let without = rendered("trainyard", &["--set", "vmSizes.install=false"]);
    assert_eq!(of_kind(&without, "VmSize").len(), 0);
    assert_eq!(without.len(), objects.len() - shipped.len());
}

#[test]
fn the_chart_of_the_crds_has_the_crds_and_keeps_them() {
    let by_name = |objects: Vec<Value>| -> BTreeMap<String, Value> {
        objects.into_iter().map(|crd| (crd["metadata"]["name"].as_str().unwrap().to_owned(), crd)).collect()
    };
    let in_folder: Vec<Value> = fs::read_dir(checkout().join("crds"))
        .unwrap()
        .flat_map(|file| {
            serde_saphyr::from_multiple::<Value>(&fs::read_to_string(file.unwrap().path()).unwrap()).unwrap()
        })
        .collect();
    let (mut installed, expected) = (by_name(rendered("trainyard-crds", &[])), by_name(in_folder));
    assert_eq!(expected.len(), trainyard_api::all_crds().len());
    assert_eq!(installed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, crd) in &mut installed {
        // Or `helm uninstall` would delete every object of the kind.
        let annotations = crd["metadata"].as_object_mut().unwrap().remove("annotations").unwrap();
        assert_eq!(annotations, serde_json::json!({"helm.sh/resource-policy": "keep"}), "{name}");
        assert!(*crd == expected[name], "{name} differs between crds/ and the chart");
    }
}
