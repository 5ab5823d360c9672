//! What an item can ask for.

use serde::Deserialize;
use serde_json::Value;

use crate::effects::{Emit, HttpCall};

/// What an item asks for. Each answers with a JSON result, `null` unless it says otherwise.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    /// Answers `result`.
    Succeed {
        #[serde(default)]
        result: Value,
    },
    /// Answers a string of this many bytes.
    BigResult { bytes: usize },
    /// Does these in turn, up to the first that fails; answers all their results.
    Sequence { steps: Vec<Order> },
    /// Fails retryably.
    Retry { retry_after_ms: Option<u64> },
    /// Fails permanently.
    Reject,
    /// Defers.
    Defer { retry_after_ms: Option<u64> },
    /// Fails retryably in every attempt before this one, then succeeds.
    Flaky { succeed_at: u32 },
    /// Panics.
    Trap {
        #[serde(default)]
        message: String,
    },
    /// Panics in the build of this version only; answers the version elsewhere.
    TrapIn { version: String },
    /// Computes for ever.
    Loop,
    /// Waits.
    Sleep { ms: u64 },
    /// Allocates and touches memory until it has this much, or for ever.
    EatMemory { bytes: Option<usize> },
    /// Recurses for ever.
    Recurse,
    /// Ends the guest's process.
    Exit { code: i32 },
    /// Answers the version of this build.
    Version,
    /// Answers what the handler is told about its item.
    Item,
    /// Answers the environment variables and arguments that it can see.
    Env,
    /// Answers what it can read and write of a file system.
    Files,
    /// Answers whether it can connect to this address.
    Socket { address: String },
    /// Answers the value of a key of the configuration.
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
    /// Makes a request; answers its status and body.
    Http(HttpCall),
    /// Makes a request and follows where it is sent on; answers the last status and body.
    HttpFollow(HttpCall),
    /// Makes a request and answers without waiting for it.
    HttpForget(HttpCall),
    /// Answers the value of a key of the state.
    StateGet { key: String },
    /// Sets the value of a key of the state.
    StatePut { key: String, value: Value },
    /// Sets this many keys of the state to values of this many bytes.
    StateFill { keys: usize, bytes: usize },
    /// Adds one to a number in the state; answers the sum.
    StateIncr { key: String },
    /// Removes a key of the state.
    StateDelete { key: String },
    /// Emits a follow-up item, `count` times.
    Emit(Emit),
}

/// How often, unless the item says.
pub(crate) fn one() -> usize {
    1
}
