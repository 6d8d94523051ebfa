//! Which namespaces may use what: the selector of a Cluster and of a ProvisioningClass.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::schema;

/// Namespaces by their labels: those that meet all of it. Empty, it selects every namespace. The label
/// `kubernetes.io/metadata.name`, which Kubernetes sets, has a namespace's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels with exactly these values, at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<LabelCondition>,
}

/// A condition on one label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = values_go_with_the_operator())]
pub struct LabelCondition {
    /// Key of the label.
    #[schemars(schema_with = "schema::qualified_name")]
    pub key: String,
    /// What must be true of it.
    pub operator: LabelOperator,
    /// Values for `In` and `NotIn`, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "values")]
    pub values: Vec<String>,
}

closed_set! {
    /// What must be true of a label.
    #[derive(Default)]
    LabelOperator {
        /// It has one of the values.
        #[default]
        In,
        /// It has none of the values, or is not there.
        NotIn,
        /// It is there.
        Exists,
        /// It is not there.
        DoesNotExist,
    }
}

impl NamespaceSelector {
    /// Whether a namespace with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let Self { match_labels, match_expressions } = self;
        match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && match_expressions.iter().all(|condition| condition.is_met(labels))
    }
}

impl LabelCondition {
    fn is_met(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => found.is_some_and(|value| self.values.contains(value)),
            LabelOperator::NotIn => found.is_none_or(|value| !self.values.contains(value)),
            LabelOperator::Exists => found.is_some(),
            LabelOperator::DoesNotExist => found.is_none(),
        }
    }
}

fn labels(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": schema::label_value(generator),
    })
}

fn values(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": schema::label_value(generator),
        "x-kubernetes-list-type": "atomic",
    })
}

fn values_go_with_the_operator() -> kube::core::Rule {
    kube::core::Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)")
        .message("values must be written for In and NotIn, and for no other operator")
        .field_path(".values")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn selects(selector: Value) -> bool {
        let selector: NamespaceSelector = serde_json::from_value(selector).expect("a selector");
        let labels = [("kubernetes.io/metadata.name", "team-a"), ("tier", "gold")];
        selector.selects(&labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
    }

    #[test]
    fn every_part_must_be_met_and_nothing_is_met_by_all() {
        assert!(selects(json!({})));
        assert!(selects(json!({"matchLabels": {"tier": "gold"}})));
        assert!(!selects(json!({"matchLabels": {"tier": "gold", "other": "x"}})));
        let of = |key: &str, operator: &str, values: Value| {
            selects(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(of("kubernetes.io/metadata.name", "In", json!(["team-b", "team-a"])));
        assert!(!of("kubernetes.io/metadata.name", "In", json!(["team-b"])));
        assert!(!of("missing", "In", json!(["x"])));
        assert!(of("missing", "NotIn", json!(["x"])) && !of("tier", "NotIn", json!(["gold"])));
        assert!(of("tier", "Exists", json!([])) && !of("missing", "Exists", json!([])));
        assert!(of("missing", "DoesNotExist", json!([])) && !of("tier", "DoesNotExist", json!([])));
    }
}
