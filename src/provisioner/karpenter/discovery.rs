//! What the API server serves, live: the kinds of a group, and whether NodeClaims are among them.
//!
//! That NodeClaims are not served means that Karpenter is not installed, and that nothing is left of its objects. It is
//! concluded from a list of kinds that lacks them, never from a request for an object: a proxy, or an API server that
//! is about to start, answers such a request with 404, too. The answer is remembered for seconds, for those who ask
//! at every look.

use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIGroupList, APIResourceList};
use kube::{
    Client,
    core::{ApiResource, GroupVersionKind},
};
use trainyard_api::placement::NodeClassRef;

use crate::{
    clock::SharedClock,
    kubernetes::{self, ErrorKind, error::Verb},
};

/// How long an answer is believed where nothing is lost by being wrong: one request per process in this time.
const BELIEVED_FOR: SignedDuration = SignedDuration::from_secs(5);

/// See the module.
pub(super) struct Discovery {
    client: Client,
    clock: SharedClock,
    /// The last answer about NodeClaims, and when it was given.
    last: Mutex<Option<(Timestamp, bool)>>,
}

impl Discovery {
    pub(super) fn new(client: Client, clock: SharedClock) -> Self {
        Self { client, clock, last: Mutex::default() }
    }

    /// Whether NodeClaims are served now.
    pub(super) async fn serves_claims(&self) -> Result<bool, kubernetes::Error> {
        let served = match self.discover::<APIResourceList>("/apis/karpenter.sh/v1").await? {
            Some(list) => list.resources.iter().any(|resource| resource.kind == "NodeClaim"),
            // Whoever answers 404 to everything does not know the list of groups either.
            None => self.lists_version("karpenter.sh", "karpenter.sh/v1").await?,
        };
        *self.last() = Some((self.clock.now(), served));
        Ok(served)
    }

    /// The same as of a few seconds ago, at most.
    pub(super) async fn served_claims_lately(&self) -> Result<bool, kubernetes::Error> {
        let now = self.clock.now();
        let known = self.last().filter(|(at, _)| now.duration_since(*at) < BELIEVED_FOR);
        match known {
            Some((_, served)) => Ok(served),
            None => self.serves_claims().await,
        }
    }

    /// Whether the last answer, however old, was that they are not. Asks nobody.
    pub(super) fn lacked_claims(&self) -> bool {
        matches!(*self.last(), Some((_, false)))
    }

    /// Where a class's kind is served, in the version its group prefers.
    pub(super) async fn kind_of(
        &self,
        class: &NodeClassRef,
    ) -> Result<Option<ApiResource>, kubernetes::Error> {
        let path = format!("/apis/{}", class.group);
        let Some(group) = self.discover::<APIGroup>(&path).await? else { return Ok(None) };
        let preferred = group.preferred_version.iter().chain(&group.versions);
        for version in preferred {
            let found = self.resources(&version.group_version).await?;
            if let Some((plural, kind)) = found.into_iter().find(|(_, kind)| *kind == class.kind) {
                let kind = GroupVersionKind::gvk(&class.group, &version.version, &kind);
                return Ok(Some(ApiResource::from_gvk_with_plural(&kind, &plural)));
            }
        }
        Ok(None)
    }

    /// Whether the list of all groups, which every API server has, has this version of this group.
    async fn lists_version(&self, group: &str, group_version: &str) -> Result<bool, kubernetes::Error> {
        let all = self.ask::<APIGroupList>("/apis").await?;
        let mut versions = all.groups.iter().filter(|one| one.name == group).flat_map(|one| &one.versions);
        Ok(versions.any(|version| version.group_version == group_version))
    }

    /// Plural and kind of all types of a version, subresources left out; none when it is not served.
    async fn resources(&self, group_version: &str) -> Result<Vec<(String, String)>, kubernetes::Error> {
        let found = self.discover::<APIResourceList>(&format!("/apis/{group_version}")).await?;
        let resources = found.into_iter().flat_map(|list| list.resources);
        Ok(resources
            .filter(|resource| !resource.name.contains('/'))
            .map(|resource| (resource.name, resource.kind))
            .collect())
    }

    async fn discover<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, kubernetes::Error> {
        match self.ask(path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, kubernetes::Error> {
        let failed = |source| kubernetes::Error::request(Verb::Get, path, source);
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|source| failed(kube::Error::HttpError(source)))?;
        self.client.request::<T>(request).await.map_err(failed)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Timestamp, bool)>> {
        // The value is replaced whole, so a panic elsewhere under the lock spoils nothing.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
