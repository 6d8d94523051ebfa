//! Capacity as a vector: what a machine has for runs, and what a claim takes of it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// Most pods that runs may have on one machine, whatever its kubelet takes: each may be a run of its own, and a machine's
/// claims are a list in one object.
pub const MAX_PODS: i64 = 128;

/// An amount of each resource that runs share: never negative.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Processor time, in thousandths of a cpu.
    #[serde(default)]
    #[schemars(range(min = 0, max = schema::INTEGER_MAX))]
    pub cpu_millis: i64,
    /// Memory, in bytes.
    #[serde(default)]
    #[schemars(range(min = 0, max = schema::INTEGER_MAX))]
    pub memory_bytes: i64,
    /// Pods, 0 to 128.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = MAX_PODS))]
    pub pods: i64,
    /// Accelerators by resource name, as `nvidia.com/gpu: 4`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "accelerator_counts")]
    pub accelerators: BTreeMap<String, i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &i64) -> bool {
    *count == 0
}

fn accelerator_counts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 1000},
    })
}

/// A quantity, or a plain number, as Kubernetes takes both.
pub(crate) fn amount(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": 0,
        "maximum": schema::INTEGER_MAX,
        "maxLength": 32,
        "pattern": schema::QUANTITY_PATTERN,
    })
}

/// The whole bytes of a quantity of memory, rounded down; `None` when it is not a quantity of zero or more that fits.
pub fn bytes(quantity: &Quantity) -> Option<i64> {
    i64::try_from(nano(&quantity.0)? / NANO).ok()
}

/// The thousandths of a quantity of cpu, rounded down; `None` when it is not a quantity of zero or more that fits.
pub fn millis(quantity: &Quantity) -> Option<i64> {
    i64::try_from(nano(&quantity.0)? / (NANO / 1000)).ok()
}

/// The whole number of a counted resource, rounded down; `None` when it is not a quantity of zero or more that fits.
pub fn count(quantity: &Quantity) -> Option<i64> {
    bytes(quantity)
}

const NANO: i128 = 1_000_000_000;

/// The quantity times 10⁹, exactly as far as nine decimals go: all forms of Kubernetes, `1e3` and `1E3` included.
fn nano(text: &str) -> Option<i128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.contains('.') {
        return None;
    }
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = format!("{fraction:0<9}").parse().ok()?;
    let base = whole * NANO + fraction;
    let scaled = |factor: i128| base.checked_mul(factor);
    match suffix {
        "" => Some(base),
        "n" => Some(base / 1_000_000_000),
        "u" => Some(base / 1_000_000),
        "m" => Some(base / 1000),
        "k" => scaled(1000),
        "M" => scaled(1_000_000),
        "G" => scaled(NANO),
        "T" => scaled(1000 * NANO),
        "P" => scaled(1_000_000 * NANO),
        "E" => scaled(NANO * NANO),
        "Ki" => scaled(1 << 10),
        "Mi" => scaled(1 << 20),
        "Gi" => scaled(1 << 30),
        "Ti" => scaled(1 << 40),
        "Pi" => scaled(1 << 50),
        "Ei" => scaled(1 << 60),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { Some(base / power) } else { scaled(power) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }

    #[test]
    fn memory_is_read_in_every_unit() {
        for (text, expected) in [
            ("0", 0),
            ("112Gi", 112 << 30),
            ("1.5Ki", 1536),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1E3", 1000),
            ("128974848000m", 128_974_848),
            ("16363868Ki", 16_363_868 << 10),
        ] {
            assert_eq!(bytes(&quantity(text)), Some(expected), "{text}");
        }
    }

    #[test]
    fn cpu_is_read_in_thousandths() {
        for (text, expected) in
            [("6", 6000), ("500m", 500), ("0.1", 100), ("1k", 1_000_000), ("3860m", 3860), ("1500u", 1)]
        {
            assert_eq!(millis(&quantity(text)), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "-1", "Gi", "1.2.3", "1gb", "12 Gi", "1e99", "99999999999999999999", "8Ei"] {
            assert_eq!(bytes(&quantity(text)), None, "{text}");
        }
    }
}
