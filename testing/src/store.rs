//! Objects, their versions and their history. No rule about what may be written is here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    path::{ObjectId, TypeId},
    value::{meta, meta_str, set_meta},
};

/// One change: what an object was and is. One side is absent at creation and removal.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub version: u64,
    pub id: ObjectId,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

pub(crate) type Now = Box<dyn Fn() -> Timestamp + Send + Sync>;

pub(crate) struct Store {
    pub objects: BTreeMap<ObjectId, Value>,
    pub history: Vec<Event>,
    /// Changes up to this version have been forgotten.
    pub compacted: u64,
    pub version: u64,
    uids: u64,
    names: u64,
    /// The rest of lists that are read page by page, by their token.
    pub pages: BTreeMap<String, Vec<Value>>,
    pub now: Now,
    pub collect_garbage: bool,
    pub graceful_pods: bool,
    pub list_keys: BTreeMap<String, Vec<String>>,
}

impl Store {
    pub fn new(now: Now) -> Self {
        let mut store = Self {
            objects: BTreeMap::new(),
            history: Vec::new(),
            compacted: 0,
            version: 100,
            uids: 0,
            names: 0,
            pages: BTreeMap::new(),
            now,
            collect_garbage: false,
            graceful_pods: false,
            list_keys: BTreeMap::new(),
        };
        for (list, keys) in [
            ("conditions", "type"),
            ("containers", "name"),
            ("initContainers", "name"),
            ("env", "name"),
            ("volumes", "name"),
            ("volumeMounts", "mountPath"),
            ("ownerReferences", "uid"),
        ] {
            store.list_keys.insert(list.to_owned(), vec![keys.to_owned()]);
        }
        store
    }

    /// The present time as objects carry it, to the second.
    pub fn timestamp(&self) -> String {
        let seconds = (self.now)().as_second();
        Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
    }

    pub fn new_uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids)
    }

    /// Five characters of the alphabet of generated names, never twice the same.
    pub fn new_suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        self.names += 1;
        let mut number = self.names;
        let mut suffix = Vec::new();
        for _ in 0..5 {
            suffix.push(LETTERS[(number % LETTERS.len() as u64) as usize]);
            number /= LETTERS.len() as u64;
        }
        suffix.reverse();
        String::from_utf8_lossy(&suffix).into_owned()
    }

    /// Stores an object under a new version, and returns it with that version.
    pub fn commit(&mut self, id: ObjectId, mut object: Value) -> Value {
        self.version += 1;
        set_meta(&mut object, "resourceVersion", Some(json!(self.version.to_string())));
        let before = self.objects.insert(id.clone(), object.clone());
        self.history.push(Event { version: self.version, id, before, after: Some(object.clone()) });
        object
    }

    /// Removes an object, and then those that only it owned, if garbage is collected.
    pub fn remove(&mut self, id: &ObjectId) -> Option<Value> {
        let before = self.objects.remove(id)?;
        self.version += 1;
        self.history.push(Event {
            version: self.version,
            id: id.clone(),
            before: Some(before.clone()),
            after: None,
        });
        if self.collect_garbage {
            self.collect_orphans();
        }
        Some(before)
    }

    fn collect_orphans(&mut self) {
        let live: Vec<String> =
            self.objects.values().map(|object| meta_str(object, "uid").to_owned()).collect();
        let orphans: Vec<ObjectId> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                let owners = meta(object, "ownerReferences").as_array().cloned().unwrap_or_default();
                !owners.is_empty()
                    && owners.iter().all(|owner| !live.iter().any(|uid| owner["uid"].as_str() == Some(uid)))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in orphans {
            self.begin_deletion(&id, 0);
        }
    }

    /// Objects of a type, in one namespace or (when empty) in all, in order.
    pub fn of_type<'a>(
        &'a self,
        of: &TypeId,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ObjectId, &'a Value)> {
        self.objects
            .iter()
            .filter(move |(id, _)| id.of == *of && (namespace.is_empty() || id.namespace == namespace))
    }
}
