//! The steps on the Service of a Run.

use kube::ResourceExt as _;
use serde_json::json;
use trainyard_api::names::FieldManager;
use trainyard_model::run::RunIdentity;

use super::refusal::refused;
use super::{Done, Hands, is_of_earlier_run, is_owned_by};
use crate::controllers::run::observe::{Refusal, Refused};
use crate::kubernetes::apply::{self, Creation, DeleteIf, PatchIf, Seen};
use crate::kubernetes::error::Error;
use crate::kubernetes::read;
use crate::resources::service;

impl Hands {
    /// One that carries the Run's label and is somebody else's stays.
    pub(super) async fn remove_service(&self) -> Result<Done, Error> {
        if let Some(existing) = read::get(&self.services, &self.key.name).await?
            && is_owned_by(&existing.metadata, &self.uid())
        {
            apply::delete(&self.services, &Seen::of(&existing)?, DeleteIf::SameObject, None).await?;
        }
        Ok(Done::ServiceGone)
    }

    pub(super) async fn ensure_service(&self, attempt: i32) -> Result<Done, Error> {
        let run = self.whole()?;
        let id = RunIdentity {
            namespace: run.namespace().unwrap_or_default(),
            name: run.name_any(),
            uid: run.uid().unwrap_or_default(),
        };
        let wanted = service::service(&id, attempt);
        let create = || apply::create(&self.services, &wanted, FieldManager::RunObjects.as_str());
        let mut created = create().await;
        if let Ok(Creation::AlreadyExists(existing)) = &created
            && is_of_earlier_run(&existing.metadata, &id.uid)
        {
            // Its Run is gone, and the garbage collector has not come by yet. A Service goes at once.
            apply::delete(&self.services, &Seen::of(existing)?, DeleteIf::SameObject, None).await?;
            created = create().await;
        }
        let existing = match created {
            Ok(Creation::Created(_)) => return Ok(Done::Service(attempt)),
            Ok(Creation::AlreadyExists(existing)) => existing,
            Err(error) => return refused(&format!("Service {}", id.name), error),
        };
        if !is_owned_by(&existing.metadata, &id.uid) {
            return Ok(Done::Refused(Refusal {
                name: format!("Service {}", id.name),
                why: Refused::NameTaken,
                message: "a Service of that name is there and is not this Run's; delete it, or name the Run otherwise"
                    .to_owned(),
            }));
        }
        let selector = service::selector(&id, attempt);
        let selects = existing.spec.as_ref().and_then(|spec| spec.selector.as_ref()) == Some(&selector);
        let wanted_labels = wanted.metadata.labels.unwrap_or_default();
        // Without its label the watch does not show it.
        let is_labelled =
            wanted_labels.iter().all(|(name, value)| existing.labels().get(name) == Some(value));
        if !selects || !is_labelled {
            let labels = existing.labels().clone().into_iter().chain(wanted_labels);
            let labels: std::collections::BTreeMap<_, _> = labels.collect();
            let operations = json!([
                {"op": "add", "path": "/spec/selector", "value": selector},
                {"op": "add", "path": "/metadata/labels", "value": labels},
            ]);
            // On the version just read: a process that slept must not turn the Service back to an earlier attempt.
            apply::patch(&self.services, &Seen::of(&existing)?, PatchIf::Unchanged, operations).await?;
        }
        Ok(Done::Service(attempt))
    }
}
