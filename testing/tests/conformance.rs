//! One story told to this server and to a real one: the answers must be the same, line by line.
//!
//! `conformance.txt` holds the answers of kube-apiserver 1.36. To record them again, point `KUBECONFIG` at a cluster
//! that may be written to (namespace `default`) and run with `TRAINYARD_RECORD=1`.
#![allow(clippy::unwrap_used, clippy::large_futures)] // A story is told once, on a test thread.

use std::fmt::Debug;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use trainyard_fake_apiserver::FakeServer;

fn typed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// What an answer says, without what differs from run to run.
fn told<T>(result: &Result<T, kube::Error>, shown: impl Fn(&T) -> String) -> String {
    match result {
        Ok(value) => shown(value),
        Err(kube::Error::Api(status)) => format!("{} {}", status.code, status.reason),
        Err(other) => format!("no answer: {other}"),
    }
}

fn data(map: &ConfigMap) -> String {
    format!("data {:?} finalizers {:?}", map.data.clone().unwrap_or_default(), map.finalizers())
}

/// Owners and their fields, without times.
fn owners<K: ResourceExt>(object: &K) -> String {
    let entries = object.managed_fields().iter().map(|entry| {
        let fields = entry.fields_v1.as_ref().map_or(Value::Null, |fields| fields.0.clone());
        let subresource = entry.subresource.as_deref().unwrap_or_default();
        format!(
            "{}/{}{subresource} {fields}",
            entry.manager.as_deref().unwrap_or_default(),
            entry.operation.as_deref().unwrap_or_default(),
        )
    });
    let mut entries: Vec<String> = entries.collect();
    entries.sort();
    entries.join("; ")
}

struct Story {
    client: Client,
    lines: Vec<String>,
}

impl Story {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    fn say(&mut self, what: &str, answer: impl Into<String>) {
        self.lines.push(format!("{what}: {}", answer.into()));
    }

    async fn create(&mut self, what: &str, object: &ConfigMap) -> Option<ConfigMap> {
        let result = self.api().create(&PostParams::default(), object).await;
        self.say(what, told(&result, data));
        result.ok()
    }

    async fn patch<P: Serialize + Debug>(
        &mut self,
        what: &str,
        how: PatchParams,
        patch: Patch<P>,
    ) -> Option<ConfigMap> {
        let result = self.api::<ConfigMap>().patch("m", &how, &patch).await;
        self.say(what, told(&result, data));
        result.ok()
    }

    async fn merge(&mut self, what: &str, body: Value) -> Option<ConfigMap> {
        self.patch(what, PatchParams::default(), Patch::Merge(body)).await
    }

    async fn json(&mut self, what: &str, operations: Value) -> Option<ConfigMap> {
        self.patch(what, PatchParams::default(), Patch::Json::<()>(typed(operations))).await
    }

    async fn apply(&mut self, what: &str, manager: &str, force: bool, mut body: Value) -> Option<ConfigMap> {
        body["apiVersion"] = json!("v1");
        body["kind"] = json!("ConfigMap");
        let how = PatchParams { force, ..PatchParams::apply(manager) };
        self.patch(what, how, Patch::Apply(body)).await
    }

    async fn delete(&mut self, what: &str, how: DeleteParams) {
        let result = self.api::<ConfigMap>().delete("m", &how).await;
        self.say(what, told(&result, |_| "accepted".into()));
    }

    async fn there(&mut self, what: &str) {
        let result = self.api::<ConfigMap>().get("m").await;
        let shown = |map: &ConfigMap| {
            format!(
                "{} {}",
                data(map),
                if map.metadata.deletion_timestamp.is_some() { "deleted" } else { "live" }
            )
        };
        self.say(what, told(&result, shown));
    }
}

fn map() -> ConfigMap {
    typed(json!({"metadata": {"name": "m"}, "data": {"a": "1"}}))
}

async fn creation_and_replacement(story: &mut Story) {
    story.there("get of nothing").await;
    let first = story.create("create", &map()).await.unwrap();
    story.create("create again", &map()).await;
    let versioned: ConfigMap = typed(json!({"metadata": {"name": "x", "resourceVersion": "1"}}));
    story.create("create with a version", &versioned).await;
    story.create("create without a name", &ConfigMap::default()).await;
    let rehearsal = PostParams { dry_run: true, field_manager: None };
    let other: ConfigMap = typed(json!({"metadata": {"name": "other"}}));
    let maps = story.api::<ConfigMap>();
    let result = maps.create(&rehearsal, &other).await;
    story.say("rehearsed create", told(&result, data));
    let result = maps.get_opt("other").await;
    story.say("get after a rehearsal", told(&result, |found| format!("{}", found.is_some())));

    let replace = |object: ConfigMap| {
        let maps = maps.clone();
        async move { maps.replace("m", &PostParams::default(), &object).await }
    };
    let same = replace(first.clone()).await;
    let is_same =
        |map: &ConfigMap| format!("same version {}", map.resource_version() == first.resource_version());
    story.say("replace by the same", told(&same, is_same));
    let mut changed = first.clone();
    changed.data = Some([("a".into(), "2".into())].into());
    story.say("replace", told(&replace(changed.clone()).await, data));
    story.say("replace of an old version", told(&replace(changed).await, data));
    story.say("replace without a version", told(&replace(map()).await, data));
    let mut stranger = map();
    stranger.metadata.uid = Some("00000000-0000-4000-8000-ffffffffffff".into());
    story.say("replace with another uid", told(&replace(stranger).await, data));

    let lease: Lease = typed(json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "one"}}));
    let leases = story.api::<Lease>();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let result = leases.replace("l", &PostParams::default(), &lease).await;
    story.say("replace of a lease without a version", told(&result, |_| "accepted".into()));
    leases.delete("l", &DeleteParams::default()).await.unwrap();
}

async fn patches(story: &mut Story) {
    let now = story.api::<ConfigMap>().get("m").await.unwrap();
    let (version, uid) = (now.resource_version().unwrap(), now.uid().unwrap());
    story
        .merge("merge", json!({"metadata": {"resourceVersion": version}, "data": {"a": null, "b": "2"}}))
        .await;
    story
        .merge(
            "merge on an old version",
            json!({"metadata": {"resourceVersion": version}, "data": {"b": "3"}}),
        )
        .await;
    let stranger = "00000000-0000-4000-8000-ffffffffffff";
    story.merge("merge with another uid", json!({"metadata": {"uid": stranger}})).await;
    let absent = json!({"op": "test", "path": "/metadata/finalizers", "value": null});
    let add = json!({"op": "add", "path": "/metadata/finalizers", "value": ["example.com/one"]});
    story.json("json: test of nothing, add", json!([absent, add])).await;
    story.json("json: test of nothing fails", json!([absent, add])).await;
    story.json("json: test of uid", json!([{"op": "test", "path": "/metadata/uid", "value": uid}])).await;
    story
        .json("json: test of uid fails", json!([{"op": "test", "path": "/metadata/uid", "value": stranger}]))
        .await;
    let old = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": version}]);
    story.json("json: test of an old version", old.clone()).await;
    let error =
        story.api::<ConfigMap>().patch("m", &PatchParams::default(), &Patch::Json::<()>(typed(old))).await;
    let Err(kube::Error::Api(status)) = error else { panic!("the test must fail") };
    story.say("json: words of a failed test", status.message);
    story.json("json: remove of nothing", json!([{"op": "remove", "path": "/data/zzz"}])).await;
}

async fn applies(story: &mut Story) {
    story.merge("bare again", json!({"metadata": {"finalizers": null}, "data": null})).await;
    story.apply("apply by one", "one", false, json!({"data": {"x": "1", "y": "1", "s": "1"}})).await;
    story.apply("apply by two", "two", false, json!({"data": {"z": "2", "s": "1"}})).await;
    story.apply("one leaves out y and s", "one", false, json!({"data": {"x": "1"}})).await;
    let before = story.api::<ConfigMap>().get("m").await.unwrap();
    let after = story.apply("one again", "one", false, json!({"data": {"x": "1"}})).await.unwrap();
    story.say("same version", format!("{}", before.resource_version() == after.resource_version()));
    story.apply("two wants x", "two", false, json!({"data": {"x": "2", "z": "2", "s": "1"}})).await;
    story.apply("two takes x", "two", true, json!({"data": {"x": "2", "z": "2", "s": "1"}})).await;
    story.apply("one leaves out x", "one", false, json!({"data": {"w": "1"}})).await;
    story.merge("somebody writes w", json!({"data": {"w": "9"}})).await;
    story.apply("one leaves out w", "one", false, json!({"metadata": {"labels": {"l": "1"}}})).await;
    let now = story.api::<ConfigMap>().get("m").await.unwrap();
    let appliers = owners(&now);
    let appliers =
        appliers.split("; ").filter(|entry| entry.contains("/Apply")).collect::<Vec<_>>().join("; ");
    story.say("owners", appliers);
    let (uid, version) = (now.uid().unwrap(), now.resource_version().unwrap());
    let seen = json!({"metadata": {"uid": uid, "resourceVersion": version}, "data": {"v": "1"}});
    story.apply("apply on what was seen", "one", true, seen.clone()).await;
    story.apply("apply on what was seen before", "one", true, seen.clone()).await;
    story.delete("delete", DeleteParams::default()).await;
    story.apply("apply to what is gone, with uid", "one", true, seen).await;
    story.apply("apply to what is gone, without a name", "one", true, json!({"data": {"v": "1"}})).await;
    let named = json!({"metadata": {"name": "m"}, "data": {"v": "1"}});
    story.apply("apply to what is gone", "one", true, named).await;
}

async fn deletions(story: &mut Story) {
    let now =
        story.merge("finalizer", json!({"metadata": {"finalizers": ["example.com/one"]}})).await.unwrap();
    let only = |uid: Option<String>, version: Option<String>| {
        DeleteParams::default().preconditions(Preconditions { uid, resource_version: version })
    };
    let stranger = Some("00000000-0000-4000-8000-ffffffffffff".to_owned());
    story.delete("delete of another uid", only(stranger, None)).await;
    story.delete("delete of an old version", only(now.uid(), Some("1".into()))).await;
    story.delete("delete of what was seen", only(now.uid(), now.resource_version())).await;
    story.there("with a finalizer").await;
    story.delete("delete again", DeleteParams::default()).await;
    let more = json!({"metadata": {"finalizers": ["example.com/one", "example.com/two"]}});
    story.merge("one more finalizer", more).await;
    story.merge("a change while being deleted", json!({"data": {"late": "1"}})).await;
    story.merge("no finalizer", json!({"metadata": {"finalizers": null}})).await;
    story.there("without finalizers").await;
    story.delete("delete of nothing", DeleteParams::default()).await;
}

async fn lists_and_watches(story: &mut Story) {
    let maps = story.api::<ConfigMap>();
    for index in 0..4 {
        let labels = json!({"story": "list", "even": (index % 2 == 0).to_string()});
        let object = typed(json!({"metadata": {"name": format!("l{index}"), "labels": labels}}));
        maps.create(&PostParams::default(), &object).await.unwrap();
    }
    let names = |list: &kube::core::ObjectList<ConfigMap>| {
        list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(" ")
    };
    let ours = ListParams::default().labels("story=list");
    let first = maps.list(&ours.clone().limit(3)).await.unwrap();
    story.say("first page", names(&first));
    maps.delete("l3", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = maps.list(&ours.clone().limit(3).continue_token(&token)).await.unwrap();
    story.say("the rest, from the same state", names(&rest));
    for selector in
        ["story=list,even!=true", "story in (list),!gone", "story,even notin (true)", "gone notin (x),story"]
    {
        let found = maps.list(&ListParams::default().labels(selector)).await.unwrap();
        story.say(selector, names(&found));
    }
    let found = maps.list(&ours.clone().fields("metadata.name=l1")).await.unwrap();
    story.say("by field", names(&found));

    let since = maps.list(&ours).await.unwrap().metadata.resource_version.unwrap();
    let label = |value: &'static str| {
        let maps = maps.clone();
        let body = json!({"metadata": {"labels": {"even": value}}});
        async move { maps.patch("l0", &PatchParams::default(), &Patch::Merge(body)).await.unwrap() }
    };
    label("no").await;
    label("never").await;
    label("true").await;
    let touched = json!({"data": {"x": "1"}});
    maps.patch("l0", &PatchParams::default(), &Patch::Merge(touched)).await.unwrap();
    for name in ["l0", "l1", "l2"] {
        maps.delete(name, &DeleteParams::default()).await.unwrap();
    }
    let params = WatchParams::default().labels("story=list,even=true").disable_bookmarks().timeout(20);
    let events: Vec<WatchEvent<ConfigMap>> =
        maps.watch(&params, &since).await.unwrap().take(5).try_collect().await.unwrap();
    let shown = events.iter().map(|event| match event {
        WatchEvent::Added(map) => format!("+{} {}", map.name_any(), map.labels()["even"]),
        WatchEvent::Modified(map) => format!("~{} {}", map.name_any(), map.labels()["even"]),
        WatchEvent::Deleted(map) => format!("-{} {}", map.name_any(), map.labels()["even"]),
        other => format!("{other:?}"),
    });
    story.say("watch", shown.collect::<Vec<_>>().join(", "));
}

async fn status_and_generation(story: &mut Story) {
    let pods = story.api::<Pod>();
    let pod: Pod = typed(json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "main", "image": "none"}],
                 "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 30},
        "status": {"phase": "Running"},
    }));
    let types = |pod: &Pod| {
        let conditions = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        conditions.into_iter().map(|condition| condition.type_).collect::<Vec<_>>().join(" ")
    };
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let apply = |manager: &'static str, names: &'static [&str]| {
        let pods = pods.clone();
        let conditions: Vec<Value> =
            names.iter().map(|name| json!({"type": name, "status": "True"})).collect();
        let body = json!({"apiVersion": "v1", "kind": "Pod", "status": {"conditions": conditions}});
        async move { pods.patch_status("p", &PatchParams::apply(manager), &Patch::Apply(body)).await }
    };
    story.say("conditions of one", told(&apply("one", &["example.com/a", "example.com/b"]).await, types));
    story.say("and of two", told(&apply("two", &["example.com/c"]).await, types));
    story.say("one leaves out b", told(&apply("one", &["example.com/a"]).await, types));
    let body = json!({"metadata": {"labels": {"x": "y"}}, "status": {"reason": "Ignored"}});
    let shown = |pod: &Pod| {
        format!("labels {} reason {:?}", pod.labels().len(), pod.status.clone().unwrap_or_default().reason)
    };
    let main = pods.patch("p", &PatchParams::default(), &Patch::Merge(&body)).await;
    story.say("status on the main resource", told(&main, shown));
    let body = json!({"metadata": {"annotations": {"x": "y"}}, "spec": {"nodeName": "z"}, "status": {"reason": "Seen"}});
    let status = pods.patch_status("p", &PatchParams::default(), &Patch::Merge(&body)).await;
    let node = |pod: &Pod| format!("{} node {:?}", shown(pod), pod.spec.clone().unwrap().node_name);
    story.say("spec on the status", told(&status, node));
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let stopping = pods.get("p").await;
    let grace = |pod: &Pod| format!("grace {:?}", pod.metadata.deletion_grace_period_seconds);
    story.say("a bound pod being deleted", told(&stopping, grace));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    story.say("and at once", told(&pods.get("p").await, grace));

    let deployments = story.api::<Deployment>();
    let deployment: Deployment = typed(json!({
        "metadata": {"name": "d", "finalizers": ["example.com/one"]},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"d": "d"}},
                 "template": {"metadata": {"labels": {"d": "d"}},
                              "spec": {"containers": [{"name": "main", "image": "none"}]}}},
    }));
    let generation = |d: &Deployment| format!("generation {:?}", d.metadata.generation);
    let created = deployments.create(&PostParams::default(), &deployment).await;
    story.say("created", told(&created, generation));
    let patch = |body: Value| {
        let deployments = deployments.clone();
        async move { deployments.patch("d", &PatchParams::default(), &Patch::Merge(body)).await }
    };
    story.say("labelled", told(&patch(json!({"metadata": {"labels": {"x": "y"}}})).await, generation));
    story.say("paused", told(&patch(json!({"spec": {"paused": true}})).await, generation));
    let body = json!({"status": {"observedGeneration": 2}});
    let status = deployments.patch_status("d", &PatchParams::default(), &Patch::Merge(body)).await;
    story.say("observed", told(&status, generation));
    deployments.delete("d", &DeleteParams::background()).await.unwrap();
    story.say("being deleted", told(&deployments.get("d").await, generation));
    patch(json!({"metadata": {"finalizers": null}})).await.unwrap();
    story.say("released", told(&deployments.get("d").await, generation));
}

async fn whole_story(client: Client) -> String {
    let mut story = Story { client, lines: Vec::new() };
    creation_and_replacement(&mut story).await;
    patches(&mut story).await;
    applies(&mut story).await;
    deletions(&mut story).await;
    lists_and_watches(&mut story).await;
    status_and_generation(&mut story).await;
    story.lines.join("\n") + "\n"
}

#[tokio::test]
async fn this_server_answers_as_the_real_one() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance.txt");
    #[expect(clippy::disallowed_methods, reason = "recording is asked for by the person who runs the test")]
    if std::env::var("TRAINYARD_RECORD").is_ok() {
        std::fs::write(golden, whole_story(Client::try_default().await.unwrap()).await).unwrap();
    }
    let real = std::fs::read_to_string(golden).unwrap();
    let fake = whole_story(FakeServer::new().stopping_pods_gracefully().client("conformance")).await;
    for (real, fake) in real.lines().zip(fake.lines()) {
        assert_eq!(fake, real, "this server, and then the real one");
    }
    assert_eq!(fake.lines().count(), real.lines().count());
}
