//! Everything that can be wrong with files of objects.

use super::Place;

/// Why files were not read. Each text names the place, the object and the field as far as known, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or not ours to read.
    #[error("{file}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder without manifests.
    #[error("{folder}: no file in this folder ends in .yaml, .yml or .json")]
    EmptyFolder {
        /// The folder.
        folder: String,
    },
    /// No YAML.
    #[error("{file}: is not YAML: {message}")]
    NotYaml {
        /// The file.
        file: String,
        /// The reader's reason, with line and column.
        message: String,
    },
    /// No Kubernetes object.
    #[error("{place}: is no Kubernetes object: apiVersion and kind are expected")]
    NoObject {
        /// Where.
        place: Place,
    },
    /// Another version of ours.
    #[error("{place}: {kind} has apiVersion {version}, expected {expected}")]
    Version {
        /// Where.
        place: Place,
        /// The kind.
        kind: String,
        /// What is written.
        version: String,
        /// The only one there is.
        expected: &'static str,
    },
    /// No kind of ours.
    #[error(
        "{place}: trainyard.dev has no kind {kind}, expected one of Cluster, ClusterNode, Experiment, \
         ProvisioningClass, Run, VmSize"
    )]
    Kind {
        /// Where.
        place: Place,
        /// What is written.
        kind: String,
    },
    /// A field the API server would refuse.
    #[error("{place}: {object}: {field}: {message}")]
    Field {
        /// Where.
        place: Place,
        /// The object.
        object: String,
        /// The path of the field.
        field: String,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// One object, written twice.
    #[error("{second}: {object} was already given by {first}: give it once")]
    Twice {
        /// The object.
        object: String,
        /// Where it was found first.
        first: Place,
        /// Where it was found again.
        second: Place,
    },
}
