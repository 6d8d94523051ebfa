//! Steps on the pods of a Run.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::json;
use trainyard_api::names::{FieldManager, Finalizer, START_GATE, labels};

use super::refusal::{overhead, refusal, refused};
use super::{AT_ONCE, Done, Hands, is_of_earlier_run, is_owned_by, removal};
use crate::controllers::run::facts::PodFacts;
use crate::controllers::run::observe::{Refusal, Refused, Rehearsal};
use crate::kubernetes::apply::{self, Creation, DeleteIf, Deletion, PatchIf, Seen};
use crate::kubernetes::error::{Error, ErrorKind};
use crate::kubernetes::read::{self, Selection};

/// How the API server's internal error begins when a webhook with `failurePolicy: Fail` gives no answer; it has no reason of its own.
const WEBHOOK_IS_SILENT: &str = "failed calling webhook";

impl Hands {
    pub(super) async fn rehearse(&self, pods: &[Pod]) -> Result<Done, Error> {
        let mut cannot_tell = None;
        for pod in pods {
            let error = match apply::rehearse_create(&self.pods, pod, FieldManager::RunPods.as_str()).await {
                Ok(taken) => match overhead(&taken) {
                    None => continue,
                    Some(message) => {
                        let (name, why) = (pod.name_any(), Refused::Policy);
                        return Ok(Done::Rehearsed(Rehearsal::Refused(Refusal { name, why, message })));
                    }
                },
                Err(error) => error,
            };
            if error.kind() == ErrorKind::AlreadyExists
                && let Some(existing) = read::get(&self.pods, &pod.name_any()).await?
                && let Some(leftover) = self.leftover(&existing)
            {
                return Ok(leftover);
            }
            let said = error.server_message().unwrap_or_default().to_owned();
            if said.contains("does not support dry run") {
                cannot_tell = Some(said);
                continue;
            }
            if said.contains(WEBHOOK_IS_SILENT) {
                return Ok(Done::Rehearsed(Rehearsal::NoAnswer(said)));
            }
            let why = match error.kind() {
                ErrorKind::AlreadyExists => Refused::NameTaken,
                _ => match refusal(&error) {
                    Some(why) => why,
                    None => return Err(error),
                },
            };
            return Ok(Done::Rehearsed(Rehearsal::Refused(Refusal {
                name: pod.name_any(),
                why,
                message: said,
            })));
        }
        Ok(Done::Rehearsed(cannot_tell.map_or(Rehearsal::Taken, Rehearsal::CannotTell)))
    }

    pub(super) async fn create_pod(&self, pod: &Pod) -> Result<Done, Error> {
        let name = pod.name_any();
        let taken = || {
            let message =
                "a pod of that name is there and is not this attempt's; delete it, or name the Run otherwise";
            Done::Refused(Refusal {
                name: format!("Pod {name}"),
                why: Refused::NameTaken,
                message: message.to_owned(),
            })
        };
        match apply::create(&self.pods, pod, FieldManager::RunPods.as_str()).await {
            Ok(Creation::Created(created)) => {
                Ok(PodFacts::of(&created).map_or_else(taken, |facts| Done::Created(Box::new(facts))))
            }
            // Ours from an answer that was lost, or that the cache does not show yet: a pod counts by label and owner.
            Ok(Creation::AlreadyExists(existing)) => {
                if let Some(leftover) = self.leftover(&existing) {
                    return Ok(leftover);
                }
                let ours = PodFacts::of(&existing).filter(|facts| {
                    facts.labelled
                        && is_owned_by(&existing.metadata, &self.uid())
                        && existing.labels().get(labels::ATTEMPT) == pod.labels().get(labels::ATTEMPT)
                });
                Ok(ours.map_or_else(taken, |facts| Done::Created(Box::new(facts))))
            }
            Err(error) => refused(&format!("Pod {name}"), error),
        }
    }

    /// A pod of an earlier Run of this name; of its own it is no more use to anybody.
    fn leftover(&self, existing: &Pod) -> Option<Done> {
        if !is_of_earlier_run(&existing.metadata, &self.uid()) {
            return None;
        }
        let facts = PodFacts::of(existing).filter(|facts| facts.run == self.key)?;
        Some(Done::Leftover(Box::new(facts)))
    }

    /// By label, and by name what the label does not show: whoever may write a pod can take all but its name and its place off.
    pub(super) async fn list_pods(&self, expected: Vec<String>) -> Result<BTreeMap<String, PodFacts>, Error> {
        let uid = self.uid();
        let of_run = Selection::all().labels(format!("{}={uid}", labels::RUN_UID));
        let labelled = read::list(&self.pods, &of_run).await?;
        let mut found: BTreeMap<String, PodFacts> = labelled
            .iter()
            .filter_map(PodFacts::of)
            .filter(|pod| pod.run == self.key || pod.run_uid == uid)
            .map(|pod| (pod.seen.name.clone(), pod))
            .collect();
        let missing: Vec<String> = expected.into_iter().filter(|name| !found.contains_key(name)).collect();
        let mut answers = stream::iter(missing)
            .map(|name| async move { read::get(&self.pods, &name).await })
            .buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            let facts = answer?.and_then(|pod| PodFacts::of_name(&pod, &self.key, &uid, &self.machines));
            found.extend(facts.map(|facts| (facts.seen.name.clone(), facts)));
        }
        Ok(found)
    }

    pub(super) async fn remove_gate(&self, pod: PodFacts) -> Result<Done, Error> {
        let patched = self.patch_gate(&pod).await;
        let error = match patched {
            Ok(pod) => return Ok(pod),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::NotFound => return Ok(Done::PodGone(pod.seen.name)),
            ErrorKind::Conflict => {}
            _ => return Err(error),
        }
        // The scheduler or a person wrote to it: the same pod, in its newer state.
        let newer = read::get(&self.pods, &pod.seen.name).await?;
        match newer.as_ref().and_then(PodFacts::of) {
            None => Ok(Done::PodGone(pod.seen.name)),
            Some(newer) if newer.seen.uid != pod.seen.uid || newer.deleting || newer.gate.is_none() => {
                Ok(Done::Ungated(Box::new(newer)))
            }
            Some(newer) => self.patch_gate(&newer).await,
        }
    }

    pub(super) async fn patch_gate(&self, pod: &PodFacts) -> Result<Done, Error> {
        let Some(gate) = pod.gate else { return Ok(Done::Ungated(Box::new(pod.clone()))) };
        let operations = json!([
            {"op": "test", "path": format!("/spec/schedulingGates/{gate}/name"), "value": START_GATE},
            {"op": "remove", "path": format!("/spec/schedulingGates/{gate}")},
        ]);
        let patched = apply::patch(&self.pods, &pod.seen, PatchIf::Unchanged, operations).await?;
        Ok(PodFacts::of(&patched)
            .map_or_else(|| Done::PodGone(pod.seen.name.clone()), |facts| Done::Ungated(Box::new(facts))))
    }

    pub(super) async fn stop_pod(&self, pod: PodFacts, release: bool, delete: bool) -> Result<Done, Error> {
        let mut pod = pod;
        let name = pod.seen.name.clone();
        if release && let Some(operations) = removal(&pod.finalizers, Finalizer::RunPod) {
            match apply::patch(&self.pods, &pod.seen, PatchIf::SameObject, operations).await {
                // Whatever its labels say by now, it is the same pod.
                Ok(released) => {
                    pod.seen = Seen::of(&released)?;
                    pod.finalizers.retain(|one| one != Finalizer::RunPod.as_str());
                    pod.deleting |= released.metadata.deletion_timestamp.is_some();
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Done::PodGone(name)),
                Err(error) => return Err(error),
            }
        }
        if delete && !pod.deleting {
            match apply::delete(&self.pods, &pod.seen, DeleteIf::SameObject, None).await? {
                Deletion::AlreadyGone => return Ok(Done::PodGone(name)),
                Deletion::Accepted => pod.deleting = true,
            }
        }
        Ok(Done::Stopped(Box::new(pod)))
    }
}
