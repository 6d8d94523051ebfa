//! An API server in memory, for tests of code that talks to Kubernetes.
