//! The identity of an item.
//!
//! Only the engines and the clients turn it into a column value and back. All other code compares it, prints it and
//! passes it on. This file knows no database.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The store's number of an item. The store never uses a number twice; a later item has a higher number. JSON shows a
/// number; a string of its digits is read too, because some languages hold such numbers as strings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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

impl<'de> Deserialize<'de> for ItemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = ItemId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id of an item, as a number or as a string of its digits")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ItemId, E> {
        Ok(ItemId(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<ItemId, E> {
        i64::try_from(number).map(ItemId).map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ItemId, E> {
        text.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_a_bare_number_and_read_as_a_number_or_a_string() {
        let id = ItemId::new(7);
        assert_eq!((serde_json::to_string(&id).unwrap().as_str(), serde_json::from_str("7").ok()), ("7", Some(id)));
        assert_eq!((format!("{id}"), format!("{:?}", Some(id))), ("7".to_owned(), "Some(7)".to_owned()));
        assert_eq!(serde_json::from_str("\"7\"").ok(), Some(id));
        for wrong in ["\"x\"", "\"\"", "7.5", "true", "9223372036854775808"] {
            let err = serde_json::from_str::<ItemId>(wrong).unwrap_err().to_string();
            assert!(err.contains("the id of an item"), "{wrong}: {err}");
        }
        assert_eq!("7".parse(), Ok(id));
        assert_eq!("x".parse::<ItemId>(), Err("x".parse::<i64>().unwrap_err()));
    }
}
