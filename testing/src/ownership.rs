//! Server-side apply: who owns which field, kept in `metadata.managedFields` as the real server keeps it.
//!
//! A field set is a tree of path elements (`f:name`, `k:{"type":"Ready"}`), a leaf being an empty object. Lists whose
//! keys are known merge item by item; all other lists are one value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{
    path::Endpoint,
    value::{meta, set_meta},
};

/// A path through an object: field names and item keys, written as in `fieldsV1`.
pub(crate) type Path = Vec<String>;
pub(crate) type ListKeys = BTreeMap<String, Vec<String>>;

/// Whose claim on fields, made how, on which part of the object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub manager: String,
    pub operation: &'static str,
    pub subresource: &'static str,
}

impl Owner {
    pub fn applier(manager: &str, endpoint: Endpoint) -> Self {
        Self { manager: manager.to_owned(), operation: "Apply", subresource: subresource(endpoint) }
    }

    pub fn updater(manager: &str, endpoint: Endpoint) -> Self {
        Self { manager: manager.to_owned(), operation: "Update", subresource: subresource(endpoint) }
    }
}

fn subresource(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Main => "",
        Endpoint::Status => "status",
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ownership(pub BTreeMap<Owner, BTreeSet<Path>>);

/// Metadata that the server manages; nobody owns it.
const UNOWNED: [&str; 11] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
    "managedFields",
    "selfLink",
];

/// The part of an object that can be owned.
pub(crate) fn ownable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| !UNOWNED.contains(&name.as_str()));
            if metadata.is_empty() {
                fields.remove("metadata");
            }
        }
    }
    object
}

/// The path element of an item, if its list merges by keys and the item has them.
fn item_element(list: &str, item: &Value, keys: &ListKeys) -> Option<String> {
    if list == "finalizers" {
        return Some(format!("v:{item}"));
    }
    let mut found = Map::new();
    for key in keys.get(list)? {
        found.insert(key.clone(), item.get(key)?.clone());
    }
    Some(format!("k:{}", Value::Object(found)))
}

/// The items of a list by their elements, if all of them have one and no two the same.
fn items<'a>(list: &str, values: &'a [Value], keys: &ListKeys) -> Option<Vec<(String, &'a Value)>> {
    let items: Option<Vec<_>> =
        values.iter().map(|item| item_element(list, item, keys).map(|element| (element, item))).collect();
    let items = items?;
    let distinct: BTreeSet<&String> = items.iter().map(|(element, _)| element).collect();
    (distinct.len() == items.len() && !items.is_empty()).then_some(items)
}

/// The leaves of a value with their paths.
pub(crate) fn leaves(value: &Value, keys: &ListKeys) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    collect(value, "", &mut Vec::new(), keys, &mut found);
    found
}

fn collect(value: &Value, field: &str, path: &mut Path, keys: &ListKeys, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(format!("f:{name}"));
                collect(value, name, path, keys, found);
                path.pop();
            }
        }
        Value::Array(values) => match items(field, values, keys) {
            Some(items) => {
                for (element, item) in items {
                    path.push(element);
                    collect(item, "", path, keys, found);
                    path.pop();
                }
            }
            None => {
                found.insert(path.clone(), value.clone());
            }
        },
        _ => {
            // The empty object at the root is no field.
            if !path.is_empty() {
                found.insert(path.clone(), value.clone());
            }
        }
    }
}

/// Puts `patch` into `target`: objects and keyed lists item by item, all else whole.
pub(crate) fn merge_owned(target: &mut Value, patch: &Value, field: &str, keys: &ListKeys) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                match target.get_mut(name) {
                    Some(present) => merge_owned(present, value, name, keys),
                    None => {
                        target.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if items(field, patch, keys).is_some() => {
            for item in patch {
                let element = item_element(field, item, keys);
                match target.iter_mut().find(|present| item_element(field, present, keys) == element) {
                    Some(present) => merge_owned(present, item, "", keys),
                    None => target.push(item.clone()),
                }
            }
        }
        // No item of a keyed list is a wish about none of its items.
        (Value::Array(_), Value::Array(patch)) if patch.is_empty() && keys.contains_key(field) => {}
        (target, patch) => *target = patch.clone(),
    }
}

/// Removes the value at `path`, and containers that this leaves empty.
pub(crate) fn remove_at(value: &mut Value, path: &[String], field: &str, keys: &ListKeys) {
    let Some((first, rest)) = path.split_first() else { return };
    match value {
        Value::Object(fields) => {
            let Some(name) = first.strip_prefix("f:") else { return };
            if rest.is_empty() {
                fields.remove(name);
            } else if let Some(inner) = fields.get_mut(name) {
                remove_at(inner, rest, name, keys);
                if is_empty(inner) {
                    fields.remove(name);
                }
            }
        }
        Value::Array(values) => {
            let position =
                values.iter().position(|item| item_element(field, item, keys).as_ref() == Some(first));
            let Some(index) = position else { return };
            if let Some(inner) = values.get_mut(index) {
                remove_at(inner, rest, "", keys);
                if rest.is_empty() || is_empty(inner) {
                    values.remove(index);
                }
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

impl Ownership {
    /// Reads what an object says about its owners.
    pub fn of(object: &Value) -> Self {
        let mut owners = BTreeMap::new();
        for entry in meta(object, "managedFields").as_array().into_iter().flatten() {
            let owner = Owner {
                manager: entry["manager"].as_str().unwrap_or_default().to_owned(),
                operation: if entry["operation"] == "Apply" { "Apply" } else { "Update" },
                subresource: if entry["subresource"] == "status" { "status" } else { "" },
            };
            let mut paths = BTreeSet::new();
            paths_of(&entry["fieldsV1"], &mut Vec::new(), &mut paths);
            owners.insert(owner, paths);
        }
        Self(owners)
    }

    /// Writes the owners into the object.
    pub fn write(&self, object: &mut Value) {
        let api_version = object["apiVersion"].clone();
        let entries: Vec<Value> = self
            .0
            .iter()
            .filter(|(_, paths)| !paths.is_empty())
            .map(|(owner, paths)| {
                let mut entry = json!({
                    "manager": owner.manager,
                    "operation": owner.operation,
                    "apiVersion": api_version,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": tree_of(paths),
                });
                if !owner.subresource.is_empty() {
                    entry["subresource"] = json!(owner.subresource);
                }
                entry
            })
            .collect();
        set_meta(object, "managedFields", (!entries.is_empty()).then_some(Value::Array(entries)));
    }

    /// Gives `owner` what a plain write changed, and takes it from everyone else.
    pub fn record_update(&mut self, owner: &Owner, before: &Value, after: &Value, keys: &ListKeys) {
        let (before, after) = (leaves(&ownable(before), keys), leaves(&ownable(after), keys));
        let gone: BTreeSet<&Path> = before.keys().filter(|path| !after.contains_key(*path)).collect();
        let changed: BTreeSet<&Path> = after
            .iter()
            .filter(|(path, value)| before.get(*path) != Some(value))
            .map(|(path, _)| path)
            .collect();
        for (other, paths) in &mut self.0 {
            paths.retain(|path| !gone.contains(path) && (other == owner || !changed.contains(path)));
        }
        self.0.entry(owner.clone()).or_default().extend(changed.into_iter().cloned());
        self.0.retain(|_, paths| !paths.is_empty());
    }

    /// Owners other than `owner` of fields whose value an apply would change.
    pub fn conflicts(
        &self,
        owner: &Owner,
        current: &BTreeMap<Path, Value>,
        wanted: &BTreeMap<Path, Value>,
    ) -> Vec<(String, Path)> {
        let mut found = Vec::new();
        for (other, paths) in self.0.iter().filter(|(other, _)| *other != owner) {
            for path in paths {
                if wanted.get(path).is_some_and(|value| current.get(path) != Some(value)) {
                    found.push((other.manager.clone(), path.clone()));
                }
            }
        }
        found
    }
}

fn paths_of(tree: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    let Some(fields) = tree.as_object() else { return };
    if fields.is_empty() && !path.is_empty() {
        found.insert(path.clone());
    }
    for (element, inner) in fields {
        path.push(element.clone());
        paths_of(inner, path, found);
        path.pop();
    }
}

fn tree_of(paths: &BTreeSet<Path>) -> Value {
    let mut tree = Value::Object(Map::new());
    for path in paths {
        let mut place = &mut tree;
        for element in path {
            place = &mut place[element.as_str()];
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
        }
    }
    tree
}

/// A path as the real server prints it in a conflict.
pub(crate) fn printed(path: &Path) -> String {
    path.iter()
        .map(|element| match element.split_once(':') {
            Some(("f", name)) => format!(".{name}"),
            Some((_, key)) => format!("[{key}]"),
            None => element.clone(),
        })
        .collect()
}
