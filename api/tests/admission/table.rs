//! The reader of the table of accepted and refused objects; `README.md` beside this file describes its format.
//!
//! Part of two tests: `api/tests/admission.rs` gives the cases to the rules of the schemas, `e2e/tests/admission.rs`
//! to an API server.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The cases of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub kind: String,
    /// The object that every case changes.
    pub base: Value,
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    #[serde(rename = "case")]
    pub name: String,
    /// What is merged into the base.
    pub with: Option<Value>,
    repeat: Option<Repeat>,
    status: Option<Value>,
    then: Option<Value>,
    then_status: Option<Value>,
    /// Parts of the message with which the last step is refused; empty when it is accepted.
    #[serde(default)]
    pub refused: Vec<String>,
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

/// What a change is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Object,
    Status,
}

/// All tables, in the order of their files.
pub fn tables() -> Vec<Table> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut paths: Vec<_> = fs::read_dir(checkout.join("api/tests/admission"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            serde_saphyr::from_str(&fs::read_to_string(path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

impl Case {
    /// The object as it is created.
    pub fn created(&self, base: &Value) -> Value {
        let mut object = base.clone();
        if let Some(patch) = &self.with {
            merge(&mut object, patch);
        }
        if let Some(repeat) = &self.repeat {
            repeat.put_into(&mut object);
        }
        object
    }

    /// What is merged into it afterwards, one after the other.
    pub fn changes(&self) -> impl Iterator<Item = (Part, &Value)> {
        [(Part::Status, &self.status), (Part::Object, &self.then), (Part::Status, &self.then_status)]
            .into_iter()
            .filter_map(|(part, patch)| Some((part, patch.as_ref()?)))
    }
}

/// JSON merge patch, RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
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

impl Repeat {
    fn put_into(&self, object: &mut Value) {
        let item = || self.item.clone().unwrap();
        let value = match (&self.text, &self.key) {
            (Some(text), None) => Value::String(text.repeat(self.times)),
            (None, Some(key)) => {
                Value::Object((0..self.times).map(|i| (format!("{key}{i}"), item())).collect::<Map<_, _>>())
            }
            (None, None) => Value::Array(vec![item(); self.times]),
            (Some(_), Some(_)) => panic!("text and key exclude each other"),
        };
        let (holder, place) = self.at.rsplit_once('/').unwrap();
        match object.pointer_mut(holder).unwrap() {
            Value::Array(list) => list[place.parse::<usize>().unwrap()] = value,
            Value::Object(map) => drop(map.insert(place.to_owned(), value)),
            other => panic!("{} is no place to put something: {other}", self.at),
        }
    }
}
