//! Why an attempt did not end DONE: a class that decides what follows, and words for people.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What kind of failure an attempt ended with. It decides whether the attempt counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// The handler asks for another try.
    Retryable,
    /// The handler says that trying again cannot help.
    Permanent,
    /// The handler asks for a later try that does not count.
    Deferred,
    /// The component trapped.
    Trap,
    /// The attempt was cut off at its deadline, waiting.
    Timeout,
    /// The component used more CPU than it may.
    Cpu,
    /// The component wanted more memory than it may have.
    Memory,
    /// The attempt failed after the host had denied it something.
    Denied,
    /// The component broke the contract: an answer out of bounds, or `ok` with a request in flight.
    Contract,
    /// The lease ended before the claim was settled: the process died, or was suspended.
    Lost,
    /// A fault of the plugin while it is on probation; given back.
    Plugin,
    /// A fault of the host, such as no free instance; given back.
    Host,
    /// State that the attempt had read was changed by another; given back.
    Conflict,
    /// The stored row could not be read.
    Undecodable,
    /// An operator dead-lettered or released the item.
    Operator,
}

impl FailureClass {
    /// The word that is stored and printed.
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

    /// Whether the attempt is released uncounted.
    pub fn is_uncounted(self) -> bool {
        matches!(self, Self::Deferred | Self::Plugin | Self::Host | Self::Conflict)
    }

    /// Whether the item goes to the dead-letter queue whatever retries are left.
    pub fn skips_retries(self) -> bool {
        matches!(self, Self::Permanent | Self::Undecodable)
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why an attempt failed. A value, never an error of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Decides what happens to the item.
    pub class: FailureClass,
    /// Stable and dotted, for grouping: `upstream.timeout`.
    pub code: String,
    /// For the person who reads the item's history.
    pub message: String,
    /// The next attempt starts no earlier than this after the settlement.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that asks for no certain delay.
    pub fn new(class: FailureClass, code: &str, message: impl Into<String>) -> Self {
        Self { class, code: code.to_owned(), message: message.into(), retry_after: None }
    }
}
