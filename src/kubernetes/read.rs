//! Live reads: the API server's present answer, past every cache.
//!
//! For the moments in which a stale answer would do harm: before a start, a release, a launch. Everything else reads
//! the caches of [`super::watch`].

use std::fmt::Debug;

use kube::{
    Api, Resource,
    api::{ListParams, PartialObjectMeta},
};
use serde::de::DeserializeOwned;

use super::error::{Error, Verb};

/// Objects read at a time; the API server's clients agree on 500 as a page that costs neither side much memory.
const PAGE: u32 = 500;

/// Which objects a list or a watch is about. Empty selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    labels: Option<String>,
    fields: Option<String>,
}

impl Selection {
    /// All objects.
    pub fn all() -> Self {
        Self::default()
    }

    /// Narrows to objects whose labels match this selector (`a=b,c!=d`).
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Narrows to objects whose selectable fields match this selector (`status.phase!=Completed`).
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    pub(super) fn label_selector(&self) -> Option<&str> {
        self.labels.as_deref()
    }

    pub(super) fn field_selector(&self) -> Option<&str> {
        self.fields.as_deref()
    }

    fn to_list_params(&self) -> ListParams {
        ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        }
    }
}

/// The object of this name as it is now, or `None` if there is none.
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    api.get_opt(name).await.map_err(|source| Error::request(Verb::Get, target::<K>(name), source))
}

/// The metadata of the object of this name as it is now, or `None` if there is none.
pub async fn get_metadata<K>(api: &Api<K>, name: &str) -> Result<Option<PartialObjectMeta<K>>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    api.get_metadata_opt(name).await.map_err(|source| Error::request(Verb::Get, target::<K>(name), source))
}

/// All selected objects as they are now: one consistent view, read page by page.
pub async fn list<K>(api: &Api<K>, selection: &Selection) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut parameters = selection.to_list_params();
    let mut found = Vec::new();
    loop {
        let page = api.list(&parameters).await.map_err(|source| {
            let selector = [selection.label_selector(), selection.field_selector()];
            let selector = selector.into_iter().flatten().collect::<Vec<_>>().join(" and ");
            Error::request(Verb::List, format!("{} objects [{selector}]", K::kind(&())), source)
        })?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(found),
        }
    }
}

/// `Kind name`, for error messages; the namespace is the `Api`'s and stands in the request's URL.
pub(super) fn target<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}
