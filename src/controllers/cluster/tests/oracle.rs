//! Whether the protocol was kept, judged after every single write that was ever made.
//!
//! It reads the history of the API server's objects, so nothing that was true only for a moment escapes it. It shares no
//! code with the controller.

use std::collections::BTreeMap;

use serde_json::Value;
use trainyard_api::cluster_node::Claim;
use trainyard_api::run_status::{Allocation, Attempt, RunPhase, RunStatus};
use trainyard_api::{Cluster, ClusterNode, Run};
use trainyard_fake_apiserver::FakeServer;

/// Panics with the first write that broke a promise.
pub fn check(server: &FakeServer) {
    let mut seen = Seen::default();
    for (index, (before, after)) in server.changes().into_iter().enumerate() {
        let kind = before.as_ref().or(after.as_ref()).map(|object| object["kind"].clone());
        let broken = match kind.as_ref().and_then(Value::as_str) {
            Some("ClusterNode") => {
                seen.node_changed(&uid_of(before.as_ref(), after.as_ref()), typed(after.as_ref()))
            }
            Some("Run") => seen.run_changed(&uid_of(before.as_ref(), after.as_ref()), typed(after.as_ref())),
            Some("Cluster") => {
                seen.cluster_changed(&uid_of(before.as_ref(), after.as_ref()), typed(after.as_ref()));
                Ok(())
            }
            _ => continue,
        };
        if let Err(why) = broken.and_then(|()| seen.launched_attempts_have_their_nodes()) {
            panic!("write {index} broke the protocol: {why}\nbefore: {before:#?}\nafter: {after:#?}");
        }
    }
}

fn typed<K: serde::de::DeserializeOwned>(object: Option<&Value>) -> Option<K> {
    object.map(|object| serde_json::from_value(object.clone()).expect("a stored object decodes"))
}

fn uid_of(before: Option<&Value>, after: Option<&Value>) -> String {
    let object = before.or(after);
    object.and_then(|object| object["metadata"]["uid"].as_str()).unwrap_or_default().to_owned()
}

/// All objects as they are after some write.
#[derive(Default)]
struct Seen {
    nodes: BTreeMap<String, ClusterNode>,
    runs: BTreeMap<String, Run>,
    clusters: BTreeMap<String, Cluster>,
}

type Judgement = Result<(), String>;

fn must(holds: bool, why: impl FnOnce() -> String) -> Judgement {
    if holds { Ok(()) } else { Err(why()) }
}

impl Seen {
    fn node_changed(&mut self, uid: &str, after: Option<ClusterNode>) -> Judgement {
        let before = self.nodes.remove(uid);
        let Some(after) = after else {
            let Some(before) = before else { return Ok(()) };
            let gone = before.status.is_some_and(|status| status.gone_time.is_some());
            must(gone, || "a ClusterNode was forgotten before its machine was gone".into())?;
            return must(before.spec.claims.is_empty(), || "a claimed ClusterNode was forgotten".into());
        };
        let name = after.metadata.name.clone().unwrap_or_default();
        if let Some(allocatable) = after.status.as_ref().and_then(|status| status.allocatable.as_ref()) {
            let claimed: i64 = after.spec.claims.iter().map(|claim| claim.share.cpu_millis).sum();
            must(claimed <= allocatable.cpu_millis, || format!("{name} is claimed beyond its capacity"))?;
        }
        must(after.spec.released.is_none() || after.spec.claims.is_empty(), || {
            format!("{name} is released and claimed")
        })?;
        must(after.spec.idle_since.is_none() || after.spec.claims.is_empty(), || {
            format!("{name} is idle and claimed")
        })?;
        match &before {
            None => self.ordinal_is_reserved(&after)?,
            Some(before) => self.node_moved(&name, before, &after)?,
        }
        self.nodes.insert(uid.to_owned(), after);
        Ok(())
    }

    fn ordinal_is_reserved(&self, node: &ClusterNode) -> Judgement {
        let Some(cluster) = self.clusters.get(&node.spec.cluster.uid) else { return Ok(()) };
        let last = cluster.status.as_ref().map_or(0, |status| status.last_node_ordinal);
        must(node.spec.ordinal <= last, || format!("ordinal {} was not reserved", node.spec.ordinal))?;
        let held = cluster.metadata.finalizers.iter().flatten().any(|one| one.contains("trainyard"));
        must(held, || "a node of a Cluster that can vanish without us".into())
    }

    fn node_moved(&self, name: &str, before: &ClusterNode, after: &ClusterNode) -> Judgement {
        must(before.spec.released.is_none() || before.spec.released == after.spec.released, || {
            format!("{name} was released and is not any more")
        })?;
        if let Some(retired) = &before.spec.retired {
            must(!retired.reason.is_final() || after.spec.retired.is_some(), || {
                format!("{name} was retired for good and is taken back")
            })?;
        }
        if !before.spec.claims.is_empty() && after.spec.claims.is_empty() {
            must(after.spec.idle_since.is_some(), || format!("{name} lost its last claim and is not idle"))?;
        }
        for claim in before.spec.claims.iter().filter(|claim| !after.spec.claims.contains(claim)) {
            let held_on =
                |other: &&Claim| other.run_uid == claim.run_uid && other.attempt == Claim::OF_NO_ATTEMPT;
            if claim.attempt == Claim::OF_NO_ATTEMPT {
                self.share_may_go(name, &claim.run_uid, &after.spec.claims)?;
            } else if !after.spec.claims.iter().any(|other| held_on(&other)) {
                self.claim_may_go(name, &claim.run_uid, claim.attempt)?;
            }
        }
        let added = after.spec.claims.iter().any(|claim| !before.spec.claims.contains(claim));
        must(!added || before.spec.retired.is_none(), || format!("{name} leaves and was claimed"))
    }

    /// What is held for no attempt may go unless an attempt that lives is there, and without a claim of its own.
    fn share_may_go(&self, node: &str, run: &str, left: &[Claim]) -> Judgement {
        let Some(status) = self.runs.get(run).and_then(|run| run.status.as_ref()) else { return Ok(()) };
        let Some(allocation) = &status.allocation else { return Ok(()) };
        let is_there = allocation.nodes.iter().any(|allocated| allocated.name == node);
        let is_gone = answer(status).is_some_and(|attempt| attempt.pods_gone);
        let is_claimed = left.iter().any(|claim| claim.run_uid == run && claim.attempt == allocation.attempt);
        must(!is_there || is_gone || is_claimed, || {
            format!(
                "{node} is not held any more for attempt {}, which was allocated there",
                allocation.attempt
            )
        })
    }

    fn claim_may_go(&self, node: &str, run: &str, attempt: i32) -> Judgement {
        let Some(run) = self.runs.get(run) else { return Ok(()) };
        let status = run.status.clone().unwrap_or_default();
        let over = status.phase.is_some_and(RunPhase::is_terminal)
            || status.cancel_requested_time.is_some()
            || run.metadata.deletion_timestamp.is_some();
        let may_go = match &status.allocation {
            Some(allocation) if allocation.attempt > attempt => true,
            Some(allocation) if allocation.attempt == attempt => {
                answer(&status).is_some_and(|attempt| attempt.pods_gone)
                    || allocation.nodes.iter().all(|allocated| allocated.name != node)
            }
            _ => over,
        };
        must(may_go, || {
            format!("{node} lost the claim of an attempt {attempt} that may still be started, or runs")
        })
    }

    fn run_changed(&mut self, uid: &str, after: Option<Run>) -> Judgement {
        let before = self.runs.remove(uid);
        let Some(after) = after else { return Ok(()) };
        let name = after.metadata.name.clone().unwrap_or_default();
        let earlier = before.and_then(|run| run.status).unwrap_or_default();
        let later = after.status.clone().unwrap_or_default();
        match (&earlier.allocation, &later.allocation) {
            (None, None) => {}
            (Some(_), None) => return Err(format!("{name} lost its allocation")),
            (was, Some(is)) => {
                let last = was.as_ref().map_or(0, |allocation| allocation.attempt);
                if is.attempt == last {
                    must(was.as_ref().is_some_and(|was| was.nodes == is.nodes), || {
                        format!("{name}: the nodes of attempt {last} changed")
                    })?;
                } else {
                    must(is.attempt == last + 1, || {
                        format!("{name}: attempt {} follows {last}", is.attempt)
                    })?;
                    let free = last == 0 || answer(&earlier).is_some_and(|attempt| attempt.pods_gone);
                    must(free, || format!("{name}: attempt {} beside attempt {last}", is.attempt))?;
                    nodes_are_distinct(&name, is)?;
                }
            }
        }
        self.runs.insert(uid.to_owned(), after);
        Ok(())
    }

    fn cluster_changed(&mut self, uid: &str, after: Option<Cluster>) {
        self.clusters.remove(uid);
        self.clusters.extend(after.map(|after| (uid.to_owned(), after)));
    }

    /// Between its launch and the end of its pods an attempt has its claim on every node, alone or within capacity.
    fn launched_attempts_have_their_nodes(&self) -> Judgement {
        for run in self.runs.values() {
            let Some(status) = &run.status else { continue };
            let (Some(allocation), Some(attempt)) = (&status.allocation, answer(status)) else { continue };
            if attempt.launched.is_none() || attempt.pods_gone {
                continue;
            }
            for allocated in &allocation.nodes {
                let claimed = self.nodes.values().any(|node| {
                    node.metadata.name.as_ref() == Some(&allocated.name)
                        && node.spec.claims.iter().any(|claim| {
                            Some(&claim.run_uid) == run.metadata.uid.as_ref()
                                && [attempt.number, Claim::OF_NO_ATTEMPT].contains(&claim.attempt)
                        })
                });
                must(claimed, || {
                    format!(
                        "attempt {} of {:?} runs on {} without a claim",
                        attempt.number, run.metadata.name, allocated.name
                    )
                })?;
            }
        }
        Ok(())
    }
}

/// What the run controller recorded of the latest allocation.
fn answer(status: &RunStatus) -> Option<&Attempt> {
    let number = status.allocation.as_ref()?.attempt;
    status.attempts.iter().find(|attempt| attempt.number == number)
}

fn nodes_are_distinct(run: &str, allocation: &Allocation) -> Judgement {
    let mut names: Vec<&str> = allocation.nodes.iter().map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    must(names.len() == allocation.nodes.len(), || format!("{run} has one node twice"))
}
