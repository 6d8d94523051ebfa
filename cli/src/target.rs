//! What a question is about, as kubectl users write it: `run/mnist`, `run mnist`, `tyr/mnist`, `mnist`.

use std::fmt;

use serde::Serialize;

/// The kinds that can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// A Run.
    Run,
    /// A Cluster.
    Cluster,
    /// A ClusterNode, or the Node of one.
    ClusterNode,
}

impl Kind {
    /// All of them, in the order in which a bare name is looked for.
    pub const ALL: [Self; 3] = [Self::Run, Self::Cluster, Self::ClusterNode];

    /// The word before the slash.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Cluster => "cluster",
            Self::ClusterNode => "node",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let plain = text.strip_suffix(".trainyard.dev").unwrap_or(&text);
        match plain {
            "run" | "runs" | "tyr" => Some(Self::Run),
            "cluster" | "clusters" | "tyc" => Some(Self::Cluster),
            "node" | "nodes" | "clusternode" | "clusternodes" | "tycn" => Some(Self::ClusterNode),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "Run",
            Self::Cluster => "Cluster",
            Self::ClusterNode => "ClusterNode",
        })
    }
}

/// One object, perhaps of a kind that is yet to be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind, if it was written.
    pub kind: Option<Kind>,
    /// Its name.
    pub name: String,
}

/// Why words name nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A kind that is not ours.
    #[error("{kind}: is no kind that can be asked about; expected run, cluster or node, as in run/{name}")]
    Kind {
        /// What is written.
        kind: String,
        /// The name beside it.
        name: String,
    },
    /// Too many words, or none.
    #[error("{words:?}: expected one name, as in mnist, run/mnist or run mnist")]
    Words {
        /// What is written.
        words: String,
    },
}

impl Target {
    /// Reads one word, or kind and name as two.
    pub fn parse(words: &[String]) -> Result<Self, Unreadable> {
        let unreadable = || Unreadable::Words { words: words.join(" ") };
        let (kind, name) = match words {
            [word] => word.split_once('/').map_or((None, word.as_str()), |(kind, name)| (Some(kind), name)),
            [kind, name] => (Some(kind.as_str()), name.as_str()),
            _ => return Err(unreadable()),
        };
        if name.is_empty() || name.contains('/') {
            return Err(unreadable());
        }
        let kind = match kind {
            None => None,
            Some(kind) => Some(
                Kind::parse(kind)
                    .ok_or_else(|| Unreadable::Kind { kind: kind.to_owned(), name: name.to_owned() })?,
            ),
        };
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// Those of `names` that somebody may have meant by `name`, the nearest first, at most five.
pub fn near<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|other| {
            let typed_wrong = distance(name, other);
            let is_part = name.len() > 2 && (other.contains(name) || name.contains(other));
            (typed_wrong <= 2 && typed_wrong < name.len() || is_part).then_some((typed_wrong, other))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().map(|(_, other)| other).take(5).collect()
}

/// How many letters must be put in, left out or replaced to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut before = row[0];
        row[0] = at + 1;
        for (column, wanted) in other.iter().enumerate() {
            let replaced = before + usize::from(letter != *wanted);
            before = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(before + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Target, Unreadable> {
        Target::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_target_is_written_as_kubectl_users_do() {
        let of = |kind| Ok(Target { kind, name: "x".to_owned() });
        for words in [&["run/x"][..], &["runs", "x"], &["tyr/x"], &["Run", "x"], &["runs.trainyard.dev/x"]] {
            assert_eq!(parse(words), of(Some(Kind::Run)), "{words:?}");
        }
        for words in [&["cluster/x"][..], &["clusters.trainyard.dev", "x"], &["tyc/x"]] {
            assert_eq!(parse(words), of(Some(Kind::Cluster)), "{words:?}");
        }
        for words in [&["node/x"][..], &["clusternode", "x"], &["tycn/x"]] {
            assert_eq!(parse(words), of(Some(Kind::ClusterNode)), "{words:?}");
        }
        assert_eq!(parse(&["x"]), of(None));
    }

    #[test]
    fn what_names_nothing_is_refused_with_what_was_expected() {
        let said = |words| parse(words).expect_err("it names nothing").to_string();
        assert_eq!(
            said(&["pod/x"]),
            "pod: is no kind that can be asked about; expected run, cluster or node, as in run/x"
        );
        for words in [&["run/"][..], &["a/b/c"], &[], &["a", "b", "c"]] {
            assert!(matches!(parse(words), Err(Unreadable::Words { .. })), "{words:?}");
        }
    }

    #[test]
    fn near_names_are_those_typed_almost_so_and_those_that_contain_it() {
        let names = ["mnist", "mnist-2", "resnet", "mist", "a"];
        assert_eq!(near("mnits", names), ["mnist"]);
        assert_eq!(near("mnist", names), ["mnist", "mist", "mnist-2"]);
        assert_eq!(near("x", names), [""; 0]);
    }

    #[test]
    fn each_wrong_letter_counts_once() {
        assert_eq!(distance("mnist", "mnist"), 0);
        assert_eq!(distance("mnist", "mist"), 1);
        assert_eq!(distance("mnist", "mnits"), 2);
        assert_eq!(distance("", "abc"), 3);
    }
}
