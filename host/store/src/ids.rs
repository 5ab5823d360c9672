//! The identities that a store gives out: of jobs, of signals and of claims.
//!
//! Only the engines turn them into column values and back. Everyone else compares, prints and passes them on. The id
//! of an item is [`outbox_item::ItemId`]: an application needs it too.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The number of a [`Job`](crate::Job). A later job has a larger number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(i64);

impl JobId {
    /// The job with this number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// The number, as it is stored.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The number of a [`Signal`](crate::Signal). Numbers ascend in the order of commits and may have gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignalSeq(i64);

impl SignalSeq {
    /// Less than the number of every signal: reading after it begins with the oldest.
    pub const START: Self = Self(0);
    /// No signal has a larger number: reading after it finds none.
    pub const MAX: Self = Self(i64::MAX);

    /// The signal with this number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// The number, as it is stored.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for SignalSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SignalSeq {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The proof of one claim. A store makes a new one for each claim and never uses it again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimToken(String);

impl ClaimToken {
    /// The token with this text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, as it is stored, without a copy.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
