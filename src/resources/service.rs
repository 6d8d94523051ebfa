//! The headless Service of a Run.
//!
//! It has the Run's name, which is the pods' subdomain, and selects the pods of one attempt only: hosts of an earlier
//! attempt whose pods are still there must not be found. Names resolve before pods are ready, because processes look
//! for each other while they start.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trainyard_api::names::labels;
use trainyard_model::run::RunIdentity;

/// The Service of the Run, selecting the pods of `attempt`.
pub fn service(run: &RunIdentity, attempt: i32) -> Service {
    let labels = BTreeMap::from([
        (labels::RUN.to_owned(), run.name.clone()),
        (labels::RUN_UID.to_owned(), run.uid.clone()),
    ]);
    Service {
        metadata: ObjectMeta {
            name: Some(run.name.clone()),
            namespace: Some(run.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![super::owner(run)]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(run, attempt)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// What the Service selects: pods of this Run, by UID, and of this attempt.
pub fn selector(run: &RunIdentity, attempt: i32) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::RUN_UID.to_owned(), run.uid.clone()),
        (labels::ATTEMPT.to_owned(), attempt.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_headless_names_unready_pods_and_selects_one_attempt() {
        let run = RunIdentity { namespace: "ml".into(), name: "r1".into(), uid: "u1".into() };
        let text = serde_json::to_string_pretty(&service(&run, 3)).expect("an object is JSON");
        assert_eq!(text + "\n", include_str!("goldens/service.json"));
    }
}
