//! The order of an object's versions.

/// A resourceVersion as a number: of one object, a greater one is newer. They are opaque by contract of old; Kubernetes
/// made their order as integers part of the API (KEP-5504). One that is no integer counts as oldest, so that a cache is
/// believed rather than a memory; the next write then meets a conflict.
pub fn order(resource_version: &str) -> u64 {
    resource_version.parse().unwrap_or(0)
}
