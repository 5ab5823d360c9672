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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    /// Set in a process that draws tokens for a test and prints them.
    const DRAWS: &str = "OUTBOX_TEST_DRAWS_TOKENS";

    /// The first tokens that a new process draws.
    fn drawn_by_a_new_process(test: &str) -> Vec<i64> {
        let mut process = Command::new(std::env::current_exe().unwrap());
        let output = process.args(["--exact", test]).env(DRAWS, "1").output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        told.lines().filter_map(|line| line.parse().ok()).collect()
    }

    #[test]
    fn processes_that_begin_alike_draw_different_tokens() {
        if std::env::var_os(DRAWS).is_some() {
            let mut told = std::io::stdout().lock();
            for _ in 0..8 {
                writeln!(told, "\n{}", ClaimToken::random()).unwrap();
            }
            return;
        }
        let test = "ids::tests::processes_that_begin_alike_draw_different_tokens";
        let [one, other] = [drawn_by_a_new_process(test), drawn_by_a_new_process(test)];
        assert_eq!((one.len(), other.len()), (8, 8));
        assert!(one.iter().all(|token| !other.contains(token)), "{one:?} {other:?}");
    }

    #[test]
    fn each_bit_of_a_token_is_random() {
        let drawn: Vec<_> = (0..128).map(|_| ClaimToken::random().get()).collect();
        assert!(drawn.iter().all(|token| *token > 0), "{drawn:?}");
        let (ever, always) = drawn.iter().fold((0, i64::MAX), |(ever, always), token| (ever | token, always & token));
        assert_eq!((ever, always), (i64::MAX, 0));
    }
}
