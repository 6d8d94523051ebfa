//! How many Nodes are free, and what is the matter with the others, in one sentence.

use std::collections::BTreeMap;

use super::Fitness;

/// Nodes, or Clusters, that a sentence names; of more it tells the number.
const NAMED: usize = 3;

/// Whoever else has machines: their names are not for the people of the Cluster that is told.
const ELSEWHERE: &str = "Clusters of other namespaces";

/// What an engine has for the ClusterNodes of one Cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Nodes that could be taken now.
    pub free: i64,
    /// Nodes that the class selects.
    pub matching: i64,
    /// `2 of 6 matching nodes are free: 3 are used by Cluster b, n-6 is cordoned`. Clusters of other namespaces are not named.
    pub message: String,
    /// Those that are not taken because the size promises more than they have.
    pub too_small: Option<TooSmall>,
}

/// Nodes that a class selects and that are smaller than the size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// How many.
    pub nodes: i64,
    /// Which, why, and what to do.
    pub message: String,
}

/// Counts the selected Nodes, for a Cluster of this namespace and UID. `reserved` are free ones that are set aside for a moment, by `<namespace>/<name>` of the
/// Cluster they are for: they count as used by it.
pub fn count(
    size: &str,
    (namespace, cluster_uid): (&str, &str),
    mut nodes: Vec<(&str, Fitness)>,
    reserved: &BTreeMap<String, i64>,
) -> Counted {
    nodes.sort_by(|one, other| one.0.cmp(other.0));
    let named_here = |cluster: &str| match cluster.split_once('/') {
        Some((there, name)) if there == namespace => format!("Cluster {name}"),
        _ => ELSEWHERE.to_owned(),
    };
    let mut free: i64 = 0;
    let mut used: BTreeMap<String, i64> = BTreeMap::new();
    let (mut hindered, mut small) = (Vec::new(), Vec::new());
    for (name, fitness) in &nodes {
        match fitness {
            Fitness::Fit => free += 1,
            Fitness::Used { cluster_uid: uid, .. } if uid == cluster_uid => {
                *used.entry("this Cluster".to_owned()).or_default() += 1;
            }
            Fitness::Used { cluster, .. } => *used.entry(named_here(cluster)).or_default() += 1,
            Fitness::Hindered(why) => hindered.push(format!("{name} {why}")),
            Fitness::TooSmall(why) => small.push(format!("{name} {why}")),
        }
    }
    for (cluster, count) in reserved {
        let set_aside = (*count).min(free);
        free -= set_aside;
        if set_aside > 0 {
            *used.entry(named_here(cluster)).or_default() += set_aside;
        }
    }
    let too_small = (!small.is_empty()).then(|| TooSmall {
        nodes: small.len() as i64,
        message: format!(
            "{size} promises more than these nodes have, so they are not taken: {}. Let the class select others, or use a \
             VmSize that they fit.",
            named(&small)
        ),
    });
    let mut parts = users(used);
    let unfit = [small, hindered].concat();
    if !unfit.is_empty() {
        parts.push(named(&unfit));
    }
    let matching = nodes.len() as i64;
    let mut message = format!("{free} of {matching} matching nodes are free");
    if !parts.is_empty() {
        message = format!("{message}: {}", parts.join(", "));
    }
    Counted { free, matching, message, too_small }
}

/// `3 are used by Cluster b`, the greatest users first.
fn users(used: BTreeMap<String, i64>) -> Vec<String> {
    let mut used: Vec<_> = used.into_iter().collect();
    used.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: i64 = used.iter().skip(NAMED).map(|(_, count)| count).sum();
    used.truncate(NAMED);
    used.extend((rest > 0).then(|| ("other Clusters".to_owned(), rest)));
    let said = |(by, count): (String, i64)| {
        let are = if count == 1 { "is" } else { "are" };
        format!("{count} {are} used by {by}")
    };
    used.into_iter().map(said).collect()
}

/// The first of them, and how many more there are.
fn named(all: &[String]) -> String {
    let mut text = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > NAMED {
        text = format!("{text}, and {} more", all.len() - NAMED);
    }
    text
}
