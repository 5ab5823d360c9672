//! Moving to another store: records that carry everything of an outbox that must not be lost, in a form that no engine
//! owns.
//!
//! The file format around the records is not known here.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use outbox_item::{ItemId, Status};

use crate::action::Execution;
use crate::error::StoreError;
use crate::moved_tables::{MOVED_TABLES, MovedTable, RecordColumns};

/// Reading everything out of a store, and writing it into another. Called for a whole move by the command line.
///
/// A caller makes sure that workers are idle, or an import refuses the items that they hold.
#[async_trait]
pub trait Transfer: Send + Sync + 'static {
    /// Begins to read one moment of the store: everything that is committed now, and what transactions commit that have
    /// inserted items already. Waits for those, for a minute or so; errors with [`StoreError::Unusable`] when they go
    /// on.
    async fn begin_export(&self) -> Result<Box<dyn ExportSnapshot>, StoreError>;

    /// Creates the records with the ids, keys and history that they had, all or none. A record that exists already,
    /// the same in every column, is left alone, so that an import can be repeated, and a dry run afterwards verifies
    /// it. Errors with [`StoreError::Conflict`] when another item has an id or a key.
    async fn import(&self, records: Vec<Record>, execution: Execution) -> Result<ImportReport, StoreError>;

    /// How many records a caller gives to one [`Transfer::import`], so that its transaction stays short.
    fn import_size(&self) -> usize {
        200
    }
}

/// One moment of a store, which stays readable until this is dropped.
#[async_trait]
pub trait ExportSnapshot: Send {
    /// A page of everything that another store needs to take over, from [`ExportPosition::START`] on.
    async fn page(&mut self, after: ExportPosition, limit: u32) -> Result<ExportPage, StoreError>;
}

/// What is moved as one unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase", deny_unknown_fields)]
pub enum Record {
    /// An item with its failed attempts, and the newest run of its saga.
    Item {
        /// The row of the item, without what a store makes for itself.
        item: RecordColumns,
        /// The rows of its history.
        attempts: Vec<RecordColumns>,
        /// The row of its saga's run.
        run: Option<RecordColumns>,
    },
    /// One value of a plugin's state.
    State {
        /// The row.
        state: RecordColumns,
    },
    /// One of the totals; those of DONE items follow from the items.
    Total {
        /// The row.
        total: RecordColumns,
    },
    /// A row of one of the [`MOVED_TABLES`].
    Row {
        /// The name of the table.
        table: String,
        /// The row.
        row: RecordColumns,
    },
}

impl Record {
    /// The id, of an item.
    pub fn item_id(&self) -> Option<ItemId> {
        match self {
            Self::Item { item, .. } => item.get("id").and_then(Value::as_i64).map(ItemId::new),
            Self::State { .. } | Self::Total { .. } | Self::Row { .. } => None,
        }
    }

    /// The type, of an item.
    pub fn item_type(&self) -> Option<&str> {
        match self {
            Self::Item { item, .. } => item.get("type").and_then(Value::as_str),
            Self::State { .. } | Self::Total { .. } | Self::Row { .. } => None,
        }
    }

    /// The type and the reason, of a pause.
    pub fn pause(&self) -> Option<(&str, &str)> {
        match self {
            Self::Row { table, row } if table == "pauses" => {
                Some((text_column(row, "type"), text_column(row, "reason")))
            }
            _ => None,
        }
    }

    /// The record as it is in whatever store it is, so that records of two stores can be compared.
    #[must_use]
    pub fn wherever(mut self) -> Self {
        match &mut self {
            Self::Item { item, .. } => {
                // Only one of the engines has it.
                item.remove("turn");
                complete(item);
            }
            Self::Row { table, row } => {
                if let Some(table) = MovedTable::named(table) {
                    *row = table.wherever(row);
                }
            }
            Self::State { .. } | Self::Total { .. } => {}
        }
        self
    }
}

/// Adds the columns that the version which exported the item did not have, with the values that an import gives them.
fn complete(item: &mut RecordColumns) {
    for column in ITEM_COLUMNS {
        let value = if matches!(*column, "losses" | "give_backs") { json!(0) } else { Value::Null };
        item.entry(*column).or_insert(value);
    }
}

/// Where a page of an export begins: after this one of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportPosition {
    /// The last item.
    Item(ItemId),
    /// The last value of state, by its version.
    State(i64),
    /// The last row of one of the [`MOVED_TABLES`], by its key; the first page of a table
    /// has no key.
    Row {
        /// The index of the table.
        table: usize,
        /// The values of the key.
        after: Vec<Value>,
    },
}

impl ExportPosition {
    /// The beginning of an export.
    pub const START: Self = Self::Item(ItemId::new(0));

    /// The beginning of the table with this index; `None` when there is no such table.
    pub fn table(table: usize) -> Option<Self> {
        (table < MOVED_TABLES.len()).then_some(Self::Row { table, after: Vec::new() })
    }
}

/// A page of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportPage {
    /// The records, items first and by ascending id.
    pub records: Vec<Record>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<ExportPosition>,
}

/// The result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Records that were there already, the same in every column.
    pub present: u64,
    /// Records that were, or would be, created.
    pub created: u64,
}

/// The columns of an item that are moved: all but those of the claim, which no process holds then, and those that
/// follow from the others. Each engine reads them from its view of the status.
pub const ITEM_COLUMNS: &[&str] = &[
    "id",
    "idem_key",
    "type",
    "payload",
    "content_type",
    "headers",
    "metadata",
    "cid",
    "saga",
    "ordering_key",
    "status",
    "attempts",
    "deliveries",
    "replays",
    "effects",
    "available_at",
    "given_back_since",
    "maybe_executed",
    "blocks_key",
    "fingerprint",
    "last_error",
    "created_at",
    "done_at",
    "dead_at",
    "result",
    "handler_digest",
    "losses",
    "give_backs",
    "fairness_key",
    "root",
    "depth",
];
/// Those of [`ITEM_COLUMNS`] that the caller of an enqueue gives; the table of items has them.
pub const ENQUEUED_COLUMNS: &[&str] = &[
    "id",
    "idem_key",
    "type",
    "payload",
    "content_type",
    "headers",
    "metadata",
    "cid",
    "saga",
    "ordering_key",
    "available_at",
    "created_at",
    "fairness_key",
];
/// Those of [`ITEM_COLUMNS`] that the table of descendants has; only a follow-up has a root.
pub const DESCENT_COLUMNS: &[&str] = &["id", "root", "depth", "created_at"];
/// The columns of an attempt that are moved.
pub const ATTEMPT_COLUMNS: &[&str] = &[
    "item_id",
    "delivery",
    "attempt",
    "started_at",
    "ended_at",
    "pod",
    "class",
    "code",
    "message",
    "stderr",
    "handler_digest",
    "maybe_executed",
    "exchanges",
];
/// The columns of a saga's run that are moved.
pub const SAGA_COLUMNS: &[&str] = &["saga", "cid", "run", "began_at", "ended_at"];
/// The columns of a value of state that are moved.
pub const STATE_COLUMNS: &[&str] = &["version", "plugin", "key", "value"];
/// The columns of a total that are moved.
pub const COUNTER_COLUMNS: &[&str] = &["name", "saga", "type", "outcome", "total"];
/// The columns that hold bytes, whatever they look like.
pub const BINARY_COLUMNS: &[&str] = &["result", "exchanges", "value"];

/// Errors for an item that a worker holds.
pub fn refuse_claimed(item: &RecordColumns) -> Result<(), StoreError> {
    if text_column(item, "status") != Status::Claimed.as_str() {
        return Ok(());
    }
    let id = &item["id"];
    Err(StoreError::Unusable(format!("item {id} is CLAIMED: pause its type, let it drain, export again")))
}

/// The error for the record at `index`, an item, whose id or key another item has.
pub fn item_conflict(index: usize, item: &RecordColumns, first: ItemId) -> StoreError {
    StoreError::Conflict { index, idem_key: text_column(item, "idem_key").to_owned(), first }
}

/// The error for a value of state whose key or version another value has.
pub fn state_conflict(state: &RecordColumns) -> StoreError {
    let (plugin, key) = (text_column(state, "plugin"), text_column(state, "key"));
    StoreError::Unusable(format!("state key {key:?} of plugin {plugin:?}, or its version, is taken by another value"))
}

/// Errors for a job that has not ended: it would go on in the other store, among items that it has changed already.
pub fn refuse_running_job(table: &str, row: &RecordColumns) -> Result<(), StoreError> {
    if table != "jobs" || text_column(row, "state") != "RUNNING" {
        return Ok(());
    }
    let id = &row["id"];
    Err(StoreError::Unusable(format!(
        "job {id} is running: let it end, or stop it with `outbox jobs cancel {id}`, and export again"
    )))
}

/// The table of a record. Errors for a table that this program does not know.
pub fn moved_table(name: &str) -> Result<&'static MovedTable, StoreError> {
    MovedTable::named(name)
        .ok_or_else(|| StoreError::Unusable(format!("records of the table {name:?} are of a newer outbox")))
}

/// The error for a row whose key another row has.
pub fn row_conflict(table: &MovedTable, row: &RecordColumns) -> StoreError {
    let key: Vec<_> = table.key_of(row).iter().map(Value::to_string).collect();
    StoreError::Unusable(format!(
        "the store has another row {} in its {}: import with --items-only, which leaves out what operators did, or into \
         an empty store",
        key.join(", "),
        table.name
    ))
}

/// A column that holds text; empty when it does not.
pub fn text_column<'a>(columns: &'a RecordColumns, name: &str) -> &'a str {
    columns.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A column that holds a number.
pub fn integer_column(columns: &RecordColumns, name: &str) -> Option<i64> {
    columns.get(name).and_then(Value::as_i64)
}

/// Bytes as a record has them.
pub fn from_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => base64_of(bytes),
    }
}

/// Bytes as a record has them when they are no text.
pub(crate) fn base64_of(bytes: &[u8]) -> Value {
    json!({ "base64": BASE64.encode(bytes) })
}

/// The bytes of a record's column; errors when it holds none.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>, base64::DecodeError> {
    match value {
        Value::String(text) => Ok(text.clone().into_bytes()),
        other => BASE64.decode(other["base64"].as_str().unwrap_or_default()),
    }
}
