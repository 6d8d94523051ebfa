//! Tests of the run controller on an API server in memory.
