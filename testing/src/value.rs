//! Small operations on objects as JSON.

use serde_json::{Map, Value};

/// A field of an object's metadata.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a Value {
    &object["metadata"][field]
}

/// A text field of an object's metadata; empty when absent.
pub(crate) fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    meta(object, field).as_str().unwrap_or_default()
}

/// Sets or removes a field of an object's metadata.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: Option<Value>) {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    match value {
        Some(value) => metadata.insert(field.to_owned(), value),
        None => metadata.remove(field),
    };
}

/// Sets or removes a top-level field.
pub(crate) fn set_top(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(object) = object.as_object_mut() else { return };
    match value {
        Some(value) => object.insert(field.to_owned(), value),
        None => object.remove(field),
    };
}

/// The object's finalizers.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    meta(object, "finalizers").as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Removes every field whose value is null, at any depth: absent and null are one on the server.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The value at a dotted path such as `status.phase`, as a field selector compares it; empty when absent.
pub(crate) fn at_path(object: &Value, path: &str) -> String {
    let found = path.split('.').fold(object, |value, field| &value[field]);
    match found {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
