//! The test's own hands in the store: past faults, preconditions and records, but seen by watches.

use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    path::{ObjectId, TypeId},
    server::FakeServer,
    value::{drop_nulls, meta, meta_str, set_meta, set_top},
};

fn type_of<K: Resource<DynamicType = ()>>() -> TypeId {
    TypeId { group: K::group(&()).into_owned(), plural: K::plural(&()).into_owned() }
}

fn id_of<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> ObjectId {
    ObjectId { of: type_of::<K>(), namespace: namespace.to_owned(), name: name.to_owned() }
}

fn typed<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("a stored object does not decode: {error}\n{object:#}"))
}

impl FakeServer {
    /// The object, or `None`. Namespace is empty for objects of the cluster.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        self.lock().store.objects.get(&id_of::<K>(namespace, name)).map(typed)
    }

    /// All objects of a kind, ordered by namespace and name.
    pub fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        self.lock().store.of_type(&type_of::<K>(), "").map(|(_, object)| typed(object)).collect()
    }

    /// Every object there is, as JSON.
    pub fn objects(&self) -> Vec<Value> {
        self.lock().store.objects.values().cloned().collect()
    }

    /// Every change since the last [`FakeServer::compact`], in order: what the object was and is. One side is absent at
    /// creation and removal.
    pub fn changes(&self) -> Vec<(Option<Value>, Option<Value>)> {
        self.lock().store.history.iter().map(|event| (event.before.clone(), event.after.clone())).collect()
    }

    /// Writes an object as it is, status included, whether it exists or not. Keeps the UID and creation time of one
    /// that exists, gives new ones otherwise, and counts the generation.
    pub fn put<K>(&self, object: &K) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let mut object =
            serde_json::to_value(object).unwrap_or_else(|error| panic!("not an object: {error}"));
        drop_nulls(&mut object);
        set_top(&mut object, "apiVersion", Some(json!(K::api_version(&()))));
        set_top(&mut object, "kind", Some(json!(K::kind(&()))));
        let id = id_of::<K>(meta_str(&object, "namespace"), meta_str(&object, "name"));
        assert!(!id.name.is_empty(), "an object needs a name");
        typed(&self.change(|store| {
            let existing = store.objects.get(&id).cloned();
            let generation = if let Some(existing) = &existing {
                for field in ["uid", "creationTimestamp"] {
                    set_meta(&mut object, field, existing["metadata"].get(field).cloned());
                }
                let changed = object.get("spec") != existing.get("spec");
                meta(existing, "generation").as_i64().unwrap_or(0) + i64::from(changed)
            } else {
                if meta_str(&object, "uid").is_empty() {
                    let uid = store.new_uid();
                    set_meta(&mut object, "uid", Some(json!(uid)));
                }
                if meta(&object, "creationTimestamp").is_null() {
                    set_meta(&mut object, "creationTimestamp", Some(json!(store.timestamp())));
                }
                1
            };
            set_meta(&mut object, "generation", Some(json!(generation)));
            store.commit(id, object)
        }))
    }

    /// Changes an object in place, status included; panics if there is none.
    pub fn edit<K>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut K)) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let mut object: K = self
            .get(namespace, name)
            .unwrap_or_else(|| panic!("no {} {namespace}/{name} to edit", K::kind(&())));
        change(&mut object);
        self.put(&object)
    }

    /// Removes an object at once, finalizers or not. Returns whether there was one.
    pub fn remove<K>(&self, namespace: &str, name: &str) -> bool
    where
        K: Resource<DynamicType = ()>,
    {
        self.change(|store| store.remove(&id_of::<K>(namespace, name)).is_some())
    }

    /// Deletes an object as a user would: it stays while it has finalizers. Returns whether there was one.
    pub fn delete<K>(&self, namespace: &str, name: &str) -> bool
    where
        K: Resource<DynamicType = ()>,
    {
        self.change(|store| store.begin_deletion(&id_of::<K>(namespace, name), 0).is_some())
    }
}
