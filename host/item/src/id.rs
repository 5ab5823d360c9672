//! The identity of an item.
//!
//! Only the engines and the clients turn it into a column value and back. All other code compares it, prints it and
//! passes it on. This file knows no database.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The store's number of an item. The store never uses a number twice; a later item has a higher number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(i64);

impl ItemId {
    /// The item with this number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// The number, as it is stored.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl From<i64> for ItemId {
    fn from(number: i64) -> Self {
        Self(number)
    }
}

impl PartialEq<i64> for ItemId {
    fn eq(&self, number: &i64) -> bool {
        self.0 == *number
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ItemId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_and_read_as_a_bare_number() {
        let id = ItemId::new(7);
        assert_eq!((serde_json::to_string(&id).unwrap().as_str(), serde_json::from_str("7").ok()), ("7", Some(id)));
        assert_eq!((format!("{id}"), format!("{:?}", Some(id))), ("7".to_owned(), "Some(7)".to_owned()));
        assert_eq!("7".parse(), Ok(id));
        assert_eq!("x".parse::<ItemId>(), Err("x".parse::<i64>().unwrap_err()));
    }
}
