//! GET, LIST and WATCH.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body::Frame;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    path::Target,
    refusal::Refusal,
    select::Selector,
    server::FakeServer,
    store::Store,
    value::{meta_str, set_meta},
};

/// What a reader wants to see of each object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    MetadataOnly,
}

impl View {
    pub fn of_accept(accept: &str) -> Self {
        if accept.contains("as=PartialObjectMetadata") { Self::MetadataOnly } else { Self::Whole }
    }

    pub fn show(self, object: &Value) -> Value {
        match self {
            Self::Whole => object.clone(),
            Self::MetadataOnly => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            }),
        }
    }
}

fn selector(target: &Target) -> Result<Selector, Refusal> {
    Selector::parse(target.parameter("labelSelector"), target.parameter("fieldSelector"))
}

impl Store {
    pub fn get(&self, target: &Target, name: &str, view: View) -> Result<Value, Refusal> {
        let found = self.objects.get(&target.id(name));
        found.map(|object| view.show(object)).ok_or_else(|| Refusal::not_found(&target.of.plural, name))
    }

    pub fn list(&mut self, target: &Target, view: View) -> Result<Value, Refusal> {
        let selector = selector(target)?;
        let mut version = self.version.to_string();
        let mut found: Vec<Value> = match target.parameter("continue") {
            Some(token) => {
                token.split('-').next().unwrap_or_default().clone_into(&mut version);
                self.pages.remove(token).ok_or_else(Refusal::expired)?
            }
            None => self
                .of_type(&target.of, &target.namespace)
                .filter(|(_, object)| selector.matches(object))
                .map(|(_, object)| view.show(object))
                .collect(),
        };
        let kind = found.first().and_then(|object| object["kind"].as_str()).unwrap_or_default();
        let mut list = json!({
            "kind": format!("{kind}List"),
            "apiVersion": target.api_version(),
            "metadata": {"resourceVersion": version},
        });
        let limit = target.parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(0);
        if limit > 0 && found.len() > limit {
            let rest = found.split_off(limit);
            let token = format!("{version}-{}", self.new_suffix());
            list["metadata"]["remainingItemCount"] = json!(rest.len());
            list["metadata"]["continue"] = json!(token);
            self.pages.insert(token, rest);
        }
        list["items"] = Value::Array(found);
        Ok(list)
    }
}

struct Following {
    server: FakeServer,
    target: Target,
    selector: Selector,
    view: View,
    seen: u64,
    epoch: u64,
    deadline: Instant,
    lines: std::collections::VecDeque<Value>,
    is_over: bool,
}

/// The lines of a watch, until its time is over or it is cut.
pub(crate) fn watch(
    server: &FakeServer,
    target: &Target,
    view: View,
) -> Result<impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + use<>, Refusal> {
    let selector = selector(target)?;
    let seconds = target.parameter("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
    let mut following = Following {
        server: server.clone(),
        selector,
        view,
        seen: 0,
        epoch: server.signal().borrow().epoch,
        deadline: Instant::now() + Duration::from_secs(seconds),
        lines: std::collections::VecDeque::new(),
        is_over: false,
        target: target.clone(),
    };
    following.begin();
    Ok(futures::stream::unfold(following, |mut following| async move {
        let line = following.next().await?;
        Some((line.map(|line| Frame::data(Bytes::from(format!("{line}\n")))), following))
    }))
}

impl Following {
    fn begin(&mut self) {
        let from =
            self.target.parameter("resourceVersion").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let server = self.server.clone();
        let state = server.lock();
        let store = &state.store;
        if from == 0 {
            for (_, object) in store.of_type(&self.target.of, &self.target.namespace) {
                if self.selector.matches(object) {
                    self.lines.push_back(json!({"type": "ADDED", "object": self.view.show(object)}));
                }
            }
            self.seen = store.version;
            if self.target.flag("sendInitialEvents") {
                let mut bookmark = self.bookmark();
                set_meta(
                    &mut bookmark["object"],
                    "annotations",
                    Some(json!({"k8s.io/initial-events-end": "true"})),
                );
                self.lines.push_back(bookmark);
            }
        } else if from < store.compacted {
            self.lines.push_back(json!({"type": "ERROR", "object": Refusal::expired().status()}));
            self.is_over = true;
        } else {
            self.seen = from;
        }
    }

    async fn next(&mut self) -> Option<Result<Value, BoxError>> {
        let mut signal = self.server.signal().subscribe();
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            if self.is_over {
                return None;
            }
            if signal.borrow_and_update().epoch != self.epoch {
                self.is_over = true;
                return Some(Err("connection reset by peer".into()));
            }
            self.read_history();
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                // The server lives as long as this stream holds it, so there is always a sender.
                _ = signal.changed() => {}
                () = tokio::time::sleep_until(self.deadline) => {
                    self.is_over = true;
                    if self.target.flag("allowWatchBookmarks") {
                        self.lines.push_back(self.bookmark());
                    }
                }
            }
        }
    }

    fn bookmark(&self) -> Value {
        json!({
            "type": "BOOKMARK",
            "object": {
                "kind": self.target.of.plural,
                "apiVersion": self.target.api_version(),
                "metadata": {"resourceVersion": self.seen.to_string()},
            },
        })
    }

    fn read_history(&mut self) {
        let server = self.server.clone();
        let state = server.lock();
        let start = state.store.history.partition_point(|event| event.version <= self.seen);
        for event in &state.store.history[start..] {
            self.seen = event.version;
            let is_wanted = event.id.of == self.target.of
                && (self.target.namespace.is_empty() || event.id.namespace == self.target.namespace);
            if !is_wanted {
                continue;
            }
            let matches = |object: &&Value| self.selector.matches(object);
            let (before, after) =
                (event.before.as_ref().filter(matches), event.after.as_ref().filter(matches));
            let (kind, object) = match (before, after) {
                (None, Some(after)) => ("ADDED", after.clone()),
                (Some(_), Some(after)) => ("MODIFIED", after.clone()),
                (Some(before), None) => {
                    // An object that is removed, or leaves the selection, is shown as it was, under the new version.
                    let mut last = before.clone();
                    set_meta(&mut last, "resourceVersion", Some(json!(event.version.to_string())));
                    ("DELETED", last)
                }
                (None, None) => continue,
            };
            debug_assert!(
                !meta_str(&object, "resourceVersion").is_empty(),
                "every stored object has a version"
            );
            self.lines.push_back(json!({"type": kind, "object": self.view.show(&object)}));
        }
    }
}
