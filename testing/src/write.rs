//! Creation and replacement: what every write has in common.

use serde_json::{Value, json};

use crate::{
    ownership::{Owner, Ownership},
    path::{Endpoint, ObjectId, Target},
    refusal::Refusal,
    store::Store,
    value::{drop_nulls, finalizers, meta, meta_str, set_meta, set_top},
};

impl Store {
    /// POST.
    pub fn create(&mut self, target: &Target, mut object: Value, manager: &str) -> Result<Value, Refusal> {
        if !object.is_object() {
            return Err(Refusal::bad_request("the body is not an object"));
        }
        drop_nulls(&mut object);
        let mut name = meta_str(&object, "name").to_owned();
        if name.is_empty() {
            let prefix = meta_str(&object, "generateName");
            if prefix.is_empty() {
                let why = "metadata.name: Required value: name or generateName is required";
                return Err(Refusal::invalid(&target.of.plural, "", why));
            }
            name = format!("{prefix}{}", self.new_suffix());
        }
        self.create_named(target, &name, object, &Owner::updater(manager, Endpoint::Main))
    }

    pub fn create_named(
        &mut self,
        target: &Target,
        name: &str,
        mut object: Value,
        owner: &Owner,
    ) -> Result<Value, Refusal> {
        let id = target.id(name);
        if self.objects.contains_key(&id) {
            return Err(Refusal::already_exists(&id.of.plural, name));
        }
        if !meta_str(&object, "resourceVersion").is_empty() {
            return Err(Refusal::version_on_create());
        }
        if ![target.namespace.as_str(), ""].contains(&meta_str(&object, "namespace")) {
            return Err(Refusal::bad_request(
                "the namespace of the object does not match the namespace on the request",
            ));
        }
        set_top(&mut object, "status", None);
        if object["apiVersion"].is_null() {
            set_top(&mut object, "apiVersion", Some(json!(target.api_version())));
        }
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"] {
            set_meta(&mut object, field, None);
        }
        set_meta(&mut object, "name", Some(json!(name)));
        set_meta(&mut object, "namespace", (!id.namespace.is_empty()).then(|| json!(id.namespace)));
        let uid = self.new_uid();
        set_meta(&mut object, "uid", Some(json!(uid)));
        set_meta(&mut object, "creationTimestamp", Some(json!(self.timestamp())));
        set_meta(&mut object, "generation", Some(json!(1)));
        let mut ownership = Ownership::default();
        ownership.record_update(owner, &json!({}), &object, &self.list_keys);
        ownership.write(&mut object);
        if target.flag("dryRun") {
            return Ok(object);
        }
        Ok(self.commit(id, object))
    }

    /// PUT.
    pub fn replace(
        &mut self,
        target: &Target,
        name: &str,
        mut object: Value,
        manager: &str,
    ) -> Result<Value, Refusal> {
        let id = target.id(name);
        let plural = &id.of.plural;
        let Some(existing) = self.objects.get(&id).cloned() else {
            return Err(Refusal::not_found(plural, name));
        };
        if meta_str(&object, "name") != name {
            return Err(Refusal::bad_request("the name of the object does not match the name on the URL"));
        }
        drop_nulls(&mut object);
        let uid = meta_str(&object, "uid");
        if !uid.is_empty() && uid != meta_str(&existing, "uid") {
            return Err(Refusal::conflict(
                plural,
                name,
                "Precondition failed: UID in precondition does not match",
            ));
        }
        if meta_str(&object, "resourceVersion").is_empty() {
            if !id.of.group.is_empty() {
                let why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
                return Err(Refusal::invalid(plural, name, why));
            }
            set_meta(&mut object, "resourceVersion", Some(meta(&existing, "resourceVersion").clone()));
        }
        let owner = Owner::updater(manager, target.endpoint);
        self.update(target, &id, &existing, object, Some(&owner))
    }

    /// Puts `object` in the place of `existing`, if its metadata allows it, and as far as the endpoint reaches.
    ///
    /// `updater` gets what changed; without one, `object` brings its owners.
    pub fn update(
        &mut self,
        target: &Target,
        id: &ObjectId,
        existing: &Value,
        mut object: Value,
        updater: Option<&Owner>,
    ) -> Result<Value, Refusal> {
        let (plural, name) = (&id.of.plural, &id.name);
        drop_nulls(&mut object);
        if meta(&object, "resourceVersion") != meta(existing, "resourceVersion") {
            return Err(Refusal::stale(plural, name));
        }
        if !meta(&object, "uid").is_null() && meta(&object, "uid") != meta(existing, "uid") {
            return Err(Refusal::invalid(plural, name, "metadata.uid: Invalid value: field is immutable"));
        }
        let owners = meta(&object, "managedFields").clone();
        match target.endpoint {
            Endpoint::Main => set_top(&mut object, "status", existing.get("status").cloned()),
            Endpoint::Status => {
                let status = object.get("status").cloned();
                object = existing.clone();
                set_top(&mut object, "status", status);
            }
        }
        for field in [
            "name",
            "namespace",
            "uid",
            "generateName",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            set_meta(&mut object, field, existing["metadata"].get(field).cloned());
        }
        if !meta(existing, "deletionTimestamp").is_null() {
            let before = finalizers(existing);
            if let Some(new) = finalizers(&object).into_iter().find(|one| !before.contains(one)) {
                let why = format!(
                    "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers [\"{new}\"]"
                );
                return Err(Refusal::invalid(plural, name, &why));
            }
        }
        match updater {
            Some(owner) => {
                let mut ownership = Ownership::of(existing);
                ownership.record_update(owner, existing, &object, &self.list_keys);
                ownership.write(&mut object);
            }
            None => set_meta(&mut object, "managedFields", (!owners.is_null()).then_some(owners)),
        }
        if object == *existing {
            return Ok(object);
        }
        if target.endpoint == Endpoint::Main && desired(&object) != desired(existing) {
            let generation = meta(existing, "generation").as_i64().unwrap_or(0);
            set_meta(&mut object, "generation", Some(json!(generation + 1)));
        }
        if target.flag("dryRun") {
            return Ok(object);
        }
        if Self::is_released(&object) {
            self.remove(id);
            return Ok(object);
        }
        Ok(self.commit(id.clone(), object))
    }
}

/// What a user asks for: everything but metadata and status.
fn desired(object: &Value) -> Value {
    let mut object = object.clone();
    set_top(&mut object, "metadata", None);
    set_top(&mut object, "status", None);
    object
}
