//! The tables that are moved to another store row by row: what operators did, and what operators read.
//!
//! Items, state and totals are moved by records of their own (`transfer`), because a store derives other rows from them.

use serde_json::{Map, Value};

/// A row by its column names. Bytes are a string where they are UTF-8, else an object with `base64`.
pub type RecordColumns = Map<String, Value>;

/// A table whose rows are moved as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedTable {
    /// Its name, without what an engine puts in front.
    pub name: &'static str,
    /// The columns of its primary key; integers and texts.
    pub key: &'static [&'static str],
    /// All columns.
    pub columns: &'static [&'static str],
    /// What an import subtracts from the column `seq`, so that the rows come before those that the store has already.
    pub earlier_by: i64,
}

/// More entries of the audit trail than an outbox has. An imported trail is so much earlier than the store's own.
const AUDIT_SPAN: i64 = 1_000_000_000;

/// The tables, in the order in which they are moved.
pub const MOVED_TABLES: [MovedTable; 7] = [
    MovedTable { name: "pauses", key: &["type"], columns: &["type", "paused_at", "actor", "reason"], earlier_by: 0 },
    MovedTable {
        name: "key_pauses",
        key: &["fairness_key", "type"],
        columns: &["fairness_key", "type", "paused_at", "actor", "reason"],
        earlier_by: 0,
    },
    MovedTable {
        name: "quarantine",
        key: &["digest"],
        columns: &["digest", "plugin", "reason", "at", "pod"],
        earlier_by: 0,
    },
    MovedTable {
        name: "jobs",
        key: &["id"],
        columns: &[
            "id",
            "action",
            "filter",
            "actor",
            "reason",
            "per_second",
            "stop_after",
            "state",
            "began_at",
            "ended_at",
            "next_at",
            "position",
            "last_id",
            "matched",
            "changed",
            "refused",
            "sample",
            "refusals",
        ],
        earlier_by: 0,
    },
    MovedTable { name: "signals", key: &["seq"], columns: &["seq", "pod", "signal", "ts", "data"], earlier_by: 0 },
    MovedTable {
        name: "audit",
        key: &["seq"],
        columns: &["seq", "at", "actor", "action", "selection", "reason", "job", "count", "changes"],
        earlier_by: AUDIT_SPAN,
    },
    MovedTable { name: "audit_items", key: &["item_id", "seq"], columns: &["item_id", "seq"], earlier_by: AUDIT_SPAN },
];

/// The reason of the pauses that an import makes. They end when the import is verified, and a pause that is imported
/// takes the place of one of them.
pub const IMPORT_PAUSE_REASON: &str = "until the import is verified";

impl MovedTable {
    /// The table of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        MOVED_TABLES.iter().find(|table| table.name == name)
    }

    /// The row as an import writes it.
    pub fn imported(&self, row: &RecordColumns) -> RecordColumns {
        let mut row = row.clone();
        if self.earlier_by != 0
            && let Some(seq) = row.get("seq").and_then(Value::as_i64)
        {
            row.insert("seq".to_owned(), seq.saturating_sub(self.earlier_by).into());
        }
        row
    }

    /// The row as it is wherever it was imported: without the number that an import changes.
    pub fn wherever(&self, row: &RecordColumns) -> RecordColumns {
        let mut row = row.clone();
        if self.earlier_by != 0
            && let Some(seq) = row.get("seq").and_then(Value::as_i64)
        {
            row.insert("seq".to_owned(), seq.rem_euclid(self.earlier_by).into());
        }
        row
    }

    /// The values of the key.
    pub fn key_of(&self, row: &RecordColumns) -> Vec<Value> {
        self.key.iter().map(|name| row.get(*name).cloned().unwrap_or_default()).collect()
    }

    /// Whether a row of the store with the same key replaces the imported one: it is the same, it pauses the key too, or
    /// it pauses the type for another reason than an import.
    pub fn stands_for(&self, present: &RecordColumns, imported: &RecordColumns) -> bool {
        present == imported || self.name == "key_pauses" || self.name == "pauses" && !is_pause_of_import(present)
    }

    /// Whether a row of the store with the same key gives way to the imported one.
    pub fn gives_way(&self, present: &RecordColumns) -> bool {
        self.name == "pauses" && is_pause_of_import(present)
    }
}

fn is_pause_of_import(pause: &RecordColumns) -> bool {
    pause.get("reason").and_then(Value::as_str) == Some(IMPORT_PAUSE_REASON)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: &Value) -> RecordColumns {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn an_imported_audit_entry_comes_before_those_of_the_store_and_is_recognised_after_two_moves() {
        let audit = MovedTable::named("audit").unwrap();
        let original = row(&json!({"seq": 7, "actor": "ada"}));
        let once = audit.imported(&original);
        let twice = audit.imported(&once);
        assert!(twice["seq"].as_i64() < once["seq"].as_i64() && once["seq"].as_i64() < Some(0));
        assert_eq!(audit.wherever(&twice), original);
    }

    #[test]
    fn a_pause_of_an_import_gives_way_and_one_of_an_operator_stands() {
        let pauses = MovedTable::named("pauses").unwrap();
        let imported = row(&json!({"type": "mail", "reason": "until Monday"}));
        let ours = row(&json!({"type": "mail", "reason": IMPORT_PAUSE_REASON}));
        let theirs = row(&json!({"type": "mail", "reason": "an upgrade"}));
        assert!(pauses.gives_way(&ours) && !pauses.stands_for(&ours, &imported));
        assert!(pauses.stands_for(&theirs, &imported) && !pauses.gives_way(&theirs));
    }
}
