//! Every way in which the operator writes.
//!
//! In: an [`Api`], what to write, and the [`Seen`] version of the object on which that was decided. Out: the object as
//! it is now, or an [`Error`] whose kind says what happened. Each write carries its precondition to the API server, so
//! a process that was paused, or read a stale cache, gets [`ErrorKind::Conflict`] instead of undoing newer work.
//!
//! * [`apply`], [`apply_status`]: server-side apply of the **whole** field set of one manager. A field that the
//!   manager owned and the new set leaves out is removed by the API server.
//! * [`create`]: makes an object unless one of its name exists, which is then returned and must be looked at.
//! * [`delete`]: by UID, and by version where that matters.
//! * [`add_finalizer`], [`remove_finalizer`], [`patch`]: single changes, guarded by JSON patch tests.
//! * [`merge`], [`replace`]: for objects whose other fields belong to others, and for the lease.
//!
//! Whoever calls this must never write without having compared: [`apply_changed`] and [`apply_status_changed`] write
//! nothing when nothing changed.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    error::{Error, ErrorKind, Verb},
    read::{self, target},
};

/// An object as it was read: its name, UID and resourceVersion. The precondition of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The object's name.
    pub name: String,
    /// Which object of that name.
    pub uid: String,
    /// Which state of that object.
    pub resource_version: String,
}

impl Seen {
    /// Takes the precondition from an object that an API server returned.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Result<Self, Error> {
        let metadata = object.meta();
        let name = object.name_any();
        let missing =
            |missing| Error::NotFromServer { verb: Verb::Patch, target: target::<K>(&name), missing };
        Ok(Self {
            uid: metadata.uid.clone().ok_or_else(|| missing("uid"))?,
            resource_version: metadata.resource_version.clone().ok_or_else(|| missing("resourceVersion"))?,
            name,
        })
    }
}

/// What came of a [`create`].
#[derive(Clone, Debug, PartialEq)]
pub enum Creation<K> {
    /// It was created as asked.
    Created(K),
    /// An object of that name was there before. It may be ours from a reply that was lost, or a stranger's: look at
    /// its owner and UID labels.
    AlreadyExists(K),
}

impl<K> Creation<K> {
    /// The object, whoever made it.
    pub fn into_object(self) -> K {
        match self {
            Self::Created(object) | Self::AlreadyExists(object) => object,
        }
    }
}

/// What came of a [`delete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The API server accepted it. The object is gone, or will be when its finalizers are.
    Accepted,
    /// No object of that name exists.
    AlreadyGone,
}

/// The bounds on types that these functions write.
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned> Object for K {}

/// Applies `fields`, the whole set that `manager` owns, on the version that was seen.
///
/// `fields` is an object without `apiVersion`, `kind` and name, for example `{"spec": {...}}`; it may bring
/// `metadata` with labels and annotations. Other managers' claims on these fields are taken over: the precondition, not
/// ownership, protects against lost updates.
pub async fn apply<K: Object>(
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    fields: &(impl Serialize + Sync),
) -> Result<K, Error> {
    apply_to(Part::Object, api, seen, manager, fields).await
}

/// As [`apply`], on the status subresource; `fields` is `{"status": {...}}`.
pub async fn apply_status<K: Object>(
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    fields: &(impl Serialize + Sync),
) -> Result<K, Error> {
    apply_to(Part::Status, api, seen, manager, fields).await
}

/// As [`apply`], but writes nothing and returns `None` when `wanted` equals `current`.
///
/// `current` is the same field set taken from the object that was seen, absent fields absent.
pub async fn apply_changed<K: Object, F: Serialize + PartialEq + Sync>(
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    current: &F,
    wanted: &F,
) -> Result<Option<K>, Error> {
    if current == wanted {
        return Ok(None);
    }
    apply(api, seen, manager, wanted).await.map(Some)
}

/// As [`apply_status`], but writes nothing and returns `None` when `wanted` equals `current`.
pub async fn apply_status_changed<K: Object, F: Serialize + PartialEq + Sync>(
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    current: &F,
    wanted: &F,
) -> Result<Option<K>, Error> {
    if current == wanted {
        return Ok(None);
    }
    apply_status(api, seen, manager, wanted).await.map(Some)
}

/// Creates `object`, or returns the one that has its name.
pub async fn create<K: Object>(api: &Api<K>, object: &K, manager: &str) -> Result<Creation<K>, Error> {
    let parameters = PostParams { dry_run: false, field_manager: Some(manager.to_owned()) };
    let name = object.name_any();
    match api.create(&parameters, object).await {
        Ok(created) => Ok(Creation::Created(created)),
        Err(source) => {
            let error = Error::request(Verb::Create, target::<K>(&name), source);
            if error.kind() != ErrorKind::AlreadyExists || object.meta().name.is_none() {
                return Err(error);
            }
            match read::get(api, &name).await? {
                Some(existing) => Ok(Creation::AlreadyExists(existing)),
                // It was deleted in between; the next reconcile creates it.
                None => Err(Error::Changed { verb: Verb::Create, target: target::<K>(&name) }),
            }
        }
    }
}

/// Asks whether `object` could be created, without creating it.
pub async fn rehearse_create<K: Object>(api: &Api<K>, object: &K, manager: &str) -> Result<K, Error> {
    let parameters = PostParams { dry_run: true, field_manager: Some(manager.to_owned()) };
    api.create(&parameters, object).await.map_err(|source| {
        Error::request(Verb::Create, target::<K>(&object.name_any()) + " (rehearsal)", source)
    })
}

/// How strictly a deletion is bound to what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteIf {
    /// It is the same object, in whatever state.
    SameObject,
    /// It is the same object and nobody wrote to it since.
    Unchanged,
}

/// Asks for the deletion of the object that was seen.
///
/// [`ErrorKind::Conflict`] when the precondition does not hold, in particular when another object has the name.
/// `grace` is the time the object's processes have to stop, for pods.
pub async fn delete<K: Object>(
    api: &Api<K>,
    seen: &Seen,
    only: DeleteIf,
    grace: Option<std::time::Duration>,
) -> Result<Deletion, Error> {
    let preconditions = Preconditions {
        uid: Some(seen.uid.clone()),
        resource_version: (only == DeleteIf::Unchanged).then(|| seen.resource_version.clone()),
    };
    let parameters = DeleteParams {
        grace_period_seconds: grace.map(|grace| grace.as_secs() as u32),
        ..DeleteParams::background().preconditions(preconditions)
    };
    match api.delete(&seen.name, &parameters).await {
        Ok(_) => Ok(Deletion::Accepted),
        Err(source) => {
            let error = Error::request(Verb::Delete, target::<K>(&seen.name), source);
            if error.kind() == ErrorKind::NotFound { Ok(Deletion::AlreadyGone) } else { Err(error) }
        }
    }
}

/// Puts `finalizer` on the object; returns `None`, having written nothing, when it is there.
pub async fn add_finalizer<K: Object>(api: &Api<K>, object: &K, finalizer: &str) -> Result<Option<K>, Error> {
    let present = object.finalizers();
    if present.iter().any(|one| one == finalizer) {
        return Ok(None);
    }
    // The test is on the list as it was read: `-` on a list that vanished meanwhile, or a second copy of the same
    // finalizer by a second process, must not go through.
    let before = if present.is_empty() { Value::Null } else { json!(present) };
    let mut after = present.to_vec();
    after.push(finalizer.to_owned());
    let operations = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": before},
        {"op": "add", "path": "/metadata/finalizers", "value": after},
    ]);
    patch(api, &Seen::of(object)?, PatchIf::SameObject, operations).await.map(Some)
}

/// Takes `finalizer` off the object; returns `None`, having written nothing, when it is not there.
///
/// A conflict means that the list changed since it was read. Not found is the caller's wish come true and is `None`.
pub async fn remove_finalizer<K: Object>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
) -> Result<Option<K>, Error> {
    let Some(index) = object.finalizers().iter().position(|one| one == finalizer) else { return Ok(None) };
    let path = format!("/metadata/finalizers/{index}");
    let operations = json!([
        {"op": "test", "path": path, "value": finalizer},
        {"op": "remove", "path": path},
    ]);
    match patch(api, &Seen::of(object)?, PatchIf::SameObject, operations).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How strictly a patch is bound to what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchIf {
    /// It is the same object, in whatever state; the operations bring their own tests.
    SameObject,
    /// It is the same object and nobody wrote to it since.
    Unchanged,
}

/// Applies JSON patch `operations` (RFC 6902, a JSON array) to the object that was seen.
///
/// [`ErrorKind::Conflict`] when a test fails.
pub async fn patch<K: Object>(
    api: &Api<K>,
    seen: &Seen,
    only: PatchIf,
    operations: Value,
) -> Result<K, Error> {
    let mut guarded = vec![json!({"op": "test", "path": "/metadata/uid", "value": seen.uid})];
    if only == PatchIf::Unchanged {
        guarded.push(json!({
            "op": "test", "path": "/metadata/resourceVersion", "value": seen.resource_version,
        }));
    }
    let fault = |message| Error::Body { verb: Verb::Patch, target: target::<K>(&seen.name), message };
    match operations {
        Value::Array(operations) => guarded.extend(operations),
        _ => return Err(fault("a JSON patch is an array".into())),
    }
    let patch =
        serde_json::from_value(Value::Array(guarded)).map_err(|error| fault(error.to_string().into()))?;
    api.patch(&seen.name, &PatchParams::default(), &Patch::Json::<()>(patch)).await.map_err(|source| {
        if is_failed_test(&source) {
            Error::Changed { verb: Verb::Patch, target: target::<K>(&seen.name) }
        } else {
            Error::request(Verb::Patch, target::<K>(&seen.name), source)
        }
    })
}

/// Merges `fields` into the object, on the version that was seen. A list in `fields` replaces the whole list.
pub async fn merge<K: Object>(
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    fields: &(impl Serialize + Sync),
) -> Result<K, Error> {
    merge_into(Part::Object, api, seen, manager, fields).await
}

/// As [`merge`], on the status subresource; `fields` is `{"status": {...}}`.
///
/// For the few fields of a status that have one writer among several and are written often: it costs the API server a
/// fraction of a structured apply. `null` removes a field.
pub async fn merge_status<K: Object>(
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    fields: &(impl Serialize + Sync),
) -> Result<K, Error> {
    merge_into(Part::Status, api, seen, manager, fields).await
}

/// As [`merge_status`], and only asks what would come of it: admission, schema and precondition are checked, nothing is stored.
pub async fn rehearse_merge_status<K: Object>(
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    fields: &(impl Serialize + Sync),
) -> Result<K, Error> {
    let parameters = PatchParams { dry_run: true, ..patch_params(manager) };
    let body = merge_body::<K>(seen, fields)?;
    send(Part::Status, Verb::Patch, api, seen, &parameters, &Patch::Merge(body)).await
}

/// Writes the whole object; its metadata carries the resourceVersion of the read it was made from.
pub async fn replace<K: Object>(api: &Api<K>, object: &K, manager: &str) -> Result<K, Error> {
    let seen = Seen::of(object)?;
    let parameters = PostParams { dry_run: false, field_manager: Some(manager.to_owned()) };
    api.replace(&seen.name, &parameters, object)
        .await
        .map_err(|source| Error::request(Verb::Replace, target::<K>(&seen.name), source))
}

/// What a write is about: the object, or its status subresource.
#[derive(Clone, Copy)]
enum Part {
    Object,
    Status,
}

async fn apply_to<K: Object>(
    part: Part,
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    fields: &(impl Serialize + Sync),
) -> Result<K, Error> {
    let body = apply_body::<K>(seen, fields)?;
    let parameters = PatchParams::apply(manager).force();
    send(part, Verb::Apply, api, seen, &parameters, &Patch::Apply(body)).await
}

async fn merge_into<K: Object>(
    part: Part,
    api: &Api<K>,
    seen: &Seen,
    manager: &str,
    fields: &(impl Serialize + Sync),
) -> Result<K, Error> {
    let body = merge_body::<K>(seen, fields)?;
    send(part, Verb::Patch, api, seen, &patch_params(manager), &Patch::Merge(body)).await
}

fn patch_params(manager: &str) -> PatchParams {
    PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() }
}

fn merge_body<K: Object>(seen: &Seen, fields: &impl Serialize) -> Result<Value, Error> {
    let mut body = object_of::<K>(Verb::Patch, &seen.name, fields)?;
    metadata_of::<K>(Verb::Patch, &seen.name, &mut body)?
        .insert("resourceVersion".into(), seen.resource_version.clone().into());
    Ok(Value::Object(body))
}

/// Sends a patch whose body carries its precondition.
async fn send<K: Object>(
    part: Part,
    verb: Verb,
    api: &Api<K>,
    seen: &Seen,
    parameters: &PatchParams,
    patch: &Patch<Value>,
) -> Result<K, Error> {
    let (answer, what) = match part {
        Part::Object => (api.patch(&seen.name, parameters, patch).await, ""),
        Part::Status => (api.patch_status(&seen.name, parameters, patch).await, " status"),
    };
    answer.map_err(|source| Error::request(verb, target::<K>(&seen.name) + what, source))
}

fn apply_body<K: Object>(seen: &Seen, fields: &impl Serialize) -> Result<Value, Error> {
    let mut body = object_of::<K>(Verb::Apply, &seen.name, fields)?;
    body.insert("apiVersion".into(), K::api_version(&()).into());
    body.insert("kind".into(), K::kind(&()).into());
    let metadata = metadata_of::<K>(Verb::Apply, &seen.name, &mut body)?;
    metadata.insert("name".into(), seen.name.clone().into());
    metadata.insert("resourceVersion".into(), seen.resource_version.clone().into());
    // Without a UID an apply would create the object anew, had it been deleted meanwhile.
    metadata.insert("uid".into(), seen.uid.clone().into());
    Ok(Value::Object(body))
}

fn object_of<K: Object>(
    verb: Verb,
    name: &str,
    fields: &impl Serialize,
) -> Result<Map<String, Value>, Error> {
    let fault = |message| Error::Body { verb, target: target::<K>(name), message };
    match serde_json::to_value(fields) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(_) => Err(fault("the fields to write are not an object".into())),
        Err(error) => Err(fault(error.to_string().into())),
    }
}

fn metadata_of<'a, K: Object>(
    verb: Verb,
    name: &str,
    body: &'a mut Map<String, Value>,
) -> Result<&'a mut Map<String, Value>, Error> {
    match body.entry("metadata").or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(metadata) => Ok(metadata),
        _ => {
            Err(Error::Body { verb, target: target::<K>(name), message: "metadata is not an object".into() })
        }
    }
}

/// Whether the API server refused a JSON patch because it does not fit the object: a failed test, or a path that is
/// not there. It answers both with code 422, reason Invalid and this generic sentence, which it uses for nothing else
/// of that code (`k8s.io/apimachinery`, `NewGenericServerResponse`); a schema violation names the kind instead.
fn is_failed_test(error: &kube::Error) -> bool {
    const SENTENCE: &str = "the server rejected our request due to an error in our request";
    matches!(error, kube::Error::Api(status) if status.code == 422 && status.message.contains(SENTENCE))
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
