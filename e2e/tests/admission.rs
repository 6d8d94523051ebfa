//! The table of accepted and refused objects, `api/tests/admission/*.yaml`, against a real API server, every case of it.
//!
//! Requests ask for strict field validation, as kubectl does. The format is described beside the table.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request};
use kube::Client;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use trainyard_api::names::{GROUP, VERSION};
use trainyard_e2e::controlplane::{Component, ControlPlane, Options};
use trainyard_e2e::installation::{checkout, install_crds};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: String,
    base: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    with: Option<Value>,
    repeat: Option<Repeat>,
    status: Option<Value>,
    then: Option<Value>,
    then_status: Option<Value>,
    #[serde(default)]
    refused: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    at: String,
    times: usize,
    text: Option<String>,
    item: Option<Value>,
    key: Option<String>,
}

impl Repeat {
    fn put_into(&self, object: &mut Value) {
        let item = || self.item.clone().unwrap();
        let value = match (&self.text, &self.key) {
            (Some(text), _) => Value::String(text.repeat(self.times)),
            (None, Some(key)) => {
                Value::Object((0..self.times).map(|i| (format!("{key}{i}"), item())).collect::<Map<_, _>>())
            }
            (None, None) => Value::Array(vec![item(); self.times]),
        };
        let (holder, place) = self.at.rsplit_once('/').unwrap();
        match object.pointer_mut(holder).unwrap() {
            Value::Array(list) => list[place.parse::<usize>().unwrap()] = value,
            Value::Object(map) => drop(map.insert(place.to_owned(), value)),
            other => panic!("{} is no place to put something: {other}", self.at),
        }
    }
}

/// JSON merge patch, RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn tables() -> Result<Vec<Table>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(checkout().join("api/tests/admission"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: &std::path::PathBuf| -> Result<Table> {
        serde_saphyr::from_str(&fs::read_to_string(path)?).with_context(|| path.display().to_string())
    };
    paths.iter().map(read).collect()
}

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
    let mut object = table.base.clone();
    let is_free_to_name = case.with.as_ref().is_none_or(|with| with.pointer("/metadata/name").is_none());
    // The name of a VmSize follows from its size.
    if is_free_to_name && table.kind != "VmSize" {
        object["metadata"]["name"] = json!(format!("case-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    }
    if let Some(with) = &case.with {
        merge(&mut object, with);
    }
    if let Some(repeat) = &case.repeat {
        repeat.put_into(&mut object);
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let (at, at_status) = (format!("{}/{name}", place.path), format!("{}/{name}/status", place.path));
    let mut steps = vec![(Method::POST, &place.path, &object)];
    steps.extend(case.status.iter().map(|patch| (Method::PATCH, &at_status, patch)));
    steps.extend(case.then.iter().map(|patch| (Method::PATCH, &at, patch)));
    steps.extend(case.then_status.iter().map(|patch| (Method::PATCH, &at_status, patch)));

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
    let tables = tables()?;
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
