//! The HTTP entry.
