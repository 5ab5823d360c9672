//! The numbers that SQLite gives to new rows, where somebody has set them to the end of their range: SQLite would give no
//! other, and refuse every insert as if the disk were full.
//!
//! It knows which tables have such numbers, and nothing of what the numbers mean. That no row has one too large is a rule
//! of the schema.

use rusqlite::Connection;

/// The tables whose numbers are never given twice, with the column.
const NUMBERED: [(&str, &str); 5] = [
    ("outbox_items", "id"),
    ("outbox_signals", "seq"),
    ("outbox_state", "version"),
    ("outbox_jobs", "id"),
    ("outbox_audit", "seq"),
];

/// The largest number that the schema allows.
const NUMBER_MAX: i64 = 4_611_686_018_427_387_903;

/// Sets what is past the largest number back to the highest one in use.
pub(crate) fn set_back(connection: &Connection) -> rusqlite::Result<()> {
    let mut past = connection.prepare_cached("SELECT name FROM sqlite_sequence WHERE seq > ?1")?;
    let past: Vec<String> = past.query_map([NUMBER_MAX], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for (table, column) in NUMBERED.iter().filter(|(table, _)| past.iter().any(|name| name == table)) {
        tracing::error!(table, "the numbers of a table were at their end: set back to the highest one in use");
        let highest = format!("SELECT coalesce(max({column}), 0) FROM {table} WHERE {column} <= ?1");
        connection.execute(
            &format!("UPDATE sqlite_sequence SET seq = ({highest}) WHERE name = ?2"),
            rusqlite::params![NUMBER_MAX, table],
        )?;
    }
    Ok(())
}
