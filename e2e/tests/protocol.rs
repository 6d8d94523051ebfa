//! Two operators act at once, and one or the other is stopped and continued at random moments: the protocol must keep
//! them from harm without any help of leader election.
//!
//! Every event of every ClusterNode, Run and pod is looked at. The seed is printed; `TRAINYARD_SEED` repeats the pauses,
//! though not the machine's own timing.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use trainyard_api::run_status::{AttemptCause, RunPhase};
use trainyard_api::{Cluster, ClusterNode, Run};
use trainyard_e2e::controlplane::{ControlPlane, Options, annotations, eventually};
use trainyard_e2e::installation::{Operator, install};

const NAMESPACE: &str = "two-leaders";
const RUNS: usize = 20;
const PAUSES: usize = 20;
/// The story takes about a minute and a half on two cores that do nothing else.
const LIMIT: Duration = Duration::from_mins(8);

#[tokio::test]
async fn two_operators_at_once_with_pauses_give_no_node_twice() -> Result<()> {
    let plane = ControlPlane::start(Options::default()).await?;
    install(&plane).await?;
    let client = plane.client().await?;
    let mut random = Random::seeded();

    let oracle = Oracle::default();
    let looking = oracle.look(&client);
    let leaders = [
        Operator::start_with(&plane, 0, &["--leader-election=false"]).await?,
        Operator::start_with(&plane, 1, &["--leader-election=false"]).await?,
    ];
    submit(&client, &mut random).await?;

    let pausing = async {
        for _ in 0..PAUSES {
            tokio::time::sleep(random.millis(50, 1500)).await;
            let process = leaders[random.below(2) as usize].process();
            process.pause()?;
            tokio::time::sleep(random.millis(20, 2500)).await;
            process.resume()?;
        }
        Ok::<(), anyhow::Error>(())
    };
    tokio::select! {
        paused = pausing => paused?,
        watched = looking.wait() => watched?,
    }
    for leader in &leaders {
        ensure!(leader.process().ended().is_none(), "an operator ended:\n{}", leader.process().log_tail());
    }

    eventually("all runs to end and all nodes to leave", LIMIT, || async {
        oracle.verdict()?;
        let runs =
            Api::<Run>::namespaced(client.clone(), NAMESPACE).list(&ListParams::default()).await?.items;
        let left: Vec<String> = runs.iter().filter(|run| !is_over(run)).map(ResourceExt::name_any).collect();
        ensure!(left.is_empty(), "not over: {left:?}");
        let nodes = Api::<ClusterNode>::all(client.clone()).list(&ListParams::default()).await?.items.len();
        ensure!(nodes == 0, "{nodes} ClusterNodes are there");
        Ok(())
    })
    .await?;
    oracle.verdict()?;
    judge_runs(&client).await?;
    ensure!(machines(&client).await? == 0, "machines are left behind");
    let cluster = Api::<Cluster>::namespaced(client.clone(), NAMESPACE).get("pool").await?;
    let status = cluster.status.unwrap_or_default();
    eprintln!("{} nodes were made, {} events were looked at", status.last_node_ordinal, oracle.events());
    Ok(())
}

/// A Cluster of at most four nodes, and twenty runs of one to four nodes that take a second or two.
async fn submit(client: &Client, random: &mut Random) -> Result<()> {
    let create = PostParams::default();
    let namespace: Namespace = object(json!({"metadata": {"name": NAMESPACE}}));
    Api::<Namespace>::all(client.clone()).create(&create, &namespace).await?;
    let cluster: Cluster = object(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "Cluster",
        "metadata": {"name": "pool", "namespace": NAMESPACE},
        "spec": {"vmSize": "Standard_NC6s_v3", "scale": {"maxNodes": 4, "idleSecondsBeforeScaleDown": 3}},
    }));
    Api::<Cluster>::namespaced(client.clone(), NAMESPACE).create(&create, &cluster).await?;
    for index in 0..RUNS {
        let run: Run = object(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run",
            "metadata": {"name": format!("r{index}"), "namespace": NAMESPACE},
            "spec": {
                "clusterRef": {"name": "pool"},
                "nodeCount": 1 + random.below(4),
                "distribution": {"pytorch": {}},
                "container": {"image": "registry.example/train:1"},
                "command": ["python", "train.py"],
                "podTemplate": {"annotations": {
                    (annotations::RUN_FOR): format!("{}ms", 300 + random.below(1500)),
                    (annotations::EXIT_CODE): "0",
                }},
            },
        }));
        Api::<Run>::namespaced(client.clone(), NAMESPACE).create(&create, &run).await?;
    }
    Ok(())
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn is_over(run: &Run) -> bool {
    run.status.as_ref().and_then(|status| status.phase).is_some_and(RunPhase::is_terminal)
}

/// Every run completed, and was tried again only for what is no failure of its own.
async fn judge_runs(client: &Client) -> Result<()> {
    let runs = Api::<Run>::namespaced(client.clone(), NAMESPACE).list(&ListParams::default()).await?.items;
    ensure!(runs.len() == RUNS);
    for run in runs {
        let (name, status) = (run.name_any(), run.status.unwrap_or_default());
        ensure!(
            status.phase == Some(RunPhase::Completed),
            "{name} is {:?}: {:?}",
            status.phase,
            status.message
        );
        let excused = |cause: AttemptCause| {
            matches!(cause, AttemptCause::NotStarted | AttemptCause::Infrastructure | AttemptCause::Requeue)
        };
        let causes: Vec<AttemptCause> = status.attempts.iter().filter_map(|attempt| attempt.cause).collect();
        let own = causes.iter().filter(|cause| !excused(**cause)).count();
        ensure!(own == 1, "{name} was tried for no reason: {causes:?}");
        ensure!(status.attempts.iter().all(|attempt| attempt.pods_gone), "{name} has pods left");
    }
    Ok(())
}

async fn machines(client: &Client) -> Result<usize> {
    let kind = GroupVersionKind::gvk("karpenter.sh", "v1", "NodeClaim");
    let claims: Api<DynamicObject> =
        Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "nodeclaims"));
    Ok(claims.list(&ListParams::default()).await?.items.len())
}

/// What was seen so far, and the first promise that was seen to be broken.
#[derive(Clone, Default)]
struct Oracle {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    nodes: BTreeMap<String, ClusterNode>,
    runs: BTreeMap<String, Run>,
    pods: BTreeMap<String, Pod>,
    events: usize,
    broken: Option<String>,
}

/// The watches of an oracle; they end with it.
struct Looking(tokio::task::JoinSet<Result<()>>);

impl Looking {
    /// Returns only with an error: watches do not end.
    async fn wait(mut self) -> Result<()> {
        match self.0.join_next().await {
            Some(ended) => ended?,
            None => bail!("nobody looks"),
        }
    }
}

impl Oracle {
    fn verdict(&self) -> Result<()> {
        match &self.seen.lock().unwrap().broken {
            Some(broken) => bail!("{broken}"),
            None => Ok(()),
        }
    }

    fn events(&self) -> usize {
        self.seen.lock().unwrap().events
    }

    /// Looks at every event from now on. Each kind is in order; between kinds a little may be early or late, so what is
    /// judged is of one object, or true however the kinds are mixed.
    fn look(&self, client: &Client) -> Looking {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(follow(Api::<ClusterNode>::all(client.clone()), self.clone(), Seen::node));
        tasks.spawn(follow(Api::<Run>::all(client.clone()), self.clone(), Seen::run));
        tasks.spawn(follow(Api::<Pod>::all(client.clone()), self.clone(), Seen::pod));
        Looking(tasks)
    }
}

#[allow(clippy::disallowed_methods, reason = "a test has no cache: it looks at every single event")]
async fn follow<K>(
    api: Api<K>,
    oracle: Oracle,
    judge: fn(&mut Seen, String, Option<K>) -> Result<()>,
) -> Result<()>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let mut events = std::pin::pin!(kube::runtime::watcher(api, watcher::Config::default()));
    while let Some(event) = events.try_next().await? {
        let (uid, object) = match event {
            Event::Apply(object) | Event::InitApply(object) => {
                (object.uid().unwrap_or_default(), Some(object))
            }
            Event::Delete(object) => (object.uid().unwrap_or_default(), None),
            Event::Init | Event::InitDone => continue,
        };
        let mut seen = oracle.seen.lock().unwrap();
        seen.events += 1;
        let shown = format!("{object:?}");
        if let Err(broken) = judge(&mut seen, uid, object) {
            seen.broken.get_or_insert(format!("{broken:#}; seen in {shown}"));
        }
    }
    Ok(())
}

impl Seen {
    fn node(&mut self, uid: String, node: Option<ClusterNode>) -> Result<()> {
        let before = self.nodes.remove(&uid);
        let Some(after) = node else {
            let before = before.map(|node| node.spec.claims).unwrap_or_default();
            ensure!(before.is_empty(), "a claimed ClusterNode is gone");
            return Ok(());
        };
        let name = after.name_any();
        ensure!(
            after.spec.claims.len() <= 1,
            "{name} is given to {} runs, and each wants the whole",
            after.spec.claims.len()
        );
        ensure!(
            after.spec.released.is_none() || after.spec.claims.is_empty(),
            "{name} is released and claimed"
        );
        if let Some(before) = before {
            ensure!(
                before.spec.released.is_none() || after.spec.released == before.spec.released,
                "{name} was released, and is not"
            );
        }
        self.nodes.insert(uid, after);
        Ok(())
    }

    fn run(&mut self, uid: String, run: Option<Run>) -> Result<()> {
        let before = self.runs.remove(&uid).and_then(|run| run.status).unwrap_or_default();
        let Some(run) = run else { return Ok(()) };
        let (name, status) = (run.name_any(), run.status.clone().unwrap_or_default());
        let last = before.allocation.as_ref().map_or(0, |allocation| allocation.attempt);
        if let Some(allocation) = &status.allocation {
            let mut names: Vec<&str> = allocation.nodes.iter().map(|node| node.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            ensure!(names.len() == allocation.nodes.len(), "{name} has one node twice");
            if allocation.attempt == last {
                ensure!(
                    before.allocation.is_some_and(|old| old.nodes == allocation.nodes),
                    "{name}: nodes changed"
                );
            } else {
                ensure!(
                    allocation.attempt == last + 1,
                    "{name}: attempt {} follows {last}",
                    allocation.attempt
                );
                let live = before.attempts.iter().filter(|attempt| !attempt.pods_gone).count();
                ensure!(live == 0, "{name}: attempt {} beside a live one", allocation.attempt);
            }
        }
        self.runs.insert(uid, run);
        Ok(())
    }

    /// No machine has running pods of two attempts, and no run has running pods of two attempts anywhere.
    fn pod(&mut self, uid: String, pod: Option<Pod>) -> Result<()> {
        self.pods.remove(&uid);
        let Some(pod) = pod.filter(|pod| whose(pod).is_some()) else { return Ok(()) };
        if runs(&pod) {
            let (run, attempt) = whose(&pod).unwrap_or_default();
            for other in self.pods.values().filter(|other| runs(other)) {
                let (other_run, other_attempt) = whose(other).unwrap_or_default();
                let same_node = node_of(other) == node_of(&pod);
                ensure!(
                    !same_node || (&other_run, &other_attempt) == (&run, &attempt),
                    "{} has running pods of {other_run} ({other_attempt}) and {run} ({attempt})",
                    node_of(&pod)
                );
                ensure!(
                    other_run != run || other_attempt == attempt,
                    "{run} has running pods of attempts {other_attempt} and {attempt}"
                );
            }
        }
        self.pods.insert(uid, pod);
        Ok(())
    }
}

fn whose(pod: &Pod) -> Option<(String, String)> {
    let label = |name: &str| pod.labels().get(name).cloned();
    Some((label(trainyard_api::names::labels::RUN_UID)?, label(trainyard_api::names::labels::ATTEMPT)?))
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let given = std::env::var("TRAINYARD_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            now.as_nanos() as u64 | 1
        });
        eprintln!("TRAINYARD_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least))
    }
}
