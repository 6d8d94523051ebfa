//! Steps on the Run itself, and on the ClusterNodes of its allocation.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};
use trainyard_api::Run;
use trainyard_api::names::{FieldManager, Finalizer};
use trainyard_api::run_status::{RunPhase, RunStatus};

use super::{AT_ONCE, Done, Hands, removal};
use crate::controllers::run::facts::NodeFacts;
use crate::kubernetes::apply::{self, PatchIf, Seen};
use crate::kubernetes::error::{Error, ErrorKind, Verb};
use crate::kubernetes::read::{self, Selection};

/// Up to so many ClusterNodes are read one by one, which the API server answers from memory for a fraction of a list of
/// all nodes of the Cluster.
const READ_ONE_BY_ONE: usize = 4;

impl Hands {
    pub(super) async fn write_status(&self, wanted: &RunStatus) -> Result<Run, Error> {
        let run = self.whole()?;
        let body = json!({"status": changes(run.status.as_ref(), wanted)?});
        apply::merge_status(&self.runs, &Seen::of(run)?, FieldManager::RunStatus.as_str(), &body).await
    }

    /// On the version that was observed: a Run that changed meanwhile may have an attempt that nobody has stopped.
    pub(super) async fn remove_run_finalizer(&self) -> Result<Done, Error> {
        let Some(facts) = &self.facts else { return Ok(Done::Run(None)) };
        let Some(operations) = removal(&facts.finalizers, Finalizer::Run) else { return Ok(Done::Run(None)) };
        match apply::patch(&self.runs, &facts.seen, PatchIf::Unchanged, operations).await {
            // It is gone, or will be as soon as others let it go; either way it is no more of our business.
            Ok(_) => Ok(Done::Run(None)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Done::Run(None)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_nodes(&self) -> Result<BTreeMap<String, NodeFacts>, Error> {
        if self.allocated.len() > READ_ONE_BY_ONE
            && let Some(uid) = &self.cluster_uid
        {
            let of_cluster = Selection::all().fields(format!("spec.cluster.uid={uid}"));
            let all = read::list(&self.nodes, &of_cluster).await?;
            let of_run = all.iter().filter(|node| self.allocated.contains(&node.name_any()));
            return Ok(of_run.map(|node| (node.name_any(), NodeFacts::of(node))).collect());
        }
        let mut found = BTreeMap::new();
        let names = self.allocated.clone();
        let mut answers = stream::iter(names)
            .map(|name| {
                let nodes = self.nodes.clone();
                async move { read::get(&nodes, &name).await }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            if let Some(node) = answer? {
                found.insert(node.name_any(), NodeFacts::of(&node));
            }
        }
        Ok(found)
    }
}

/// The fields of the status that change, for a merge: what is absent now is null. The parts that other controllers write
/// are never among them, with one exception: the place in the queue goes with the write that ends the Run. The cluster
/// controller, which writes it, does not look at finished Runs any more.
fn changes(before: Option<&RunStatus>, after: &RunStatus) -> Result<Value, Error> {
    const OF_OTHERS: [&str; 2] = ["allocation", "queue"];
    let fields = |status: &RunStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) | Err(_) => Err(Error::Body {
            verb: Verb::Patch,
            target: "Run status".to_owned(),
            message: "a status is a JSON object".into(),
        }),
    };
    let is_over = after.phase.is_some_and(RunPhase::is_terminal);
    let before = before.map_or_else(|| Ok(Map::new()), &fields)?;
    let after = fields(after)?;
    let mut changed = Map::new();
    for (name, value) in &after {
        if before.get(name) != Some(value) {
            changed.insert(name.clone(), value.clone());
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        changed.insert(name.clone(), Value::Null);
    }
    for name in OF_OTHERS {
        changed.remove(name);
    }
    if is_over && before.contains_key("queue") {
        changed.insert("queue".to_owned(), Value::Null);
    }
    Ok(Value::Object(changed))
}
