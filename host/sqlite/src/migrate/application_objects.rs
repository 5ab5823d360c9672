//! The triggers and views that an application has in the same file: whether they fit once the outbox's tables change.
//!
//! What compiles before the migration has to compile afterwards. It does not know what the migration changes.

use std::collections::BTreeSet;

use rusqlite::Connection;

use outbox_store::StoreError;

use crate::error::unusable;
use crate::migrate::schema_objects::{ITEMS, Object, columns, objects};

/// The application's objects in the file of the outbox.
pub(super) struct ApplicationObjects(Vec<Object>);

impl ApplicationObjects {
    /// All objects in the file that are not the outbox's `own`.
    pub(super) fn read(tx: &Connection, own: &[Object]) -> rusqlite::Result<Self> {
        let mut all = objects(tx)?;
        all.retain(|object| !own.iter().any(|own| own.name == object.name));
        Ok(Self(all))
    }

    /// Errors for a trigger on an UPDATE of items: statuses are columns no longer, so it would silently not fire.
    pub(super) fn refuse_triggers_on_update(&self) -> rusqlite::Result<()> {
        let fires = |trigger: &&Object| trigger.table == ITEMS && fires_on_update(trigger);
        let Some(trigger) = self.of_kind("trigger").find(fires) else { return Ok(()) };
        Err(unusable(StoreError::Unusable(format!(
            "the trigger {} of the application fires on an UPDATE of {ITEMS}, whose rows no longer change with the \
             status: drop it, let the application read the view outbox_status, and run `outbox migrate` again",
            trigger.name
        ))))
    }

    /// The statements that use these objects and that compile now.
    pub(super) fn working_statements(&self, tx: &Connection) -> Vec<ApplicationStatement> {
        let mut statements: Vec<_> = self.of_kind("view").map(ApplicationStatement::reading).collect();
        let tables: BTreeSet<_> = self.of_kind("trigger").map(|trigger| &trigger.table).collect();
        for table in tables {
            let on_table = self.of_kind("trigger").filter(|trigger| trigger.table == *table);
            let names: Vec<_> = on_table.map(|trigger| trigger.name.as_str()).collect();
            let used = format!("a trigger of the application on {table} (one of: {})", names.join(", "));
            let changing = |sql| ApplicationStatement { sql, used: used.clone() };
            statements.extend(changes(tx, table).into_iter().map(changing));
        }
        statements.retain(|statement| tx.prepare(&statement.sql).is_ok());
        statements
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Object> {
        self.0.iter().filter(move |object| object.kind == kind)
    }
}

/// A statement that uses objects of the application.
pub(super) struct ApplicationStatement {
    sql: String,
    /// What it uses.
    used: String,
}

impl ApplicationStatement {
    fn reading(view: &Object) -> Self {
        let sql = format!("SELECT * FROM {}", quoted(&view.name));
        Self { sql, used: format!("the view {} of the application", view.name) }
    }

    /// Errors when the statement does not compile any more.
    pub(super) fn check(&self, tx: &Connection) -> rusqlite::Result<()> {
        let does_not_fit = |err| {
            let used = &self.used;
            let advice = "drop it, or let it read the view outbox_status, and run `outbox migrate` again";
            unusable(StoreError::Unusable(format!("{used} does not fit the new {ITEMS} ({err}): {advice}")))
        };
        tx.prepare(&self.sql).map(drop).map_err(does_not_fit)
    }
}

/// The statements that fire the triggers on a table.
fn changes(tx: &Connection, table: &str) -> Vec<String> {
    let name = quoted(table);
    let mut changes = vec![format!("INSERT INTO {name} DEFAULT VALUES"), format!("DELETE FROM {name}")];
    // A view that does not compile has no columns; neither does its statement compile then.
    let columns = columns(tx, table).unwrap_or_default();
    let kept: Vec<_> = columns.iter().map(|column| quoted(column)).map(|name| format!("{name} = {name}")).collect();
    // There are no triggers on an UPDATE of items; see `refuse_triggers_on_update`.
    if table != ITEMS {
        changes.push(format!("UPDATE {name} SET {}", kept.join(", ")));
    }
    changes
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether the first event that the text names after the trigger's name is an UPDATE.
fn fires_on_update(trigger: &Object) -> bool {
    let text = trigger.sql.trim_start_matches("CREATE TRIGGER");
    let rest = text.split_once(&trigger.name).map_or(text, |(_, rest)| rest).to_ascii_uppercase();
    let mut words = rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.find(|word| ["INSERT", "UPDATE", "DELETE"].contains(word)) == Some("UPDATE")
}
