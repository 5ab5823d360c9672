//! What a database consists of, as `sqlite_schema` has it.
//!
//! It knows the name of the items table, and nothing of what a migration does.

use rusqlite::{Connection, Row};

/// The table of the items.
pub(super) const ITEMS: &str = "outbox_items";

/// A table, an index, a view or a trigger.
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    /// The table or the view that an index or a trigger is on.
    pub(super) table: String,
    pub(super) sql: String,
}

impl Object {
    /// Drops it, if it is there.
    pub(super) fn drop_from(&self, tx: &Connection) -> rusqlite::Result<()> {
        tx.execute_batch(&format!("DROP {} IF EXISTS {}", self.kind, self.name))
    }
}

/// The objects of a database, in the order in which they were created.
pub(super) fn objects(database: &Connection) -> rusqlite::Result<Vec<Object>> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema
               WHERE sql IS NOT NULL AND name <> 'sqlite_sequence' ORDER BY rowid";
    let read =
        |row: &Row<'_>| Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? });
    database.prepare(sql)?.query_map([], read)?.collect()
}

/// The objects of this kind that are not in `other` with the same text.
pub(super) fn missing<'a>(
    objects: &'a [Object],
    other: &'a [Object],
    kind: &'a str,
) -> impl Iterator<Item = &'a Object> {
    let is_there = |object: &Object| other.iter().any(|same| same.name == object.name && same.sql == object.sql);
    objects.iter().filter(move |object| object.kind == kind && !is_there(object))
}

/// The names of a table's columns.
pub(super) fn columns(database: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut select = database.prepare("SELECT name FROM pragma_table_info(?1)")?;
    select.query_map([table], |row| row.get(0))?.collect()
}
