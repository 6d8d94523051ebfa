//! Watches and the caches they fill.
//!
//! Flow: a [`Watch`] lists and then follows the objects of one kind, reduces each to what is read of it, keeps that in
//! a [`Cache`] and tells its listeners every [`Change`].
//!
//! Guarantees:
//! * A fault of one watch (a forbidden kind, a cut connection, an outdated version) slows that watch only. It backs
//!   off, counts and recovers; it never ends.
//! * Every object that vanishes is told, also one that vanished while the watch was cut: a list that lacks it is a
//!   change.
//! * A listener is called outside any lock, in the order of events, and only when the reduced value changed.
//! * An object that cannot be decoded does not wedge a guarded watch; it counts as absent until it can.
//!
//! Caveats: caches lag, by milliseconds as a rule and by up to [`WATCH_TIME`] plus five seconds behind a dead
//! connection. A selector makes a change of the object look like its deletion. So "gone" and "free" are believed only
//! after a live read (see [`super::read`]).

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream::BoxStream};
use kube::{
    Api, Resource,
    api::{ObjectMeta, PartialObjectMeta},
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;

use super::{backoff::Waits, cache::Cache, key::ObjectKey, read::Selection};
use crate::{
    tasks::Tasks,
    telemetry::{
        metrics::{Metrics, WatchFault},
        readiness::Readiness,
    },
};

/// How long one watch call lasts before it is renewed from where it was. A connection that died in silence is noticed
/// this late (plus five seconds), and a renewal costs one request: one a minute per kind.
pub const WATCH_TIME: Duration = Duration::from_mins(1);

/// How long a watch that fails waits before it asks again. A routine end of a watch is no failure and waits not at
/// all. (kube's own `default_backoff` starts again with every mark that a list begins, so against a list that is
/// refused it stays at its first step.)
const RECOVERY: Waits = Waits { first: Duration::from_millis(800), longest: Duration::from_secs(30) };

/// How the cached value of one object changed. At least one side is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<V> {
    /// Which object.
    pub key: ObjectKey,
    /// What was cached before.
    pub before: Option<Arc<V>>,
    /// What is cached now.
    pub after: Option<Arc<V>>,
}

impl<V> Change<V> {
    /// The old and the new value, as far as they are there: both may lead to someone who must be woken.
    pub fn sides(&self) -> impl Iterator<Item = &V> {
        self.before.iter().chain(&self.after).map(|value| &**value)
    }
}

/// An object as it arrived, or the metadata of one that could not be decoded.
enum Arrived<K> {
    Decoded(K),
    Undecodable(ObjectKey, String),
}

type Events<K> = BoxStream<'static, watcher::Result<Event<Arrived<K>>>>;

/// A watch on the objects of one kind, to be narrowed, reduced and started.
///
/// Of the metadata of an object nothing arrives that nobody reads: no managed fields, of annotations those that are asked
/// for, and no labels and owners of our own kinds. Whoever may write an object may write a quarter of a mebibyte of
/// annotations, and labels without end; kept, a few thousand of them would be the end of this process. (kubectl leaves the
/// whole object a second time, too.)
pub struct Watch<K> {
    name: &'static str,
    selection: Selection,
    annotations: &'static [&'static str],
    open: Box<dyn FnOnce(watcher::Config, Kept) -> Events<K> + Send>,
}

/// What is kept of the metadata of each object.
struct Kept {
    /// Keys of annotations.
    annotations: &'static [&'static str],
}

impl Kept {
    fn prune(&self, metadata: &mut ObjectMeta) {
        metadata.managed_fields = None;
        metadata.annotations =
            metadata.annotations.take().map(|all| self.of(all)).filter(|kept| !kept.is_empty());
    }

    /// Collected anew: a map from which all was taken keeps its memory.
    fn of(&self, annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
        annotations.into_iter().filter(|(key, _)| self.annotations.contains(&key.as_str())).collect()
    }
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Watches whole objects of a kind whose schema is not ours and whose objects always decode.
    /// `name` stands in metrics, logs and `/readyz`.
    pub fn new(name: &'static str, api: Api<K>) -> Self {
        Self {
            name,
            selection: Selection::all(),
            annotations: &[],
            open: Box::new(move |config, kept| opened(api, config, kept, Arrived::Decoded)),
        }
    }

    /// Watches whole objects of one of our own kinds: an object that does not decode, left over from another version,
    /// counts as absent and stops nothing.
    pub fn guarded(name: &'static str, api: Api<DeserializeGuard<K>>) -> Self {
        let arrived = |DeserializeGuard(object): DeserializeGuard<K>| match object {
            Ok(mut object) => {
                let metadata = object.meta_mut();
                metadata.labels = None;
                metadata.owner_references = None;
                Arrived::Decoded(object)
            }
            Err(invalid) => Arrived::Undecodable(
                ObjectKey {
                    namespace: invalid.metadata.namespace.unwrap_or_default(),
                    name: invalid.metadata.name.unwrap_or_default(),
                },
                invalid.error,
            ),
        };
        Self {
            name,
            selection: Selection::all(),
            annotations: &[],
            open: Box::new(move |config, kept| opened(api, config, kept, arrived)),
        }
    }
}

impl<K> Watch<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Watches metadata only: a fraction of the traffic and memory, where names, labels and owners are enough.
    pub fn metadata(name: &'static str, api: Api<PartialObjectMeta<K>>) -> Self {
        Self {
            name,
            selection: Selection::all(),
            annotations: &[],
            open: Box::new(move |config, kept| opened(api, config, kept, Arrived::Decoded)),
        }
    }
}

fn opened<O, K>(
    api: Api<O>,
    config: watcher::Config,
    kept: Kept,
    arrived: impl Fn(O) -> Arrived<K> + Send + 'static,
) -> Events<K>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    K: Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "this is the place all other code is sent to")]
    let events = kube::runtime::watcher(api, config).modify(move |object| kept.prune(object.meta_mut()));
    events
        .map(move |event| {
            event.map(|event| match event {
                Event::Apply(object) => Event::Apply(arrived(object)),
                Event::Delete(object) => Event::Delete(arrived(object)),
                Event::InitApply(object) => Event::InitApply(arrived(object)),
                Event::Init => Event::Init,
                Event::InitDone => Event::InitDone,
            })
        })
        .boxed()
}

impl<K: Resource + Send + 'static> Watch<K> {
    /// Narrows the watch to some objects.
    #[must_use]
    pub fn select(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Keeps annotations of these keys; all others are dropped on arrival.
    #[must_use]
    pub fn annotations(mut self, keys: &'static [&'static str]) -> Self {
        self.annotations = keys;
        self
    }

    /// Keeps of each object what `reduce` returns; an object for which it returns `None` counts as absent.
    ///
    /// Reduce on arrival to the fields that are really read: memory shrinks, and changes of other fields wake nobody.
    pub fn reduce<V: PartialEq + Send + Sync + 'static>(
        self,
        reduce: impl Fn(K) -> Option<V> + Send + 'static,
    ) -> Reduced<K, V> {
        Reduced { watch: self, reduce: Box::new(reduce), index: None, listeners: Vec::new() }
    }

    /// Keeps whole objects.
    pub fn whole(self) -> Reduced<K, K>
    where
        K: PartialEq + Sync,
    {
        self.reduce(Some)
    }
}

pub(super) type Index<V> = Box<dyn Fn(&V) -> Option<String> + Send + Sync>;
type Listener<V> = Box<dyn Fn(&Change<V>) + Send>;

/// A watch that knows what it keeps.
pub struct Reduced<K, V> {
    watch: Watch<K>,
    reduce: Box<dyn Fn(K) -> Option<V> + Send>,
    index: Option<Index<V>>,
    listeners: Vec<Listener<V>>,
}

impl<K, V> Reduced<K, V>
where
    K: Resource + Send + 'static,
    V: PartialEq + Send + Sync + 'static,
{
    /// Lets [`Cache::indexed`] find values by what `index` returns, such as the UID of their owner.
    #[must_use]
    pub fn index(mut self, index: impl Fn(&V) -> Option<String> + Send + Sync + 'static) -> Self {
        self.index = Some(Box::new(index));
        self
    }

    /// Calls `listener` on every change, the first list included. It must not block: it triggers a queue.
    #[must_use]
    pub fn notify(mut self, listener: impl Fn(&Change<V>) + Send + 'static) -> Self {
        self.listeners.push(Box::new(listener));
        self
    }

    /// Starts following, as one of `tasks`; `readiness` waits for the first list.
    pub fn start(self, tasks: &mut Tasks, readiness: &Readiness, metrics: &Metrics) -> Cache<V> {
        let name = self.watch.name;
        let cache = Cache::new(self.index);
        let mut gate = readiness.gate(format!("watch {name}"));
        let config = watcher::Config {
            label_selector: self.watch.selection.label_selector().map(ToOwned::to_owned),
            field_selector: self.watch.selection.field_selector().map(ToOwned::to_owned),
            ..watcher::Config::default().timeout(WATCH_TIME.as_secs() as u32)
        };
        let events = (self.watch.open)(config, Kept { annotations: self.watch.annotations });
        let follower = Follower {
            name,
            cache: cache.clone(),
            reduce: self.reduce,
            listeners: self.listeners,
            metrics: metrics.clone(),
        };
        let token = tasks.token();
        tasks.spawn(name, async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = follower.follow(events, || gate.open()) => {}
            }
            Ok::<(), std::convert::Infallible>(())
        });
        cache
    }
}

struct Follower<K, V> {
    name: &'static str,
    cache: Cache<V>,
    reduce: Box<dyn Fn(K) -> Option<V> + Send>,
    listeners: Vec<Listener<V>>,
    metrics: Metrics,
}

impl<K, V> Follower<K, V>
where
    K: Resource,
    V: PartialEq,
{
    async fn follow(
        self,
        events: impl Stream<Item = watcher::Result<Event<Arrived<K>>>>,
        mut listed: impl FnMut(),
    ) {
        // Keys that a list in progress has shown; the others are gone when it ends.
        let mut shown = None;
        let mut failures = 0;
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => shown = Some(std::collections::HashSet::new()),
                Ok(Event::InitApply(object)) => {
                    let key = self.arrive(object);
                    shown.get_or_insert_default().insert(key);
                }
                Ok(Event::InitDone) => {
                    let shown = shown.take().unwrap_or_default();
                    for key in self.cache.keys_outside(&shown) {
                        self.put(key, None);
                    }
                    self.cache.set_initialised();
                    listed();
                }
                Ok(Event::Apply(object)) => {
                    self.arrive(object);
                }
                Ok(Event::Delete(object)) => {
                    let key = match &object {
                        Arrived::Decoded(object) => ObjectKey::of(object),
                        Arrived::Undecodable(key, _) => key.clone(),
                    };
                    self.put(key, None);
                }
                Err(error) => {
                    failures += 1;
                    let wait = RECOVERY.after(failures, self.name);
                    self.metrics.count_watch_fault(self.name, WatchFault::Stream);
                    tracing::warn!(watch = self.name, %error, failures, ?wait, "watch failed and will be resumed");
                    tokio::time::sleep(wait).await;
                    continue;
                }
            }
            // The mark that a list begins says nothing about whether it will succeed.
            if shown.is_none() {
                failures = 0;
            }
        }
    }

    fn arrive(&self, object: Arrived<K>) -> ObjectKey {
        match object {
            Arrived::Decoded(object) => {
                let key = ObjectKey::of(&object);
                self.put(key.clone(), (self.reduce)(object));
                key
            }
            Arrived::Undecodable(key, error) => {
                self.metrics.count_watch_fault(self.name, WatchFault::Undecodable);
                tracing::error!(
                    watch = self.name, object = %key, error,
                    "object does not decode and is ignored; was it written under another version of the schema?"
                );
                self.put(key.clone(), None);
                key
            }
        }
    }

    fn put(&self, key: ObjectKey, value: Option<V>) {
        let Some(change) = self.cache.put(key, value) else { return };
        self.metrics.set_watch_objects(self.name, self.cache.len());
        for listener in &self.listeners {
            listener(&change);
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
