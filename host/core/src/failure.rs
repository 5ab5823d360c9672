//! Why an attempt failed: a class that the host acts on, a code for grouping and a message for people.
//!
//! Knows no item and no policy; `settlement.rs` combines them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

/// The kind of a failure. It decides whether the attempt counts and whether the worker retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// The handler asks for another attempt.
    Retryable,
    /// The handler reports that another attempt cannot succeed.
    Permanent,
    /// The handler asks for a later attempt and this one does not count.
    Deferred,
    /// The component trapped.
    Trap,
    /// The host ended the attempt at its deadline while the component waited.
    Timeout,
    /// The component used more CPU time than its limit.
    Cpu,
    /// The component needed more memory than its limit.
    Memory,
    /// The attempt failed after the host had denied it a request.
    Denied,
    /// The component broke the contract: a result out of bounds, or success with a request still in flight.
    Contract,
    /// The lease ended before the worker settled the claim: its process died or was suspended. Also the class of an
    /// item that is dead-lettered at a claim because it has no retries left.
    Lost,
    /// A fault of a plugin version that is still a canary; the attempt does not count.
    Plugin,
    /// A fault of the host, such as no free instance; the attempt does not count.
    Host,
    /// Another attempt changed state that this one had read; the attempt does not count.
    Conflict,
    /// The store could not read the row.
    Undecodable,
    /// An operator dead-lettered or released the item.
    Operator,
}

impl FailureClass {
    /// Every class, in the order of the definition.
    pub const ALL: [Self; 15] = [
        Self::Retryable,
        Self::Permanent,
        Self::Deferred,
        Self::Trap,
        Self::Timeout,
        Self::Cpu,
        Self::Memory,
        Self::Denied,
        Self::Contract,
        Self::Lost,
        Self::Plugin,
        Self::Host,
        Self::Conflict,
        Self::Undecodable,
        Self::Operator,
    ];

    /// The word that stores keep and that JSON shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retryable => "retryable",
            Self::Permanent => "permanent",
            Self::Deferred => "deferred",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Denied => "denied",
            Self::Contract => "contract",
            Self::Lost => "lost",
            Self::Plugin => "plugin",
            Self::Host => "host",
            Self::Conflict => "conflict",
            Self::Undecodable => "undecodable",
            Self::Operator => "operator",
        }
    }

    /// Whether the worker gives the item back, so that the attempt does not count.
    pub fn is_uncounted(self) -> bool {
        matches!(self, Self::Deferred | Self::Plugin | Self::Host | Self::Conflict)
    }

    /// Whether the worker dead-letters the item even if retries are left.
    pub fn skips_retries(self) -> bool {
        matches!(self, Self::Permanent | Self::Undecodable)
    }
}

impl FromStr for FailureClass {
    type Err = serde::de::value::Error;

    /// Reads the word that is stored.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::deserialize(word.into_deserializer())
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The code of a failure of the host that lacks descriptors, memory or ports.
pub const HOST_RESOURCES: &str = "host.resources";
/// The code of a failure of the host that could not read plugin state.
pub const HOST_STATE: &str = "host.state";

/// Why an attempt failed. Handlers return it as a value; it is never an error of the host itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of the failure; the host acts on it.
    pub class: FailureClass,
    /// A stable dotted word for grouping, such as `upstream.timeout`.
    pub code: String,
    /// A sentence for the person who reads the history of the item.
    pub message: String,
    /// The delay that the handler asks for, counted from the settlement.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that asks for no particular delay.
    pub fn new(class: FailureClass, code: &str, message: impl Into<String>) -> Self {
        Self { class, code: code.to_owned(), message: message.into(), retry_after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_class_is_read_back_and_an_unknown_one_is_an_error() {
        for class in [FailureClass::Retryable, FailureClass::Cpu, FailureClass::Undecodable, FailureClass::Operator] {
            assert_eq!(class.as_str().parse(), Ok(class));
        }
        assert!("Lost".parse::<FailureClass>().is_err());
    }
}
