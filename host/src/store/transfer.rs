//! Moving to another store: records that carry everything of an outbox that must not be lost, in a form
//! that no engine owns.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::item::ItemId;

/// A row by its column names. Bytes are a string where they are UTF-8, else an object with `base64`.
pub type Columns = Map<String, Value>;

/// What is moved as one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase", deny_unknown_fields)]
pub enum Record {
    /// An item with its failed attempts, and the newest run of its saga.
    Item {
        /// The row of the item, without what a store makes for itself.
        item: Columns,
        /// The rows of its history.
        attempts: Vec<Columns>,
        /// The row of its saga's run.
        run: Option<Columns>,
    },
    /// One value of a plugin's state.
    State {
        /// The row.
        state: Columns,
    },
    /// One of the totals; those of DONE items follow from the items.
    Total {
        /// The row.
        total: Columns,
    },
}

impl Record {
    /// The id, of an item.
    pub fn item_id(&self) -> Option<ItemId> {
        match self {
            Self::Item { item, .. } => item.get("id").and_then(Value::as_i64),
            Self::State { .. } | Self::Total { .. } => None,
        }
    }

    /// The type, of an item.
    pub fn item_type(&self) -> Option<&str> {
        match self {
            Self::Item { item, .. } => item.get("type").and_then(Value::as_str),
            Self::State { .. } | Self::Total { .. } => None,
        }
    }
}

/// Where an export goes on: after this one of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportPosition {
    /// The last item.
    Item(ItemId),
    /// The last value of state, by its version.
    State(i64),
}

/// A part of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportPage {
    /// The records, items first and by ascending id.
    pub records: Vec<Record>,
    /// Where the next part begins; `None` after the last.
    pub next: Option<ExportPosition>,
}

/// What became of records that were imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Records that were there already, the same in every column.
    pub present: u64,
    /// Records that were, or would be, created.
    pub created: u64,
}
