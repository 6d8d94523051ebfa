//! What a watch has seen, as a map that is read without asking the API server.
//!
//! Filled by [`super::watch`] only. Readers get `Arc`s and hold no lock. What is here may be out of date by the time it
//! is read; the preconditions of [`super::apply`] make that harmless.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    key::ObjectKey,
    watch::{Change, Index},
};

/// The values of one watch. Clones share them.
pub struct Cache<V> {
    shared: Arc<Shared<V>>,
}

struct Shared<V> {
    contents: RwLock<Contents<V>>,
    index: Option<Index<V>>,
}

struct Contents<V> {
    values: HashMap<ObjectKey, Arc<V>>,
    indexed: HashMap<String, BTreeSet<ObjectKey>>,
    initialised: bool,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<V> Cache<V> {
    pub(super) fn new(index: Option<Index<V>>) -> Self {
        let contents = Contents { values: HashMap::new(), indexed: HashMap::new(), initialised: false };
        Self { shared: Arc::new(Shared { contents: RwLock::new(contents), index }) }
    }

    /// The value of one object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<V>> {
        self.read().values.get(key).cloned()
    }

    /// All values, in no order.
    pub fn all(&self) -> Vec<Arc<V>> {
        self.read().values.values().cloned().collect()
    }

    /// The values that `wanted` picks, in no order.
    pub fn filter(&self, wanted: impl Fn(&V) -> bool) -> Vec<Arc<V>> {
        self.read().values.values().filter(|value| wanted(value)).cloned().collect()
    }

    /// The values under this entry of the watch's index, ordered by namespace and name. Empty without an index.
    pub fn indexed(&self, entry: &str) -> Vec<Arc<V>> {
        let contents = self.read();
        let keys = contents.indexed.get(entry).into_iter().flatten();
        keys.filter_map(|key| contents.values.get(key).cloned()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first list is complete. Before that, absence means nothing.
    pub fn is_initialised(&self) -> bool {
        self.read().initialised
    }

    pub(super) fn set_initialised(&self) {
        self.write().initialised = true;
    }

    pub(super) fn keys_outside(&self, shown: &HashSet<ObjectKey>) -> Vec<ObjectKey> {
        self.read().values.keys().filter(|key| !shown.contains(*key)).cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents<V>> {
        // A poisoned lock means that an index function panicked; that ends the process, and until then reading is safe
        // because every write leaves the maps whole.
        self.shared.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents<V>> {
        self.shared.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: PartialEq> Cache<V> {
    /// Stores or removes a value; `None` when that changes nothing.
    pub(super) fn put(&self, key: ObjectKey, value: Option<V>) -> Option<Change<V>> {
        let entry_of = |value: &V| self.shared.index.as_ref().and_then(|index| index(value));
        let new_entry = value.as_ref().and_then(entry_of);
        let after = value.map(Arc::new);

        let mut contents = self.write();
        let before = contents.values.get(&key).cloned();
        if before == after {
            return None;
        }
        let old_entry = before.as_deref().and_then(entry_of);
        if old_entry != new_entry {
            if let Some(entry) = old_entry
                && let Some(keys) = contents.indexed.get_mut(&entry)
            {
                keys.remove(&key);
                if keys.is_empty() {
                    contents.indexed.remove(&entry);
                }
            }
            if let Some(entry) = new_entry {
                contents.indexed.entry(entry).or_default().insert(key.clone());
            }
        }
        match &after {
            Some(value) => contents.values.insert(key.clone(), Arc::clone(value)),
            None => contents.values.remove(&key),
        };
        Some(Change { key, before, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::namespaced("lab", name)
    }

    fn by_owner() -> Cache<(&'static str, u8)> {
        Cache::new(Some(Box::new(|value: &(&str, u8)| (!value.0.is_empty()).then(|| value.0.to_owned()))))
    }

    #[test]
    fn a_value_moves_between_index_entries_and_leaves_them() {
        let cache = by_owner();
        cache.put(key("b"), Some(("one", 1)));
        cache.put(key("a"), Some(("one", 2)));
        assert_eq!(cache.indexed("one").iter().map(|value| value.1).collect::<Vec<_>>(), [2, 1]);
        cache.put(key("b"), Some(("two", 1)));
        cache.put(key("a"), None);
        assert!(cache.indexed("one").is_empty());
        assert_eq!(cache.indexed("two").len(), 1);
        cache.put(key("b"), Some(("", 1)));
        assert!(cache.indexed("two").is_empty());
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn storing_an_equal_value_is_no_change() {
        let cache = by_owner();
        let change = cache.put(key("a"), Some(("one", 1))).expect("a new value is a change");
        assert_eq!((change.before, change.after.map(|value| *value)), (None, Some(("one", 1))));
        assert_eq!(cache.put(key("a"), Some(("one", 1))), None);
        let change = cache.put(key("a"), None).expect("a removal is a change");
        assert_eq!(change.sides().collect::<Vec<_>>(), [&("one", 1)]);
        assert_eq!(cache.put(key("a"), None), None);
    }
}
