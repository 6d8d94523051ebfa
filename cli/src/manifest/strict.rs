//! What an API server would refuse of an object, as far as the schemas of the CRDs tell: unknown and missing fields,
//! wrong types, values out of bounds, words outside a closed set.
//!
//! Rules between fields (CEL) are not evaluated here, but for the one that a plan could not be made without. The status
//! is not checked: an API server wrote it, maybe one of a newer version.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use regex::Regex;
use serde_json::{Map, Value};

/// A field that is not as it must be.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its path, such as `spec.scale.maxNodes`.
    pub field: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// The schema of each kind.
pub struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Those of the CRDs this program was built with.
    pub fn of_this_version() -> Self {
        let schemas = trainyard_api::all_crds().into_iter().filter_map(|crd| {
            let schema = crd.spec.versions.into_iter().next()?.schema?.open_api_v3_schema?;
            Some((crd.spec.names.kind, serde_json::to_value(schema).ok()?))
        });
        Self(schemas.collect())
    }

    /// The first thing an API server would refuse.
    pub fn first_fault(&self, kind: &str, object: &Value) -> Option<Fault> {
        let schema = self.0.get(kind)?;
        metadata_fault(kind, &object["metadata"])
            .or_else(|| top_level_fault(object))
            .or_else(|| match &object["spec"] {
                Value::Null if kind == "Experiment" => None,
                spec => value_fault(&schema["properties"]["spec"], spec, "spec"),
            })
            .or_else(|| min_above_max(kind, &object["spec"]["scale"]))
    }
}

/// `Some`, because every caller's answer is one or none.
#[allow(clippy::unnecessary_wraps)]
fn fault(field: impl Into<String>, message: impl Into<String>) -> Option<Fault> {
    Some(Fault { field: field.into(), message: message.into() })
}

fn top_level_fault(object: &Value) -> Option<Fault> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let unknown = object.as_object()?.keys().find(|key| !known.contains(&key.as_str()))?;
    fault(unknown, format!("unknown field, expected one of {}", known.join(", ")))
}

fn metadata_fault(kind: &str, metadata: &Value) -> Option<Fault> {
    let Some(fields) = metadata.as_object() else {
        return fault("metadata", "missing, expected at least metadata.name");
    };
    let read: ObjectMeta = match serde_path_to_error::deserialize(metadata.clone()) {
        Ok(read) => read,
        Err(error) => return fault(format!("metadata.{}", error.path()), error.inner().to_string()),
    };
    let known: Map<String, Value> =
        serde_json::to_value(&read).ok().and_then(|value| value.as_object().cloned()).unwrap_or_default();
    if let Some((unknown, _)) =
        fields.iter().find(|(key, value)| !value.is_null() && !known.contains_key(*key))
    {
        return fault(format!("metadata.{unknown}"), "unknown field");
    }
    match (&read.name, &read.generate_name) {
        (None, None) => fault("metadata.name", "missing"),
        (Some(name), _) if matches!(kind, "Cluster" | "Run") && !is_short_name(name) => fault(
            "metadata.name",
            format!(
                "is {name:?}, expected at most 40 characters: a lower-case letter, then letters, digits and dashes, \
                 and no dash at the end"
            ),
        ),
        _ => None,
    }
}

/// The form of the names that Services and host names are made from.
fn is_short_name(name: &str) -> bool {
    name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn min_above_max(kind: &str, scale: &Value) -> Option<Fault> {
    let (min, max) = (scale["minNodes"].as_i64()?, scale["maxNodes"].as_i64()?);
    if kind != "Cluster" || min <= max {
        return None;
    }
    fault("spec.scale.minNodes", format!("is {min}, expected at most maxNodes, which is {max}"))
}

fn value_fault(schema: &Value, value: &Value, path: &str) -> Option<Fault> {
    let of_type = schema["type"].as_str().unwrap_or_default();
    let fits = match of_type {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    if value.is_null() {
        return fault(path, "missing");
    }
    if !fits {
        return fault(path, format!("is {value}, expected {}", article(of_type)));
    }
    match value {
        Value::Object(fields) => fields_fault(schema, fields, path),
        Value::Array(items) => length_fault(schema, items.len(), ("minItems", "maxItems"), "items", path)
            .or_else(|| {
                let item = |(at, item)| value_fault(&schema["items"], item, &format!("{path}[{at}]"));
                items.iter().enumerate().find_map(item)
            }),
        Value::String(text) => text_fault(schema, text, path),
        Value::Number(number) => {
            let number = number.as_f64()?;
            let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
            let outside = least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most);
            outside.then(|| Fault {
                field: path.to_owned(),
                message: format!("is {number}, expected {}", range(least, most)),
            })
        }
        Value::Bool(_) | Value::Null => None,
    }
}

fn fields_fault(schema: &Value, fields: &Map<String, Value>, path: &str) -> Option<Fault> {
    let below = |key: &str| format!("{path}.{key}");
    if let Some(of_each) = schema.get("additionalProperties") {
        return length_fault(schema, fields.len(), ("minProperties", "maxProperties"), "entries", path)
            .or_else(|| fields.iter().find_map(|(key, value)| value_fault(of_each, value, &below(key))));
    }
    let known = schema["properties"].as_object()?;
    if let Some(unknown) = fields.keys().find(|key| !known.contains_key(*key)) {
        let known: Vec<&str> = known.keys().map(String::as_str).collect();
        return fault(below(unknown), format!("unknown field, expected one of {}", known.join(", ")));
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for key in required {
        if fields.get(key).is_none_or(Value::is_null) {
            return fault(below(key), "missing");
        }
    }
    // An API server takes a null for a field that is not there.
    fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .find_map(|(key, value)| value_fault(&known[key], value, &below(key)))
}

fn text_fault(schema: &Value, text: &str, path: &str) -> Option<Fault> {
    let words: Vec<&str> =
        schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !words.is_empty() && !words.contains(&text) {
        return fault(path, format!("is {text:?}, expected one of {}", words.join(", ")));
    }
    if let Some(found) =
        length_fault(schema, text.chars().count(), ("minLength", "maxLength"), "characters", path)
    {
        return Some(found);
    }
    let pattern = schema["pattern"].as_str()?;
    // A pattern that this engine does not know is the API server's to judge.
    let fits = Regex::new(pattern).map_or(true, |pattern| pattern.is_match(text));
    if fits { None } else { fault(path, format!("is {text:?}, expected something that matches {pattern}")) }
}

fn length_fault(
    schema: &Value,
    length: usize,
    (least, most): (&str, &str),
    what: &str,
    path: &str,
) -> Option<Fault> {
    let (least, most) = (schema[least].as_f64(), schema[most].as_f64());
    let length = length as f64;
    let outside = least.is_some_and(|least| length < least) || most.is_some_and(|most| length > most);
    outside.then(|| Fault {
        field: path.to_owned(),
        message: format!("has {length} {what}, expected {}", range(least, most)),
    })
}

fn range(least: Option<f64>, most: Option<f64>) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "another value".to_owned(),
    }
}

fn article(of_type: &str) -> &'static str {
    match of_type {
        "object" => "a map of fields",
        "array" => "a list",
        "string" => "a text: put it in quotes",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}
