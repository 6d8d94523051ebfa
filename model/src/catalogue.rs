//! Which size and class a Cluster means, and what each of its nodes is made of.
//!
//! In: a Cluster, and all VmSizes and ProvisioningClasses. Out: [`Resolved`], which is all that a new ClusterNode
//! copies, or a [`Refusal`] that says which object is wrong and what to do. Called by the cluster controller at each
//! look, and by `kubectl trainyard plan`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use trainyard_api::{
    capacity,
    cluster::{BackoffCause, Cluster, ClusterErrorCode, EngineKind, ProvisioningClassRef, VmPriority},
    cluster_node::{CapacityType, Engine, KarpenterNode, StaticNode, VmSizeFacts},
    placement::{Taint, Toleration},
    provisioning_class::{KarpenterEngine, PlacementMode, ProvisioningClass, StaticEngine},
    vm_size::VmSize,
};
use trainyard_planner::{Placement, Zone};

use crate::node::found::Counted;

/// The engine name under which `VmSize.spec.instanceTypes` is looked up for Karpenter.
const KARPENTER: &str = "karpenter";

/// What a new node of a Cluster is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The class in use, to be recorded in `status.provisioningClass`.
    pub class: ProvisioningClassRef,
    /// Facts about the size, copied to each node.
    pub size: VmSizeFacts,
    /// The engine block, copied to each node; `zones` are the class's and may be narrowed to one.
    pub engine: Engine,
    /// The taint of each node.
    pub taint: Taint,
    /// Further tolerations of run pods.
    pub tolerations: Vec<Toleration>,
    /// Where nodes may be.
    pub placement: Placement,
    /// How many nodes the class grants.
    pub grant: Grant,
}

/// How many nodes a class grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Name of the class.
    pub class: String,
    /// To one Cluster.
    pub nodes_per_cluster: Option<i64>,
    /// To all Clusters of a namespace that use the class.
    pub nodes_per_namespace: Option<i64>,
}

/// Why no new node can be made, as it stands in `status.errors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of fault.
    pub code: ClusterErrorCode,
    /// What is wrong with which object, and what to do.
    pub message: String,
}

fn refuse<T>(code: ClusterErrorCode, message: String) -> Result<T, Refusal> {
    Err(Refusal { code, message })
}

/// Resolves the size and class of `cluster`. `namespace` are the labels of its namespace, once they are known.
pub fn resolve(
    cluster: &Cluster,
    sizes: &[&VmSize],
    classes: &[&ProvisioningClass],
    namespace: Option<&BTreeMap<String, String>>,
) -> Result<Resolved, Refusal> {
    let size = find_size(cluster, sizes)?;
    let class = find_class(cluster, classes)?;
    granted(cluster, class, size, namespace)?;
    let facts = VmSizeFacts::of(&size.spec);
    let zones = class.spec.placement.zones.clone();
    Ok(Resolved {
        class: reference(class),
        engine: engine(cluster, size, class, &facts)?,
        taint: Taint {
            key: class.spec.taint.key.clone(),
            value: class.spec.taint.value.clone().unwrap_or_else(|| name_of(cluster.metadata.name.as_ref())),
            effect: class.spec.taint.effect,
        },
        tolerations: class.spec.tolerations.clone(),
        placement: match class.spec.placement.mode {
            PlacementMode::Any => Placement::Any,
            PlacementMode::SameZone => Placement::SameZone(zones.into_iter().map(Zone).collect()),
        },
        size: facts,
        grant: Grant {
            class: name_of(class.metadata.name.as_ref()),
            nodes_per_cluster: class.spec.max_nodes_per_cluster.map(i64::from),
            nodes_per_namespace: class.spec.max_nodes_per_namespace.map(i64::from),
        },
    })
}

/// Whether the class is for Clusters of this namespace and size.
fn granted(
    cluster: &Cluster,
    class: &ProvisioningClass,
    size: &VmSize,
    namespace: Option<&BTreeMap<String, String>>,
) -> Result<(), Refusal> {
    let name = name_of(class.metadata.name.as_ref());
    if let Some(allowed) = &class.spec.allowed_namespaces
        && !namespace.is_some_and(|labels| allowed.selects(labels))
    {
        return refuse(
            ClusterErrorCode::NamespaceNotAllowed,
            format!(
                "ProvisioningClass {name} is not for namespace {}: its spec.allowedNamespaces does not select it, so no new node \
                 can be made. An administrator can label the namespace or widen the class; or create a Cluster of another \
                 class.",
                name_of(cluster.metadata.namespace.as_ref())
            ),
        );
    }
    if let Some(allowed) = &class.spec.allowed_sizes
        && !allowed.iter().any(|one| size.spec.answers_to(one))
    {
        return refuse(
            ClusterErrorCode::VmSizeNotAllowed,
            format!(
                "spec.vmSize {}: ProvisioningClass {name} is for {} only, so no new node can be made. An administrator can \
                 add it to spec.allowedSizes; to use another size create another Cluster.",
                size.spec.size_name,
                if allowed.is_empty() { "no size".to_owned() } else { allowed.join(", ") }
            ),
        );
    }
    Ok(())
}

fn find_size<'a>(cluster: &Cluster, sizes: &[&'a VmSize]) -> Result<&'a VmSize, Refusal> {
    let asked = &cluster.spec.vm_size;
    let mut found: Vec<&VmSize> = sizes.iter().copied().filter(|size| size.spec.answers_to(asked)).collect();
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    match found.as_slice() {
        [] => refuse(
            ClusterErrorCode::VmSizeNotFound,
            format!(
                "spec.vmSize {asked}: no VmSize has that sizeName or alias. See `kubectl get vmsizes`; an administrator \
                 can add one. To use another size create another Cluster."
            ),
        ),
        [size] => check_size(cluster, size),
        many => {
            let names: Vec<String> = many.iter().map(|size| name_of(size.metadata.name.as_ref())).collect();
            refuse(
                ClusterErrorCode::VmSizeAmbiguous,
                format!(
                    "spec.vmSize {asked}: the VmSizes {} all claim that name. An administrator must take it out of \
                     the aliases of all but one.",
                    names.join(", ")
                ),
            )
        }
    }
}

fn check_size<'a>(cluster: &Cluster, size: &'a VmSize) -> Result<&'a VmSize, Refusal> {
    let name = &size.spec.size_name;
    if let Some(retired) = &size.spec.retired {
        return refuse(
            ClusterErrorCode::VmSizeRetired,
            format!(
                "spec.vmSize {name} is not sold any more since {}; use {}. Create a Cluster with that size, or let an \
                 administrator add {name} to the aliases of the VmSize {}.",
                retired.since,
                retired.successor,
                trainyard_api::vm_size::object_name(&retired.successor),
            ),
        );
    }
    if cluster.spec.vm_priority == VmPriority::LowPriority && !size.spec.spot_capable {
        return refuse(
            ClusterErrorCode::LowPriorityNotSold,
            format!(
                "spec.vmPriority LowPriority: {name} is sold as Dedicated only. Create a Cluster with vmPriority Dedicated."
            ),
        );
    }
    Ok(size)
}

/// The class that was recorded at first is kept by name: one that was deleted and made again is taken again, a new
/// default is not.
fn find_class<'a>(
    cluster: &Cluster,
    classes: &[&'a ProvisioningClass],
) -> Result<&'a ProvisioningClass, Refusal> {
    let recorded = cluster.status.as_ref().and_then(|status| status.provisioning_class.as_ref());
    let named = cluster.spec.provisioning_class.as_ref().or(recorded.map(|class| &class.name));
    if let Some(name) = named {
        return match classes.iter().find(|class| class.metadata.name.as_ref() == Some(name)) {
            Some(class) => Ok(class),
            None => refuse(
                ClusterErrorCode::ProvisioningClassNotFound,
                format!(
                    "ProvisioningClass {name} does not exist, so no new node can be made; nodes that are there go on. \
                     See `kubectl get provisioningclasses`; an administrator can create {name}."
                ),
            ),
        };
    }
    let mut defaults: Vec<&ProvisioningClass> =
        classes.iter().copied().filter(|class| class.is_default()).collect();
    defaults.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    match defaults.as_slice() {
        [class] => Ok(class),
        [] => refuse(
            ClusterErrorCode::NoDefaultProvisioningClass,
            "spec.provisioningClass is not written and no ProvisioningClass has the annotation \
             trainyard.dev/is-default-class: \"true\". An administrator must mark one, or the Cluster must name one."
                .to_owned(),
        ),
        many => {
            let marked: Vec<String> = many.iter().map(|class| name_of(class.metadata.name.as_ref())).collect();
            refuse(
                ClusterErrorCode::ManyDefaultProvisioningClasses,
                format!(
                    "spec.provisioningClass is not written and the ProvisioningClasses {} are all marked as the \
                     default. An administrator must unmark all but one.",
                    marked.join(", ")
                ),
            )
        }
    }
}

fn engine(
    cluster: &Cluster,
    size: &VmSize,
    class: &ProvisioningClass,
    facts: &VmSizeFacts,
) -> Result<Engine, Refusal> {
    let name = name_of(class.metadata.name.as_ref());
    match (&class.spec.karpenter, &class.spec.static_nodes) {
        (Some(karpenter), _) => {
            let node = karpenter_node(cluster, size, class, karpenter, facts);
            Ok(Engine { karpenter: Some(node), ..Engine::default() })
        }
        (None, Some(_)) if cluster.spec.vm_priority == VmPriority::LowPriority => refuse(
            ClusterErrorCode::LowPriorityNotSold,
            format!(
                "spec.vmPriority LowPriority: the machines of ProvisioningClass {name} are there to stay. Create a \
                 Cluster with vmPriority Dedicated."
            ),
        ),
        (None, Some(StaticEngine { node_selector })) => {
            let node = StaticNode { node_selector: node_selector.clone() };
            Ok(Engine { static_node: Some(node), ..Engine::default() })
        }
        (None, None) => refuse(
            ClusterErrorCode::ProvisioningClassInvalid,
            format!(
                "ProvisioningClass {name} names no engine that this version of trainyard has: write spec.karpenter or \
                 spec.static."
            ),
        ),
    }
}

fn karpenter_node(
    cluster: &Cluster,
    size: &VmSize,
    class: &ProvisioningClass,
    karpenter: &KarpenterEngine,
    facts: &VmSizeFacts,
) -> KarpenterNode {
    KarpenterNode {
        node_class_ref: karpenter.node_class_ref.clone(),
        requirements: karpenter.requirements.clone(),
        instance_type: size.spec.instance_type(KARPENTER).to_owned(),
        capacity_type: match cluster.spec.vm_priority {
            VmPriority::Dedicated => CapacityType::OnDemand,
            VmPriority::LowPriority => CapacityType::Spot,
        },
        zones: class.spec.placement.zones.clone(),
        requests: requests(facts),
    }
}

/// The reference to a class as status records it.
pub fn reference(class: &ProvisioningClass) -> ProvisioningClassRef {
    ProvisioningClassRef {
        name: name_of(class.metadata.name.as_ref()),
        uid: class.metadata.uid.clone().unwrap_or_default(),
        engine: match (&class.spec.karpenter, &class.spec.static_nodes) {
            (Some(_), _) => Some(EngineKind::Karpenter),
            (None, Some(_)) => Some(EngineKind::Static),
            (None, None) => None,
        },
        max_nodes_per_cluster: class.spec.max_nodes_per_cluster,
        max_nodes_per_namespace: class.spec.max_nodes_per_namespace,
    }
}

fn name_of(name: Option<&String>) -> String {
    name.cloned().unwrap_or_default()
}

/// The share of a machine's cpu and memory that every provider's reservation for the system leaves. Since a claim names
/// one instance type, what it asks for picks nothing: it must only be below what that type allocates, or no type fits.
/// AKS takes most, about a third of an 8 GiB machine's memory.
const SURELY_ALLOCATABLE_PERCENT: i64 = 60;

/// What a NodeClaim requests. Each resource named here must become allocatable before the engine calls the node
/// initialised, so the accelerators are asked for in full.
fn requests(size: &VmSizeFacts) -> BTreeMap<String, Quantity> {
    let part = |whole: i64| whole / 100 * SURELY_ALLOCATABLE_PERCENT;
    let memory = part(capacity::bytes(&size.memory).unwrap_or(0));
    let mut requests = BTreeMap::from([
        ("cpu".to_owned(), Quantity(format!("{}m", part(i64::from(size.vcpus) * 1000)))),
        ("memory".to_owned(), Quantity(format!("{}Mi", memory >> 20))),
        ("pods".to_owned(), Quantity("20".to_owned())),
    ]);
    for accelerator in &size.accelerators {
        requests.insert(accelerator.resource_name.clone(), Quantity(accelerator.count.to_string()));
    }
    requests
}

/// The refusal that the operator recorded in the Cluster's status about what it alone sees: its engine's own objects, and for
/// whoever may not read the catalogue also sizes and classes.
pub fn recorded(cluster: &Cluster, catalogue_is_known: bool) -> Option<Refusal> {
    let is_hidden = |code: ClusterErrorCode| match code {
        ClusterErrorCode::ProvisioningClassInvalid => true,
        ClusterErrorCode::VmSizeNotFound
        | ClusterErrorCode::VmSizeRetired
        | ClusterErrorCode::VmSizeAmbiguous
        | ClusterErrorCode::LowPriorityNotSold
        | ClusterErrorCode::ProvisioningClassNotFound
        | ClusterErrorCode::NoDefaultProvisioningClass
        | ClusterErrorCode::ManyDefaultProvisioningClasses
        | ClusterErrorCode::NamespaceNotAllowed
        | ClusterErrorCode::VmSizeNotAllowed
        | ClusterErrorCode::ProvisioningClassChanged => !catalogue_is_known,
        ClusterErrorCode::NodeLimitReached
        | ClusterErrorCode::NodeToRemoveNotFound
        | ClusterErrorCode::StockOut
        | ClusterErrorCode::QuotaExceeded
        | ClusterErrorCode::LaunchFailed
        | ClusterErrorCode::LaunchTimeout
        | ClusterErrorCode::NodesUnusable
        | ClusterErrorCode::NodesOccupied
        | ClusterErrorCode::NodesTooSmall
        | ClusterErrorCode::StrayMachines
        | ClusterErrorCode::NameTaken
        | ClusterErrorCode::Unknown => false,
    };
    let errors = &cluster.status.as_ref()?.errors;
    let found = errors.iter().find(|error| is_hidden(error.code))?;
    Some(Refusal { code: found.code, message: found.message.clone() })
}

/// What the operator recorded in the Cluster's status of machines that are found and that it lacks: so many as it could have
/// it has taken. None while it lacks none.
pub fn recorded_shortage(cluster: &Cluster, engine: &Engine) -> Option<Counted> {
    engine.static_node.as_ref()?;
    let errors = &cluster.status.as_ref()?.errors;
    let found = errors.iter().find(|error| error.code == ClusterErrorCode::StockOut)?;
    Some(Counted { message: found.message.clone(), ..Counted::default() })
}

/// Where the operator recorded that the Cluster's machines come from. Before a class is recorded with its engine, a shortage
/// tells: that there is no machine now is remembered as a back-off, except of machines that are found.
pub fn recorded_engine(cluster: &Cluster) -> Option<EngineKind> {
    let status = cluster.status.as_ref()?;
    let said = status.provisioning_class.as_ref().and_then(|class| class.engine);
    let is_short = status.errors.iter().any(|error| error.code == ClusterErrorCode::StockOut);
    let is_backed_off = status.backoff.iter().any(|entry| entry.cause == BackoffCause::StockOut);
    said.or_else(|| (is_short && !is_backed_off).then_some(EngineKind::Static))
}

/// Why a Cluster that no longer exists gets no new node.
pub fn cluster_gone() -> Refusal {
    Refusal {
        code: ClusterErrorCode::Unknown,
        message: "the Cluster does not exist any more; its nodes are being given back".to_owned(),
    }
}
