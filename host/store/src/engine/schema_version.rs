//! Versions of the schema: which of them this program can use, and what a migration did or would do.
//!
//! The migrations themselves are the engine's.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::StoreError;

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The schema version before; 0 where there was no outbox.
    pub from: usize,
    /// The schema version now.
    pub to: usize,
    /// The copy of the database from before; `None` where none was made.
    pub backup: Option<PathBuf>,
}

/// What a migration would do, found without a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MigrationPlan {
    /// The schema version now; 0 where there is no outbox.
    pub from: usize,
    /// The schema version afterwards.
    pub to: usize,
    /// The items that are moved, by status.
    pub items: BTreeMap<&'static str, u64>,
    /// What is done, in order. Empty when the database has the newest schema.
    pub steps: Vec<MigrationStep>,
    /// Why the migration would be refused now, and what to do. Empty when it can run.
    pub refusals: Vec<String>,
    /// What of the application uses the items table and perhaps has to change.
    pub users: Vec<String>,
    /// SQL of applications that fails afterwards.
    pub replaced: Vec<ReplacedSql>,
}

/// A part of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationStep {
    /// What it does.
    pub what: &'static str,
    /// The rows or pages that it works on.
    pub rows: u64,
    /// How long it takes, by the rate that was measured on two cores.
    pub seconds: u64,
    /// Who waits for it.
    pub waits: &'static str,
}

impl MigrationStep {
    /// A step on `rows`, of which `per_second` were handled in a second where it was measured.
    pub fn new(what: &'static str, rows: u64, per_second: u64, waits: &'static str) -> Self {
        Self { what, rows, seconds: rows.div_ceil(per_second), waits }
    }
}

/// A statement of applications that fails after a migration, with the one to use instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReplacedSql {
    /// The statement.
    pub old: &'static str,
    /// What to use instead.
    pub new: &'static str,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_uses_only_the_schema_that_it_knows_and_says_which_to_use_otherwise() {
        let told = |present| check_schema(&"app.sqlite", present, 2).unwrap_err().to_string();
        check_schema(&"app.sqlite", 2, 2).unwrap();
        assert_eq!(told(1), "app.sqlite has outbox schema 1, this program needs 2: run `outbox migrate`");
        assert_eq!(told(3), "app.sqlite has outbox schema 3, this program knows 2 at most: use a newer outbox");
    }
}
