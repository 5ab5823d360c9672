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

/// The proof of a claim: a random number from 1 to `i64::MAX`, drawn anew for each lease. A counter would give its
/// numbers again after a failover or a restore from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimToken(i64);

impl ClaimToken {
    /// The token with this number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// A new token, from the system's random numbers.
    pub fn random() -> Self {
        // The first 6 bytes of a UUID and its last 2 are random in all bits; those between name its version.
        let (first, last) = uuid::Uuid::new_v4().as_u64_pair();
        let number = (first & !0xFFFF) | (last & 0xFFFF);
        Self((number.cast_signed() & i64::MAX).max(1))
    }

    /// The number, as it is stored.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
