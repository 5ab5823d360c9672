//! The orders that an item can give.

use serde::Deserialize;
use serde_json::Value;

use crate::effects::{Emit, HttpCall};

/// What the handler does for an item. Each order returns a JSON result; it is `null` unless the order states another.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    /// Returns `result`.
    Succeed {
        #[serde(default)]
        result: Value,
    },
    /// Returns a string of this many bytes.
    BigResult { bytes: usize },
    /// Runs these orders in turn until one fails; returns all their results.
    Sequence { steps: Vec<Order> },
    /// Fails retryably.
    Retry { retry_after_ms: Option<u64> },
    /// Fails permanently.
    Reject,
    /// Fails with the class `defer`.
    Defer { retry_after_ms: Option<u64> },
    /// Fails retryably in every attempt before this one, and succeeds from this attempt on.
    Flaky { succeed_at: u32 },
    /// Panics.
    Trap {
        #[serde(default)]
        message: String,
    },
    /// Panics in the build of this version only; returns the version in other builds.
    TrapIn { version: String },
    /// Computes without end.
    Loop,
    /// Waits.
    Sleep { ms: u64 },
    /// Allocates memory and writes to it, up to this many bytes or without end.
    EatMemory { bytes: Option<usize> },
    /// Recurses without end.
    Recurse,
    /// Ends the guest's process.
    Exit { code: i32 },
    /// Returns the version of this build.
    Version,
    /// Returns what the host tells the handler about its item.
    Item,
    /// Returns the environment variables and arguments that the handler can see.
    Env,
    /// Returns what the handler can read and write in a file system.
    Files,
    /// Returns whether the handler can connect to this address.
    Socket { address: String },
    /// Returns the value of a key of the configuration.
    Config { key: String },
    /// Writes this many log lines.
    Log {
        message: String,
        #[serde(default = "one")]
        lines: usize,
    },
    /// Writes this many lines to its standard error, and to its standard output.
    Stderr {
        message: String,
        #[serde(default = "one")]
        lines: usize,
    },
    /// Sends a request; returns the answer's status and body.
    Http(HttpCall),
    /// Sends a request and follows redirects; returns the status and body of the last answer.
    HttpFollow(HttpCall),
    /// Sends a request and succeeds without waiting for its answer.
    HttpForget(HttpCall),
    /// Returns the value of a key of the state.
    StateGet { key: String },
    /// Sets the value of a key of the state.
    StatePut { key: String, value: Value },
    /// Sets this many keys of the state to values of this many bytes.
    StateFill { keys: usize, bytes: usize },
    /// Adds one to a number in the state; returns the sum.
    StateIncr { key: String },
    /// Removes a key of the state.
    StateDelete { key: String },
    /// Emits a follow-up item, `count` times.
    Emit(Emit),
}

/// The default of fields that count repetitions.
pub(crate) fn one() -> usize {
    1
}
