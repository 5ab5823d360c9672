//! Reading stored words and stored JSON: what this program cannot read is an error that names the row.
//!
//! It knows no table. Each store names the row and the column.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::StoreError;

/// How an error names a row: `signal 5`.
#[derive(Clone, Copy, Debug)]
pub struct RowName {
    kind: &'static str,
    number: i64,
}

impl RowName {
    /// The row of this kind with this number.
    pub const fn new(kind: &'static str, number: i64) -> Self {
        Self { kind, number }
    }
}

impl Display for RowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.number)
    }
}

/// Reads a column that holds JSON. Errors with [`StoreError::Unusable`].
pub fn parse_json<T: DeserializeOwned>(text: &str, row: RowName, column: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|err| unreadable(row, column, err))
}

/// Reads a column that holds any JSON. Where that cannot be read, for a number out of range for example, the text of the
/// column stands for it.
pub fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// Reads a column that holds one of several words. Errors with [`StoreError::Unusable`].
pub fn parse_word<T: FromStr<Err: Display>>(word: &str, row: RowName, column: &str) -> Result<T, StoreError> {
    word.parse().map_err(|err| unreadable(row, column, err))
}

fn unreadable(row: RowName, column: &str, err: impl Display) -> StoreError {
    StoreError::Unusable(format!("{column} of {row} cannot be read: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_item::Status;

    #[test]
    fn what_cannot_be_read_names_its_row_and_its_column() {
        let told = |err: StoreError| err.to_string();
        let json = parse_json::<u32>("1e999", RowName::new("signal", 5), "data").map_err(told).unwrap_err();
        assert!(json.starts_with("data of signal 5 cannot be read: "), "{json}");
        let word = parse_word::<Status>("LATER", RowName::new("item", 7), "status").map_err(told).unwrap_err();
        assert!(word.starts_with("status of item 7 cannot be read: unknown status"), "{word}");
        assert_eq!(parse_word::<Status>("DONE", RowName::new("item", 7), "status").map_err(told), Ok(Status::Done));
    }
}
