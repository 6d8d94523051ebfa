//! The table of accepted and refused objects, `api/tests/admission/*.yaml`, against a real API server, every case of it.
//!
//! Requests ask for strict field validation, as kubectl does. The format is described beside the table.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../api/tests/admission/table.rs"]
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use trainyard_api::names::{GROUP, VERSION};
use trainyard_e2e::controlplane::{Component, ControlPlane, Options};
use trainyard_e2e::installation::install_crds;

use table::{Case, Part, Table, tables};

/// Where objects of a kind are served.
struct Place {
    path: String,
}

impl Place {
    fn of(kind: &str) -> Result<Self> {
        let crds = trainyard_api::all_crds();
        let crd =
            crds.iter().find(|crd| crd.spec.names.kind == kind).with_context(|| format!("no kind {kind}"))?;
        let namespace = if crd.spec.scope == "Namespaced" { "/namespaces/default" } else { "" };
        Ok(Self { path: format!("/apis/{GROUP}/{VERSION}{namespace}/{}", crd.spec.names.plural) })
    }
}

/// What the API server answers: the object, or the message of its refusal.
async fn ask(client: &Client, method: Method, path: &str, body: &Value) -> Result<Result<Value, String>> {
    let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}?fieldValidation=Strict"))
        .header(http::header::CONTENT_TYPE, content)
        .body(serde_json::to_vec(body)?)?;
    match client.request::<Value>(request).await {
        Ok(object) => Ok(Ok(object)),
        Err(kube::Error::Api(status)) => Ok(Err(status.message)),
        Err(other) => Err(other.into()),
    }
}

/// Goes through the steps of a case; the last is refused or accepted as the table says, the others are accepted.
async fn judge(client: &Client, place: &Place, table: &Table, case: &Case) -> Result<()> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut base = table.base.clone();
    let is_free_to_name = case.with.as_ref().is_none_or(|with| with.pointer("/metadata/name").is_none());
    // The name of a VmSize follows from its size.
    if is_free_to_name && table.kind != "VmSize" {
        base["metadata"]["name"] = json!(format!("case-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    }
    let object = case.created(&base);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let (at, at_status) = (format!("{}/{name}", place.path), format!("{}/{name}/status", place.path));
    let mut steps = vec![(Method::POST, &place.path, &object)];
    steps.extend(case.changes().map(|(part, patch)| match part {
        Part::Object => (Method::PATCH, &at, patch),
        Part::Status => (Method::PATCH, &at_status, patch),
    }));

    let last = steps.len() - 1;
    let mut verdict = Ok(());
    for (number, (method, path, body)) in steps.into_iter().enumerate() {
        let answer = ask(client, method, path, body).await?;
        verdict = match answer {
            Err(message) if number == last && !case.refused.is_empty() => {
                let missing: Vec<_> = case.refused.iter().filter(|part| !message.contains(*part)).collect();
                if missing.is_empty() {
                    Ok(())
                } else {
                    Err(format!("does not say {missing:?}, but: {message}"))
                }
            }
            Err(message) => Err(format!("step {number} was refused: {message}")),
            Ok(_) if number == last && !case.refused.is_empty() => Err("was accepted".to_owned()),
            Ok(_) => Ok(()),
        };
        if verdict.is_err() {
            break;
        }
    }
    // Left behind, it could be in the way of a case of the same name.
    ask(client, Method::DELETE, &at, &json!({})).await?.ok();
    if let Err(fault) = verdict {
        bail!("{}: {}: {fault}", table.kind, case.name);
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_accepts_and_refuses_as_the_table_says() -> Result<()> {
    let only_the_server =
        Component::ALL.into_iter().filter(|one| !matches!(one, Component::Etcd | Component::ApiServer));
    let options = only_the_server.fold(Options::default(), Options::without);
    let plane = ControlPlane::start(options).await?;
    install_crds(&plane)?;
    let client = plane.client().await?;
    let tables = tables();
    ensure!(tables.len() == trainyard_api::all_crds().len(), "every kind has a table");

    let mut faults = Vec::new();
    let mut cases = 0;
    for table in &tables {
        let served = Place::of(&table.kind)?;
        // Those that name their object themselves may name the same one.
        for case in &table.cases {
            cases += 1;
            if let Err(fault) = judge(&client, &served, table, case).await {
                faults.push(format!("{fault:#}"));
            }
        }
    }
    eprintln!("{cases} cases");
    ensure!(
        faults.is_empty(),
        "{} of {cases} cases are not as the table says:\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}
