//! Versions of the schema: which of them this program can use.
//!
//! The migrations themselves are the engine's.

use std::fmt::Display;

use crate::error::StoreError;

/// What a migration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The schema version before; 0 where there was no outbox.
    pub from: usize,
    /// The schema version now.
    pub to: usize,
}

/// Errors unless the database has exactly the schema that this program knows.
pub fn check_schema(database: &dyn Display, present: usize, known: usize) -> Result<(), StoreError> {
    refuse_newer(database, present, known)?;
    if present == known {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{database} has outbox schema {present}, this program needs {known}: run `outbox migrate`"
    )))
}

/// Errors when the database has a schema that this program does not know yet.
pub fn refuse_newer(database: &dyn Display, present: usize, known: usize) -> Result<(), StoreError> {
    if present <= known {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{database} has outbox schema {present}, this program knows {known} at most: use a newer outbox"
    )))
}
