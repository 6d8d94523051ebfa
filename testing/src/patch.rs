//! The four kinds of PATCH that make a new object from the present one.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::{
    ownership::{Owner, Ownership, Path, leaves, merge_owned, ownable, printed, remove_at},
    path::{Endpoint, Target},
    refusal::Refusal,
    store::Store,
    value::{drop_nulls, merge, meta_str},
};

/// A PATCH's body by its content type.
pub(crate) enum PatchBody {
    Merge(Value),
    Json(Patch),
    Apply(Value),
}

impl PatchBody {
    pub fn parse(content_type: &str, body: &[u8]) -> Result<Self, Refusal> {
        let bad = |error: serde_json::Error| Refusal::bad_request(format!("error decoding patch: {error}"));
        match content_type {
            "application/merge-patch+json" => serde_json::from_slice(body).map(Self::Merge).map_err(bad),
            "application/json-patch+json" => serde_json::from_slice(body).map(Self::Json).map_err(bad),
            // Apply bodies are YAML, of which kube's clients send the JSON subset.
            "application/apply-patch+yaml" => serde_json::from_slice(body).map(Self::Apply).map_err(bad),
            other => Err(Refusal::unsupported_media_type(other)),
        }
    }
}

/// Applies operations as the real server does: a test for null holds where there is nothing.
pub(crate) fn apply_operations(object: &mut Value, patch: &Patch) -> Result<(), Refusal> {
    for operation in &patch.0 {
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && object.pointer(test.path.as_str()).is_none_or(Value::is_null)
        {
            continue;
        }
        json_patch::patch(object, std::slice::from_ref(operation))
            .map_err(|_| Refusal::patch_does_not_fit())?;
    }
    Ok(())
}

impl Store {
    pub fn patch(
        &mut self,
        target: &Target,
        name: &str,
        body: PatchBody,
        manager: &str,
    ) -> Result<(Value, bool), Refusal> {
        let id = target.id(name);
        let plural = &id.of.plural;
        let existing = self.objects.get(&id).cloned();
        let body = match body {
            PatchBody::Apply(wanted) => return self.apply(target, name, existing, wanted, manager),
            other => other,
        };
        let Some(existing) = existing else { return Err(Refusal::not_found(plural, name)) };
        let mut object = existing.clone();
        match &body {
            PatchBody::Merge(patch) => merge(&mut object, patch),
            PatchBody::Json(patch) => apply_operations(&mut object, patch)?,
            PatchBody::Apply(_) => {}
        }
        let owner = Owner::updater(manager, target.endpoint);
        self.update(target, &id, &existing, object, Some(&owner)).map(|object| (object, false))
    }

    /// Server-side apply. Returns the object, and whether it was created.
    fn apply(
        &mut self,
        target: &Target,
        name: &str,
        existing: Option<Value>,
        mut wanted: Value,
        manager: &str,
    ) -> Result<(Value, bool), Refusal> {
        let id = target.id(name);
        let plural = id.of.plural.clone();
        if manager.is_empty() {
            return Err(Refusal::bad_request(
                "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value",
            ));
        }
        if wanted["apiVersion"] != target.api_version() || !wanted["kind"].is_string() {
            return Err(Refusal::bad_request("apiVersion and kind must be set, apiVersion as in the URL"));
        }
        if ![name, ""].contains(&meta_str(&wanted, "name")) {
            return Err(Refusal::bad_request("the name of the object does not match the name on the URL"));
        }
        let uid = meta_str(&wanted, "uid").to_owned();
        let version = meta_str(&wanted, "resourceVersion").to_owned();
        drop_nulls(&mut wanted);

        let Some(existing) = existing else {
            if !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(Refusal::conflict(&plural, name, &why));
            }
            if target.endpoint == Endpoint::Status {
                return Err(Refusal::not_found(&plural, name));
            }
            if meta_str(&wanted, "name").is_empty() {
                return Err(Refusal::bad_request("metadata.name must be set to create an object by apply"));
            }
            let owner = Owner::applier(manager, target.endpoint);
            return self.create_named(target, name, wanted, &owner).map(|object| (object, true));
        };
        if !version.is_empty() && version != meta_str(&existing, "resourceVersion") {
            return Err(Refusal::stale(&plural, name));
        }
        if !uid.is_empty() && uid != meta_str(&existing, "uid") {
            return Err(Refusal::invalid(&plural, name, "metadata.uid: Invalid value: field is immutable"));
        }

        let mut wanted = ownable(&wanted);
        if let Some(fields) = wanted.as_object_mut() {
            match target.endpoint {
                Endpoint::Main => drop(fields.remove("status")),
                Endpoint::Status => fields.retain(|field, _| field == "status"),
            }
        }
        let owner = Owner::applier(manager, target.endpoint);
        let mut ownership = Ownership::of(&existing);
        let new = leaves(&wanted, &self.list_keys);
        let current = leaves(&ownable(&existing), &self.list_keys);
        let conflicts = ownership.conflicts(&owner, &current, &new);
        if !conflicts.is_empty() && !target.flag("force") {
            let printed: Vec<_> =
                conflicts.iter().map(|(manager, path)| (manager.clone(), printed(path))).collect();
            return Err(Refusal::owned_by_others(&printed));
        }
        for (other, paths) in &mut ownership.0 {
            if *other != owner {
                paths.retain(|path| !conflicts.iter().any(|(_, lost)| lost == path));
            }
        }

        let mut object = existing.clone();
        let old = ownership.0.remove(&owner).unwrap_or_default();
        for path in old.iter().filter(|path| !new.contains_key(*path)) {
            // Shared, or a container that was empty and now holds something.
            let holds = |other: &Path| other.starts_with(path);
            let is_kept = new.keys().any(holds) || ownership.0.values().flatten().any(holds);
            if !is_kept {
                remove_at(&mut object, path, "", &self.list_keys);
            }
        }
        merge_owned(&mut object, &wanted, "", &self.list_keys);
        ownership.0.insert(owner, new.into_keys().collect());
        // Fields that were replaced as part of a whole list or removed are nobody's.
        let present = leaves(&ownable(&object), &self.list_keys);
        for paths in ownership.0.values_mut() {
            paths.retain(|path| present.contains_key(path));
        }
        ownership.write(&mut object);
        self.update(target, &id, &existing, object, None).map(|object| (object, false))
    }
}
