//! Placeholder header, replaced when the crate gets its first module.
