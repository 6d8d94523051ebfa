//! trainyard operator.
