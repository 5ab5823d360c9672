//! From schema 1, where an item's status was in columns of `outbox_items`, to places: inside the file, without a copy
//! of any payload.
//!
//! `0002_places.sql` fills the new tables from the old columns. Then the text of each changed table in `sqlite_schema`
//! is replaced, which leaves the rows as they are: a column that both schemas have keeps its position in a row, a
//! column that only the old one has keeps its position as `unused_1`, `unused_2` and so on, and new columns come last.
//! So a statement that names an old column fails instead of reading a value that nobody keeps.
//!
//! It contains no definition of the new schema: each comes from a database in memory.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use outbox_item::Millis;
use outbox_store::StoreError;

use crate::error::{unavailable, unusable};
use crate::migrate::application_objects::ApplicationObjects;
use crate::migrate::schema_objects::{ITEMS, Object, columns, missing, objects};
use crate::migrate::versions::Schemas;

/// Fills the new tables, which exist and are empty, from the old columns.
const FILL: &str = include_str!("../../migrations/0002_places.sql");

/// How many dead items each saga run has.
const COUNT_DEAD: &str = "UPDATE outbox_sagas SET dead = run.dead
    FROM (SELECT saga, cid, count(*) AS dead FROM outbox_dead JOIN outbox_items USING (id)
          WHERE saga IS NOT NULL GROUP BY saga, cid) AS run
    WHERE outbox_sagas.saga = run.saga AND outbox_sagas.cid = run.cid";

/// A host that wrote its heartbeat within this time may still run.
const HOST_SILENT: Duration = Duration::from_secs(30);

/// Migrates the file of `tx` from the schema that `old` has to the one that `new` has. Errors with
/// [`StoreError::Unusable`] when a host may still work on the file, or when something of the application depends on the
/// old columns.
pub(super) fn migrate(tx: &Connection, old: &Connection, new: &Connection) -> Result<(), StoreError> {
    refuse_running_hosts(tx)?;
    let rebuilt = refuse_changed_table(tx, old).and_then(|()| rebuild(tx, old, new));
    rebuilt.map_err(unavailable("migrating the database"))
}

/// Errors as [`migrate`] would, for a host that runs or an object of the application that does not fit. It is tried in
/// memory on the definitions of `file`, without rows.
pub(super) fn rehearse(file: &Connection) -> Result<(), StoreError> {
    refuse_running_hosts(file)?;
    let tried = "trying the migration in memory";
    let Schemas { old, new } = Schemas::read().map_err(unavailable(tried))?;
    let copy = Connection::open_in_memory().map_err(unavailable(tried))?;
    for object in objects(file).map_err(unavailable(tried))? {
        // What needs an extension or a function of the application cannot be tried here.
        copy.execute_batch(&object.sql).ok();
    }
    refuse_changed_table(&copy, &old).and_then(|()| rebuild(&copy, &old, &new)).map_err(unavailable(tried))
}

/// A host of the old version would go on with statements that fit no longer.
fn refuse_running_hosts(tx: &Connection) -> Result<(), StoreError> {
    let since = Millis::from(SystemTime::now()).saturating_sub(HOST_SILENT);
    let sql = "SELECT group_concat(instance, ', ') FROM outbox_pods WHERE heartbeat_at > ?1";
    let running: Option<String> =
        tx.query_row(sql, [since.get()], |row| row.get(0)).map_err(unavailable("looking for running hosts"))?;
    let Some(running) = running else { return Ok(()) };
    let silent = HOST_SILENT.as_secs();
    Err(StoreError::Unusable(format!(
        "{running} worked on this database less than {silent} s ago: stop every outbox of the old version, wait \
         {silent} s, and run `outbox migrate` again"
    )))
}

fn refuse_changed_table(tx: &Connection, old: &Connection) -> rusqlite::Result<()> {
    if columns(tx, ITEMS)? == columns(old, ITEMS)? {
        return Ok(());
    }
    let told = "outbox_items does not have the columns of schema 1: undo what was changed in it";
    Err(unusable(StoreError::Unusable(format!("{told}, and run `outbox migrate` again"))))
}

fn rebuild(tx: &Connection, old: &Connection, new: &Connection) -> rusqlite::Result<()> {
    let (before, after) = (objects(old)?, objects(new)?);
    let application = ApplicationObjects::read(tx, &before)?;
    application.refuse_triggers_on_update()?;
    let working = application.working_statements(tx);
    for gone in ["trigger", "view"] {
        missing(&before, &after, gone).try_for_each(|object| object.drop_from(tx))?;
    }
    let is_new = |table: &&Object| !before.iter().any(|old| old.name == table.name);
    missing(&after, &before, "table").filter(is_new).try_for_each(|table| tx.execute_batch(&table.sql))?;
    tx.execute_batch(FILL)?;
    missing(&before, &after, "index").try_for_each(|object| object.drop_from(tx))?;
    let is_changed = |table: &&Object| !is_new(table);
    let changed: Vec<_> = missing(&after, &before, "table").filter(is_changed).collect();
    replace_texts(tx, &changed, old, new)?;
    for added in ["index", "view", "trigger"] {
        missing(&after, &before, added).try_for_each(|object| tx.execute_batch(&object.sql))?;
    }
    tx.execute(COUNT_DEAD, [])?;
    working.iter().try_for_each(|statement| statement.check(tx))?;
    check_statements(tx)?;
    check_rows(tx)
}

/// Replaces the texts of tables, and lets the connection read the schema anew.
fn replace_texts(tx: &Connection, tables: &[&Object], old: &Connection, new: &Connection) -> rusqlite::Result<()> {
    tx.execute_batch("PRAGMA writable_schema = ON")?;
    for Object { name, sql, .. } in tables {
        let text = with_unused_columns(sql, &columns(old, name)?, &columns(new, name)?);
        tx.execute("UPDATE sqlite_schema SET sql = ?2 WHERE type = 'table' AND name = ?1", params![name, text])?;
    }
    let version: i64 = tx.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
    tx.execute_batch(&format!("PRAGMA schema_version = {}; PRAGMA writable_schema = RESET", version + 1))?;
    // Reads the whole schema; an index of the application may name a column that is gone.
    tx.prepare("SELECT 1 FROM outbox_items").map(drop).map_err(|err| does_not_fit(&err))
}

/// The definition `sql`, in which each column begins a line, with a placeholder wherever a row of the old table has a
/// value that the new one has no column for. Placeholders after the last common column need a new column behind them.
fn with_unused_columns(sql: &str, old: &[String], new: &[String]) -> String {
    let mut lines: Vec<String> = sql.lines().map(str::to_owned).collect();
    let mut unused = (1..).map(|number| format!("    unused_{number} ANY,"));
    let mut waiting = Vec::new();
    let added = new.iter().filter(|name| !old.contains(name));
    for name in old.iter().chain(added) {
        if new.contains(name) {
            let line = first_line_of(&lines, name);
            lines.splice(line..line, waiting.drain(..));
        } else {
            waiting.extend(unused.next());
        }
    }
    lines.join("\n")
}

/// Where a column's definition begins, with the comment above it.
fn first_line_of(lines: &[String], column: &str) -> usize {
    let begins = |line: &String| line.trim_start().split(' ').next() == Some(column);
    let definition = lines.iter().position(begins).unwrap_or_default();
    let comments = lines[..definition].iter().rev().take_while(|line| line.trim_start().starts_with("--"));
    definition - comments.count()
}

/// Compiles the statements that applications run, with every trigger on the table.
fn check_statements(tx: &Connection) -> rusqlite::Result<()> {
    for sql in [
        "INSERT INTO outbox_items (type, idem_key, payload) VALUES ('t', 'k', '')",
        "UPDATE outbox_items SET metadata = '{}'",
        "DELETE FROM outbox_items",
    ] {
        tx.prepare(sql).map_err(|err| does_not_fit(&err))?;
    }
    Ok(())
}

fn does_not_fit(err: &rusqlite::Error) -> rusqlite::Error {
    let told = "an index or a trigger of the application does not fit the new outbox_items";
    let advice = "drop it, or let it read the view outbox_status, and run `outbox migrate` again";
    unusable(StoreError::Unusable(format!("{told} ({err}): {advice}")))
}

/// Compares the rows with the table's new definition, but not with its CHECKs: an old row that breaks a new one stays
/// as it is.
fn check_rows(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute_batch("PRAGMA ignore_check_constraints = ON")?;
    let found = tx.query_row("SELECT quick_check FROM pragma_quick_check(?1)", [ITEMS], |row| row.get::<_, String>(0));
    tx.execute_batch("PRAGMA ignore_check_constraints = OFF")?;
    match found?.as_str() {
        "ok" => Ok(()),
        fault => {
            let advice = "look with `PRAGMA integrity_check`, and restore a backup if the file is damaged";
            Err(unusable(StoreError::Unusable(format!("outbox_items is not sound ({fault}): {advice}"))))
        }
    }
}

#[cfg(test)]
mod tests;
