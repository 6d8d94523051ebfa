//! Shapes and rules that several kinds share in their schemas.
//!
//! Every string, list and map of a kind is bounded here or by an attribute on its field: an unbounded one would use up
//! the API server's budget for rules, and a bound cannot be added once objects exist.

use kube::core::{Reason, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};

/// Pattern of a Cluster's, Run's and role's name: Services and hostnames are made from it.
pub const NAME_PATTERN: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// Pattern of a DNS label.
pub const LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Pattern of a DNS subdomain: names of most Kubernetes objects.
pub const SUBDOMAIN_PATTERN: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// Pattern of a label, taint or resource name with an optional domain.
pub const QUALIFIED_PATTERN: &str =
    "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
/// Pattern of a label value.
pub const LABEL_VALUE_PATTERN: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
/// Pattern of a quantity of memory or cpu: a whole or decimal number and a unit.
pub const QUANTITY_PATTERN: &str = "^[0-9]{1,15}(\\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";
/// Largest integer that every JSON reader keeps exactly.
pub const INTEGER_MAX: i64 = 9_007_199_254_740_991;

/// Name of a Cluster or a Run.
pub fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 40, "pattern": NAME_PATTERN})
}

/// Name of an Experiment, and of anything else that must be a DNS label.
pub fn label_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": LABEL_PATTERN})
}

/// Name of an object of Kubernetes.
pub fn object_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN_PATTERN})
}

/// UID of an object.
pub fn uid(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 128})
}

/// A sentence for people.
pub fn message(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 1024})
}

/// A word for programs that is not of a closed set.
pub fn reason(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 128})
}

/// Key of a label, a taint, or name of a resource.
pub fn qualified_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 316, "pattern": QUALIFIED_PATTERN})
}

/// Value of a label or taint.
pub fn label_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 63, "pattern": LABEL_VALUE_PATTERN})
}

/// Name of a zone or region, as the cloud writes it in node labels.
pub fn zone(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": LABEL_VALUE_PATTERN})
}

/// Zones, in order of preference.
pub fn zones(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": zone(generator),
        "x-kubernetes-list-type": "atomic",
    })
}

/// A quantity in the form of Kubernetes.
pub fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 32, "pattern": QUANTITY_PATTERN})
}

/// Quantities by resource name.
pub fn quantities(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 16, "additionalProperties": quantity(generator)})
}

/// Labels that a Node must have: at least one, because all Nodes would include those of the control plane.
pub fn node_selector(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": label_value(generator),
    })
}

/// Environment variables by name.
pub fn environment(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 100,
        "additionalProperties": {"type": "string", "maxLength": 8192},
    })
}

/// Annotations by key.
pub fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 8192},
    })
}

/// A command line, one string for each word.
pub fn words(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "items": {"type": "string", "maxLength": 16384},
        "x-kubernetes-list-type": "atomic",
    })
}

// Rules are evaluated with every write of an object, one of its status included, and they are a good part of what such a
// write costs the API server: for each `self.field` it copies the table of all fields beside it. So rules look at as few
// fields as they can.

/// A rule for the struct that holds `field`: it may be neither added nor removed. Goes with [`fixed`] on the field itself,
/// which is not evaluated when the field comes or goes.
pub fn stays(field: &str, instead: &str) -> Rule {
    Rule::new(format!("has(self.{field}) == has(oldSelf.{field})"))
        .message(format!("{field} cannot be changed: {instead}").as_str())
        .field_path(format!(".{field}"))
        .reason(Reason::FieldValueForbidden)
}

/// A rule for a field: its value cannot be changed.
pub fn fixed(field: &str, instead: &str) -> Rule {
    Rule::new("self == oldSelf")
        .message(format!("{field} cannot be changed: {instead}").as_str())
        .reason(Reason::FieldValueForbidden)
}

/// A rule about fields that cannot be changed: what was true when the object was made stays true, and is not evaluated
/// again.
pub fn at_creation(rule: Rule) -> Rule {
    let text = format!("oldSelf.hasValue() || ({})", rule.rule);
    Rule { rule: text, ..rule }.optional_old_self(true)
}

/// A rule for the root of a Cluster or a Run: its name, from which other names are made.
pub fn short_name(kind: &str) -> Rule {
    let rule =
        Rule::new(format!("self.metadata.name.matches('{NAME_PATTERN}') && size(self.metadata.name) <= 40"));
    at_creation(rule.message(
        format!(
            "the name of a {kind} must start with a letter, end with a letter or digit, have only lower-case letters, \
             digits and '-', and at most 40 characters: hostnames are made from it"
        )
        .as_str(),
    ))
}

/// A rule for a duration that must lie between two others, both in words the reader would write.
pub fn between(least: &str, most: &str) -> Rule {
    Rule::new(format!(
        "self.matches('{}') && duration(self) >= duration('{least}') && duration(self) <= duration('{most}')",
        crate::duration::PATTERN
    ))
    .message(
        format!("must be a duration from {least} to {most}, in hours, minutes and seconds: 90s, 20m, 1h30m")
            .as_str(),
    )
}
