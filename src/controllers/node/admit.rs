//! The launch guard: which ClusterNodes may have a machine, by one live list and the live Cluster.
//!
//! A machine that exists, or may exist, takes its place within `maxNodes` first, whatever its ordinal and whether or not
//! its node is released: it is billed until it is gone. What room is left goes to nodes that wait, by ordinal.
//!
//! Why two leaders, or one that slept, do not buy more than `maxNodes` together: the list may not show yet that another
//! process has asked for a machine, and then its node counts as one that waits. That process took it because every
//! waiting node before it fitted, too. Ordinals only grow, and a node that holds a place gives it up only for good
//! (`released`, a deletion and `goneTime` are never undone), so no node comes before it afterwards: whoever reads the
//! list later either finds it before the node that is to be admitted, or finds room for both.
//!
//! What is left: a process that sleeps between this look and its request. Its machine is made for a node that was
//! admitted, and is destroyed with that node, or as a stray once the node is forgotten. And a `maxNodes` that is lowered while
//! a request is on its way comes too late for it, as it does for a machine that is there.

use std::collections::HashMap;

use kube::{Api, ResourceExt as _};
use trainyard_api::{Cluster, ClusterNode};

use super::{Error, NodeController};
use crate::{
    kubernetes::read::{self, Selection},
    provisioner::Pool,
};

/// Those of the candidates (UIDs) that may be asked for now. `requested` are the machines this process has asked for, by
/// UID of their ClusterNode, whose statuses may not say so yet.
pub(super) async fn admit(
    controller: &NodeController,
    pool: &Pool,
    requested: &HashMap<String, String>,
    candidates: &[&String],
) -> Result<Vec<ClusterNode>, Error> {
    let clusters = Api::<Cluster>::namespaced(controller.client.clone(), &pool.namespace);
    let cluster = read::get(&clusters, &pool.name).await?;
    let standing = cluster.filter(|cluster| {
        cluster.uid().as_ref() == Some(&pool.uid) && cluster.metadata.deletion_timestamp.is_none()
    });
    let max = standing.map_or(0, |cluster| usize::try_from(cluster.spec.scale.max_nodes).unwrap_or(0));

    let api = Api::<ClusterNode>::namespaced(controller.client.clone(), &pool.namespace);
    let of_this_cluster = Selection::all().fields(format!("spec.cluster.uid={}", pool.uid));
    let mut admitted = within(max, read::list(&api, &of_this_cluster).await?, requested);
    admitted.retain(|node| node.uid().is_some_and(|uid| candidates.iter().any(|one| **one == uid)));
    Ok(admitted)
}

/// How a ClusterNode bears on the room within `maxNodes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has a machine, or one may be there until a look has shown that none is.
    Held,
    /// It has none, and shall have one.
    Awaited,
    /// Its machine is gone.
    GivenUp,
}

fn place(node: &ClusterNode, requested: &HashMap<String, String>) -> Place {
    let status = node.status.as_ref();
    if status.is_some_and(|status| status.gone_time.is_some()) {
        return Place::GivenUp;
    }
    let has_one = status.is_some_and(|status| status.machine_uid.is_some())
        || node.uid().is_some_and(|uid| requested.contains_key(&uid));
    if has_one || node.spec.released.is_some() || node.metadata.deletion_timestamp.is_some() {
        Place::Held
    } else {
        Place::Awaited
    }
}

/// Of all nodes of a Cluster those that wait and fit, by ordinal.
fn within(max: usize, nodes: Vec<ClusterNode>, requested: &HashMap<String, String>) -> Vec<ClusterNode> {
    let held = nodes.iter().filter(|node| place(node, requested) == Place::Held).count();
    let mut awaited = nodes;
    awaited.retain(|node| place(node, requested) == Place::Awaited);
    awaited.sort_by_key(|node| node.spec.ordinal);
    awaited.truncate(max.saturating_sub(held));
    awaited
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn node(ordinal: i64, spec: &Value, status: &Value) -> ClusterNode {
        let mut node = json!({
            "metadata": {"name": format!("n-{ordinal}"), "namespace": "ml", "uid": format!("uid-{ordinal}")},
            "spec": {"cluster": {"name": "c", "uid": "c1"}, "ordinal": ordinal, "engine": {},
                     "vmSize": {"sizeName": "S", "vcpus": 1, "memory": "1Gi"},
                     "taint": {"key": "k", "effect": "NoSchedule"}},
            "status": status,
        });
        if let (Some(all), Some(more)) = (node["spec"].as_object_mut(), spec.as_object()) {
            all.extend(more.clone());
        }
        serde_json::from_value(node).expect("a ClusterNode")
    }

    fn waiting(ordinal: i64) -> ClusterNode {
        node(ordinal, &json!({}), &Value::Null)
    }

    fn released() -> Value {
        json!({"released": "2030-01-01T00:00:00Z"})
    }

    fn machine() -> Value {
        json!({"machineUID": "m"})
    }

    fn gone() -> Value {
        json!({"machineUID": "m", "goneTime": "2030-01-01T00:00:00Z"})
    }

    fn admitted(max: usize, nodes: Vec<ClusterNode>, requested: &[i64]) -> Vec<i64> {
        let requested = requested
            .iter()
            .map(|ordinal| (format!("uid-{ordinal}"), "m".to_owned()))
            .collect::<HashMap<_, _>>();
        within(max, nodes, &requested).iter().map(|node| node.spec.ordinal).collect()
    }

    #[test]
    fn smaller_ordinals_go_first() {
        assert_eq!(admitted(2, vec![waiting(3), waiting(1), waiting(2)], &[]), [1, 2]);
    }

    #[rstest]
    #[case::of_a_later_node(json!({}), machine())]
    #[case::of_a_released_node(released(), machine())]
    #[case::that_may_be_there_until_a_look_shows_otherwise(released(), Value::Null)]
    fn a_machine_takes_its_place_before_nodes_that_wait(#[case] spec: Value, #[case] status: Value) {
        let nodes = || vec![waiting(1), node(2, &spec, &status), waiting(3)];
        assert_eq!(admitted(1, nodes(), &[]), [0; 0]);
        assert_eq!(admitted(2, nodes(), &[]), [1]);
    }

    #[test]
    fn a_machine_that_is_gone_takes_no_place() {
        let nodes = vec![node(1, &released(), &gone()), node(2, &json!({}), &gone()), waiting(3)];
        assert_eq!(admitted(1, nodes, &[]), [3]);
    }

    #[test]
    fn what_this_process_has_just_asked_for_counts_before_its_status_says_so() {
        let nodes = || vec![waiting(1), waiting(2), waiting(3)];
        assert_eq!(admitted(2, nodes(), &[3]), [1]);
        assert_eq!(admitted(2, nodes(), &[2, 3]), [0; 0]);
    }

    #[test]
    fn a_maximum_lowered_below_what_stands_admits_nothing() {
        let nodes = vec![waiting(1), node(2, &json!({}), &machine()), node(3, &json!({}), &machine())];
        assert_eq!(admitted(1, nodes, &[]), [0; 0]);
    }

    /// The reasoning of the module's header: both lists are of one world, the second one seen late by somebody to whom
    /// nothing was shown of what the first one led to.
    #[rstest]
    fn two_leaders_do_not_buy_more_together(
        #[values(0, 1, 2, 3, 4)] max: usize,
        #[values(0, 1, 2, 3, 4)] ends: i64,
    ) {
        let nodes = |ended: bool| {
            (1..=4)
                .map(|n| if n == ends && ended { node(n, &released(), &Value::Null) } else { waiting(n) })
                .collect()
        };
        let early = admitted(max, nodes(false), &[]);
        let late = admitted(max, nodes(true), &[]);
        let mut both = [early, late].concat();
        both.sort_unstable();
        both.dedup();
        assert!(both.len() <= max, "{both:?}");
    }
}
