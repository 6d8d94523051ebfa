//! Live reads of what one answer needs, with the rights of whoever asks.
//!
//! In: a client and a namespace. Out: objects; and where something may not be read, that it is not known, with a sentence
//! that says what is missing and what that leaves open. Any other failure is an error. Never writes.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use trainyard_api::run_status::RunPhase;
use trainyard_api::{Cluster, ClusterNode, Run};

use crate::manifest::Manifest;
use crate::world::Origin;

/// Objects read at a time.
const PAGE: u32 = 500;

/// Everything that is known of one Cluster and its queue.
#[derive(Debug)]
pub struct Objects {
    /// The objects.
    pub manifest: Manifest,
    /// What is complete of them.
    pub origin: Origin,
    /// Whether nothing is missing that a plan needs.
    pub is_whole: bool,
}

/// Reads, and remembers what it may not read.
pub struct Reader {
    client: Client,
    /// What could not be read, in sentences.
    pub not_known: Vec<String>,
}

impl Reader {
    /// One that has read nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, not_known: Vec::new() }
    }

    /// The objects of a kind in a namespace.
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The object of that name. The outer `None` when it may not be read.
    pub async fn get<K>(&self, api: &Api<K>, name: &str) -> anyhow::Result<Option<Option<K>>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let found = allowed(api.get_opt(name).await);
        found.with_context(|| format!("cannot read {} {name}", K::kind(&())))
    }

    /// All objects that the selector of fields selects. `None` when they may not be listed.
    pub async fn list<K>(&self, api: &Api<K>, fields: &str) -> anyhow::Result<Option<Vec<K>>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let mut parameters = ListParams::default().limit(PAGE);
        if !fields.is_empty() {
            parameters = parameters.fields(fields);
        }
        let mut found = Vec::new();
        loop {
            let page = allowed(api.list(&parameters).await);
            if let Err(kube::Error::Api(status)) = &page
                && status.code == 404
            {
                let (kind, group) = (K::plural(&()), K::group(&()));
                anyhow::bail!("the API server serves no {kind} of {group}: trainyard is not installed there");
            }
            let page = page.with_context(|| format!("cannot list the {}", K::plural(&())))?;
            let Some(page) = page else { return Ok(None) };
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => return Ok(Some(found)),
            }
        }
    }

    fn miss(&mut self, sentence: String) {
        self.not_known.push(sentence);
    }

    /// What a plan of that Cluster is made from.
    ///
    /// Runs are read before nodes: a claim is written before the allocation it is for, so that no run is seen without claims
    /// that it has.
    pub async fn of_cluster(&mut self, namespace: &str, name: &str) -> anyhow::Result<Objects> {
        let mut manifest = Manifest::default();
        let mut is_whole = true;
        let (clusters, nodes) =
            (self.namespaced::<Cluster>(namespace), self.namespaced::<ClusterNode>(namespace));
        if let Some(cluster) = self.get(&clusters, name).await? {
            manifest.clusters.extend(cluster);
        } else {
            is_whole = false;
            self.miss(as_written(&format!("read Cluster {name}"), namespace));
        }
        if is_whole {
            is_whole &= self.runs(&mut manifest, namespace, name).await?;
        }
        if is_whole {
            if let Some(nodes) = self.list(&nodes, "").await? {
                manifest.nodes = nodes;
            } else {
                is_whole = false;
                self.miss(as_written("list clusternodes", namespace));
            }
        }
        let origin = if is_whole {
            self.catalogue(&mut manifest, namespace, name).await?
        } else {
            Origin::Cluster { classes: false, sizes: false }
        };
        Ok(Objects { manifest, origin, is_whole })
    }

    /// The Runs that name it and have not ended. Returns whether these are all.
    async fn runs(&mut self, manifest: &mut Manifest, namespace: &str, name: &str) -> anyhow::Result<bool> {
        let is_shared = manifest.clusters.iter().any(|cluster| cluster.spec.allowed_namespaces.is_some());
        let mut terms = vec![format!("spec.clusterRef.name={name}")];
        let ended = RunPhase::ALL.iter().filter(|phase| phase.is_terminal());
        terms.extend(ended.map(|phase| format!("status.phase!={phase}")));
        let fields = terms.join(",");
        if is_shared {
            if let Some(runs) = self.list(&Api::<Run>::all(self.client.clone()), &fields).await? {
                manifest.runs = runs;
                return Ok(true);
            }
            self.miss(format!(
                "Cluster {name} is shared, and you may not list the runs of other namespaces that wait for it: places and \
                 reasons are what trainyard last wrote (places beyond 20 are rounded up), not what is decided now."
            ));
            return Ok(false);
        }
        if let Some(runs) = self.list(&self.namespaced::<Run>(namespace), &fields).await? {
            manifest.runs = runs;
            return Ok(true);
        }
        self.miss(as_written("list runs", namespace));
        Ok(false)
    }

    /// Sizes and classes belong to no namespace, so many a user may not read them.
    async fn catalogue(
        &mut self,
        manifest: &mut Manifest,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Origin> {
        let sizes = self.list(&Api::all(self.client.clone()), "").await?;
        let classes = self.list(&Api::all(self.client.clone()), "").await?;
        let (mut classes_known, sizes_known) = (classes.is_some(), sizes.is_some());
        manifest.sizes = sizes.unwrap_or_default();
        manifest.classes = classes.unwrap_or_default();
        if manifest.classes.iter().any(|class| class.spec.allowed_namespaces.is_some()) {
            if let Some(found) = self.get(&Api::<Namespace>::all(self.client.clone()), namespace).await? {
                let labels = found.and_then(|found| found.metadata.labels).unwrap_or_default();
                manifest.namespaces = BTreeMap::from([(namespace.to_owned(), labels)]);
            } else {
                classes_known = false;
                manifest.classes.clear();
                self.miss(format!(
                    "You may not read namespace {namespace}, so whether ProvisioningClasses are for it is taken from what \
                     trainyard wrote."
                ));
            }
        }
        let recorded = |cluster: &Cluster| cluster.status.as_ref()?.provisioning_class.clone();
        let is_shared = manifest.classes.iter().any(|class| class.spec.max_nodes_per_namespace.is_some())
            || manifest
                .clusters
                .iter()
                .filter_map(recorded)
                .any(|class| class.max_nodes_per_namespace.is_some());
        if is_shared && let Some(others) = self.list(&self.namespaced::<Cluster>(namespace), "").await? {
            let others = others.into_iter().filter(|other| other.metadata.name.as_deref() != Some(name));
            manifest.clusters.extend(others);
        }
        let hidden = [(!classes_known, "provisioningclasses"), (!sizes_known, "vmsizes")];
        let hidden: Vec<&str> =
            hidden.into_iter().filter(|(is_hidden, _)| *is_hidden).map(|(_, kind)| kind).collect();
        if !hidden.is_empty() && self.not_known.is_empty() {
            self.miss(format!(
                "You may not list {}: whether machines can be asked for, and how many the class grants, is taken from what \
                 trainyard wrote in the Cluster. An administrator can bind the chart's catalogue-viewer role.",
                hidden.join(" and ")
            ));
        }
        Ok(Origin::Cluster { classes: classes_known, sizes: sizes_known })
    }
}

/// That the answer is an old one, because a right is missing.
fn as_written(right: &str, namespace: &str) -> String {
    format!(
        "You may not {right} in namespace {namespace}: what follows is what trainyard last wrote, not what is decided now."
    )
}

/// `None` for what the asker has no right to.
fn allowed<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(error),
    }
}
