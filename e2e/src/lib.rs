//! Tests against a real API server, and the local control plane they run on.

pub mod controlplane;
