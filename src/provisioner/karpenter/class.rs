//! Whether Karpenter could make machines of a class, found before it is asked.
//!
//! A missing class object looks like a stock-out in Karpenter's answer, so it is looked up first; otherwise a typing
//! error would back off for hours as "no capacity". Answers are remembered for seconds, so that every decision may ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind},
};
use trainyard_api::{cluster_node::KarpenterNode, placement::NodeClassRef};

use super::{claim::pool_name, discovery::Discovery, wire};
use crate::{
    clock::SharedClock,
    kubernetes::{self, ErrorKind, error::Verb},
    provisioner::{Pool, Refusal, RefusalCode, Validity},
};

/// How long "usable" is believed: a class rarely breaks, and a claim made from a broken one fails within seconds.
const USABLE_FOR: SignedDuration = SignedDuration::from_secs(15);
/// How long a refusal is believed: a person who mends a class watches.
const REFUSED_FOR: SignedDuration = SignedDuration::from_secs(5);

/// Remembers answers and where kinds are served.
pub struct ClassCheck {
    client: Client,
    clock: SharedClock,
    discovery: Arc<Discovery>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    answers: HashMap<Question, (Timestamp, Validity)>,
    kinds: HashMap<(String, String), ApiResource>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    pool: String,
    group: String,
    kind: String,
    name: String,
}

impl ClassCheck {
    pub(super) fn new(client: Client, clock: SharedClock, discovery: Arc<Discovery>) -> Self {
        Self { client, clock, discovery, memory: Mutex::default() }
    }

    /// Answers from memory or by looking.
    pub(super) async fn check(
        &self,
        pool: &Pool,
        engine: &KarpenterNode,
    ) -> Result<Validity, kubernetes::Error> {
        let class = &engine.node_class_ref;
        let question = Question {
            pool: pool.uid.clone(),
            group: class.group.clone(),
            kind: class.kind.clone(),
            name: class.name.clone(),
        };
        let now = self.clock.now();
        if let Some((until, answer)) = self.memory().answers.get(&question)
            && now < *until
        {
            return Ok(answer.clone());
        }
        let answer = self.look(pool, class).await?;
        let believed = if answer == Validity::Usable { USABLE_FOR } else { REFUSED_FOR };
        let mut memory = self.memory();
        memory.answers.retain(|_, (until, _)| now < *until);
        memory.answers.insert(question, (now + believed, answer.clone()));
        Ok(answer)
    }

    async fn look(&self, pool: &Pool, class: &NodeClassRef) -> Result<Validity, kubernetes::Error> {
        if !self.discovery.served_claims_lately().await? {
            return Ok(refused(
                RefusalCode::EngineUnavailable,
                "the API server does not serve karpenter.sh/v1 NodeClaims: install Karpenter 1.0 or later, or use a \
                 class of another engine"
                    .to_owned(),
            ));
        }
        if self.pool_exists(pool).await? {
            return Ok(refused(
                RefusalCode::PoolNameTaken,
                format!(
                    "a NodePool {0} exists, and Karpenter would disrupt the machines of this Cluster under its rules: \
                     delete NodePool {0}",
                    pool_name(&pool.uid)
                ),
            ));
        }
        self.look_at_class(class).await
    }

    async fn look_at_class(&self, class: &NodeClassRef) -> Result<Validity, kubernetes::Error> {
        let described = format!("{}.{} {}", class.kind, class.group, class.name);
        let Some(kind) = self.kind_of(class).await? else {
            return Ok(refused(
                RefusalCode::ClassNotFound,
                format!(
                    "nodeClassRef names {described}, but the API server serves no kind {} in group {}: correct the \
                     ProvisioningClass, or install the Karpenter provider that has this kind",
                    class.kind, class.group
                ),
            ));
        };
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &kind);
        let found = match api.get_opt(&class.name).await {
            Ok(found) => found,
            Err(source) => {
                let error = kubernetes::Error::request(Verb::Get, described.clone(), source);
                if error.kind() == ErrorKind::Forbidden {
                    return Ok(refused(
                        RefusalCode::ClassForbidden,
                        format!(
                            "the operator may not read {described}: grant its ServiceAccount get on {}.{}",
                            kind.plural, kind.group
                        ),
                    ));
                }
                return Err(error);
            }
        };
        let Some(found) = found else {
            // The group may be served under another version or plural since it was looked up.
            self.memory().kinds.remove(&(class.group.clone(), class.kind.clone()));
            return Ok(refused(
                RefusalCode::ClassNotFound,
                format!(
                    "nodeClassRef names {described}, which does not exist: create it, or correct the ProvisioningClass"
                ),
            ));
        };
        Ok(match not_ready(&found) {
            Some(why) => refused(RefusalCode::ClassNotReady, format!("{described} is not ready: {why}")),
            None => Validity::Usable,
        })
    }

    async fn pool_exists(&self, pool: &Pool) -> Result<bool, kubernetes::Error> {
        let kind = GroupVersionKind::gvk(wire::GROUP, "v1", "NodePool");
        let api = Api::<DynamicObject>::all_with(
            self.client.clone(),
            &ApiResource::from_gvk_with_plural(&kind, "nodepools"),
        );
        let name = pool_name(&pool.uid);
        api.get_opt(&name)
            .await
            .map(|found| found.is_some())
            .map_err(|source| kubernetes::Error::request(Verb::Get, format!("NodePool {name}"), source))
    }

    /// Where the class's kind is served; asked once.
    async fn kind_of(&self, class: &NodeClassRef) -> Result<Option<ApiResource>, kubernetes::Error> {
        let key = (class.group.clone(), class.kind.clone());
        if let Some(known) = self.memory().kinds.get(&key) {
            return Ok(Some(known.clone()));
        }
        let found = self.discovery.kind_of(class).await?;
        self.memory().kinds.extend(found.clone().map(|kind| (key, kind)));
        Ok(found)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // Every change leaves the maps whole, so a panic elsewhere while the lock was held spoils nothing.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(code: RefusalCode, message: String) -> Validity {
    Validity::Refused(Refusal { code, message })
}

/// Why a class object says that it is not ready. One without the condition counts as ready: some providers set none.
fn not_ready(class: &DynamicObject) -> Option<String> {
    let conditions = class.data.get("status")?.get("conditions")?.as_array()?;
    let text = |condition: &serde_json::Value, field: &str| {
        condition.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let ready = conditions.iter().find(|condition| text(condition, "type") == "Ready")?;
    if text(ready, "status") != "False" {
        return None;
    }
    let (reason, message) = (text(ready, "reason"), text(ready, "message"));
    Some(match (reason.is_empty(), message.is_empty()) {
        (true, true) => "it gives no reason".to_owned(),
        (false, true) => reason,
        (true, false) => message,
        (false, false) => format!("{reason}: {message}"),
    })
}
