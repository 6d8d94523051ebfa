//! People: everybody tries every verb on every kind, and is let do what their role grants, and nothing else.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::client::{Body, Client};
use serde_json::{Value, json};
use trainyard_api::names::API_VERSION;
use trainyard_e2e::controlplane::{Component, ControlPlane, Options, eventually};
use trainyard_e2e::installation::{install, kubectl_with_input};
use trainyard_e2e::rights::{Right, Rights, chart_objects, granted, used};
use trainyard_e2e::stories::PATIENCE;

const GROUP: &str = "trainyard.dev";
/// Where the roles are bound.
const SPACE: &str = "theirs";
/// The object that everything is tried on, and the one that is created.
const THERE: &str = "there";
const NEW: &str = "new";
const VERBS: &str = "get list watch create update patch delete deletecollection";
const VERBS_OF_STATUS: &str = "get update patch";

/// Somebody with one role.
struct Person {
    role: String,
    may: Rights,
}

impl Person {
    fn name(&self) -> String {
        format!("somebody-with-{}", self.role)
    }
}

/// A kind, and an object of it that the API server takes.
struct Kind {
    plural: String,
    namespaced: bool,
    status: bool,
    object: Value,
}

impl Kind {
    fn path(&self, name: &str) -> String {
        let space = if self.namespaced { format!("namespaces/{SPACE}/") } else { String::new() };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("/apis/{API_VERSION}/{space}{}{name}", self.plural)
    }

    fn named(&self, name: &str) -> Value {
        let mut object = self.object.clone();
        object["metadata"] = json!({"name": name});
        object
    }
}

/// Every kind there is a CRD of.
fn kinds() -> Result<Vec<Kind>> {
    let claim = json!({"nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"},
                       "instanceType": "Any", "capacityType": "on-demand", "requests": {"cpu": "1"}});
    let mut specs = BTreeMap::from([
        ("Cluster", json!({"vmSize": "Standard_D4s_v5", "scale": {"maxNodes": 1}})),
        ("Run", json!({"clusterRef": {"name": "pool"}, "container": {"image": "registry.example/train:1"}})),
        ("Experiment", json!({})),
        ("ProvisioningClass", json!({"static": {"nodeSelector": {"example.org/pool": "lab"}}})),
        ("VmSize", json!({"sizeName": "there", "family": "any", "vcpus": 1, "memory": "1Gi"})),
        (
            "ClusterNode",
            json!({
                "cluster": {"name": "pool", "uid": "0"}, "ordinal": 1, "engine": {"karpenter": claim},
                "vmSize": {"sizeName": "Any", "vcpus": 1, "memory": "1Gi"},
                "taint": {"key": "trainyard.dev/cluster", "value": "pool", "effect": "NoSchedule"},
            }),
        ),
    ]);
    let of_crd = |crd: CustomResourceDefinition| {
        let kind = crd.spec.names.kind;
        let spec = specs.remove(kind.as_str()).with_context(|| format!("there is no example of a {kind}"))?;
        let subresources = crd.spec.versions.into_iter().next().and_then(|version| version.subresources);
        Ok(Kind {
            plural: crd.spec.names.plural,
            namespaced: crd.spec.scope == "Namespaced",
            status: subresources.is_some_and(|subresources| subresources.status.is_some()),
            object: json!({"apiVersion": API_VERSION, "kind": kind, "spec": spec}),
        })
    };
    trainyard_api::all_crds().into_iter().map(of_crd).collect()
}

#[tokio::test]
async fn people_may_do_what_their_role_grants_and_nothing_else() -> Result<()> {
    // Nobody acts here but they: no operator, and of the control plane what makes `view`, `edit` and `admin` whole.
    let idle = [Component::Karpenter, Component::Kwok, Component::Scheduler];
    let plane = ControlPlane::start(idle.into_iter().fold(Options::default(), Options::without)).await?;
    install(&plane).await?;
    apply(&plane, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}))?;
    let people = people()?;
    for person in &people {
        bind(&plane, person)?;
    }
    let admin = plane.client().await?;
    for person in &people {
        is_in_force(&admin, person).await?;
    }

    let kinds = kinds()?;
    let start = plane.audit_mark().await?;
    for person in &people {
        let client = plane.client_as(&person.name()).await?;
        for kind in &kinds {
            for right in tried_on(kind) {
                let code = attempt(&admin, &client, kind, &right).await?;
                let expected = person.may.contains(&right);
                ensure!(
                    (code < 300) == expected && (code == 403) != expected,
                    "{} and {right}: {code}",
                    person.role
                );
            }
        }
        let elsewhere = format!("/apis/{API_VERSION}/namespaces/default/runs");
        ensure!(send(&client, "GET", &elsewhere, None).await? == 403, "{} looks elsewhere", person.role);
    }
    plane.audit_mark().await?;

    // The answers are as wanted; the log has whose doing each was.
    let tried: Rights = kinds.iter().flat_map(tried_on).collect();
    let events = plane.audit_log()?.since(start)?;
    for person in &people {
        let (role, name) = (&person.role, person.name());
        let (refused, allowed): (Vec<_>, Vec<_>) =
            events.iter().filter(|event| event.user == name).partition(|event| event.forbidden);
        let by_role = format!(r#" of ClusterRole "{role}" to User "{name}""#);
        let by_others = allowed.iter().find(|event| !event.allowed_by.contains(&by_role));
        ensure!(by_others.is_none(), "{role} may do by others: {by_others:#?}");
        let (allowed, refused) = (used(allowed), used(refused));
        ensure!(allowed == person.may, "{role} used {allowed:?}\nand is granted {:?}", person.may);
        let missed: Vec<_> = tried.difference(&person.may).filter(|right| !refused.contains(right)).collect();
        ensure!(missed.is_empty(), "{role} was not refused {missed:?}");
    }
    Ok(())
}

/// The chart's roles, and those of every cluster that it adds to.
fn people() -> Result<Vec<Person>> {
    let objects = chart_objects()?;
    let mut people = Vec::new();
    for role in ["viewer", "user", "admin", "catalogue-viewer"].map(|role| format!("trainyard-{role}")) {
        people.push(Person { may: granted(&objects, "ClusterRole", &role)?, role });
    }
    for role in ["view", "edit", "admin"] {
        let adds = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
        let mut may = Rights::new();
        for added in objects.iter().filter(|object| object["metadata"]["labels"][&adds] == "true") {
            may.extend(granted(&objects, "ClusterRole", added["metadata"]["name"].as_str().unwrap())?);
        }
        ensure!(!may.is_empty(), "the chart adds nothing to {role}");
        people.push(Person { role: role.to_owned(), may });
    }
    Ok(people)
}

fn apply(plane: &ControlPlane, object: &Value) -> Result<()> {
    kubectl_with_input(plane, &["apply", "-f", "-"], &object.to_string()).map(drop)
}

/// Gives somebody the role, in the one namespace; kinds of no namespace can only be granted everywhere.
fn bind(plane: &ControlPlane, person: &Person) -> Result<()> {
    let everywhere = person.role.ends_with("catalogue-viewer");
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": if everywhere { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": {"name": person.role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": person.role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person.name()}],
    });
    if !everywhere {
        binding["metadata"]["namespace"] = json!(SPACE);
    }
    apply(plane, &binding)
}

/// Waits until the API server, asked by the administrator, says that all of it is granted.
async fn is_in_force(admin: &Client, person: &Person) -> Result<()> {
    let reviews: Api<SubjectAccessReview> = Api::all(admin.clone());
    eventually(&format!("role {} to be in force", person.role), PATIENCE, || async {
        for right in &person.may {
            let question =
                serde_json::from_value(json!({"spec": {"user": person.name(), "resourceAttributes": {
                    "group": right.group, "resource": right.resource, "verb": right.verb, "namespace": SPACE,
                }}}))?;
            let answer = reviews.create(&PostParams::default(), &question).await?;
            ensure!(answer.status.is_some_and(|status| status.allowed), "not yet {right}");
        }
        Ok(())
    })
    .await
}

/// All that anybody could be granted on a kind.
fn tried_on(kind: &Kind) -> Rights {
    let mut rights = Right::several(GROUP, &kind.plural, VERBS);
    if kind.status {
        rights.extend(Right::several(GROUP, &format!("{}/status", kind.plural), VERBS_OF_STATUS));
    }
    rights
}

/// Somebody tries it on an object that is there, or creates one that is not; answers the HTTP status.
async fn attempt(admin: &Client, client: &Client, kind: &Kind, right: &Right) -> Result<u16> {
    let collection = kind.path("");
    let made = send(admin, "POST", &collection, Some(&kind.named(THERE))).await?;
    ensure!(made == 201 || made == 409, "an example of {} is not taken: {made}", kind.plural);
    let mut path = kind.path(THERE);
    if right.resource.ends_with("/status") {
        path.push_str("/status");
    }
    let nothing = json!({"metadata": {"annotations": {"example.org/tried": "yes"}}});
    let code = match right.verb.as_str() {
        "get" => send(client, "GET", &path, None).await?,
        "list" => send(client, "GET", &collection, None).await?,
        "watch" => send(client, "GET", &format!("{collection}?watch=1&timeoutSeconds=1"), None).await?,
        "create" => send(client, "POST", &collection, Some(&kind.named(NEW))).await?,
        "update" => {
            let stored: Value = admin.request(Request::get(kind.path(THERE)).body(Vec::new())?).await?;
            send(client, "PUT", &path, Some(&stored)).await?
        }
        "patch" => send(client, "PATCH", &path, Some(&nothing)).await?,
        "delete" => send(client, "DELETE", &path, None).await?,
        "deletecollection" => {
            send(client, "DELETE", &format!("{collection}?labelSelector=example.org/none"), None).await?
        }
        other => bail!("nobody knows how to {other}"),
    };
    if right.verb == "create" && code == 201 {
        send(admin, "DELETE", &kind.path(NEW), None).await?;
    }
    Ok(code)
}

async fn send(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<u16> {
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("Content-Type", content);
    Ok(client.send(request.body(Body::from(bytes))?).await?.status().as_u16())
}
