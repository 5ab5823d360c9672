//! A handler that does what its payload says, for the host's tests. Never built into `plugins.d`.
//!
//! The payload is JSON whose `do` names one of the [`Order`]s. Built with another `CHAOS_VERSION` in
//! the environment it is another component, with another digest, that behaves alike.

mod effects;
mod faults;
mod probes;

use std::time::Duration;

use outbox_handler::{Failure, Handler, Item, Outcome};
use serde::Deserialize;
use serde_json::{Value, json};

use effects::{Emit, HttpCall};

/// What tells the builds of this handler apart.
const VERSION: &str = match option_env!("CHAOS_VERSION") {
    Some(version) => version,
    None => "1",
};

/// What an item asks for. Each answers with a JSON result, `null` unless it says otherwise.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    /// Answers `result`.
    Succeed {
        #[serde(default)]
        result: Value,
    },
    /// Answers with this many bytes that are not JSON.
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
    /// Makes a request and answers without waiting for it.
    HttpForget(HttpCall),
    /// Makes a request with the item's payload padded to this many bytes.
    HttpBig {
        #[serde(flatten)]
        call: HttpCall,
        bytes: usize,
    },
    /// Answers the value of a key of the state.
    StateGet { key: String },
    /// Sets the value of a key of the state.
    StatePut { key: String, value: Value },
    /// Adds one to a number in the state; answers the sum.
    StateIncr { key: String },
    /// Removes a key of the state.
    StateDelete { key: String },
    /// Emits a follow-up item, `count` times.
    Emit(Emit),
}

fn one() -> usize {
    1
}

struct Chaos;

impl Handler for Chaos {
    const TYPES: &'static [&'static str] = &["chaos", "chaos_other"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        match item.json()? {
            Order::BigResult { bytes } => Ok(Outcome::bytes(vec![b'x'; bytes])),
            order => Outcome::json(&obey(order, &item)?),
        }
    }
}

outbox_handler::export!(Chaos, version: VERSION);

fn obey(order: Order, item: &Item) -> Result<Value, Failure> {
    match order {
        Order::Succeed { result } => Ok(result),
        Order::BigResult { bytes } => Ok("x".repeat(bytes).into()),
        Order::Sequence { steps } => steps.into_iter().map(|step| obey(step, item)).collect(),
        Order::Retry { retry_after_ms } => Err(after(Failure::retryable("chaos.retry", "as told"), retry_after_ms)),
        Order::Reject => Err(Failure::permanent("chaos.reject", "as told")),
        Order::Defer { retry_after_ms } => Err(after(Failure::defer("chaos.defer", "as told"), retry_after_ms)),
        Order::Flaky { succeed_at } if item.attempt < succeed_at => {
            Err(Failure::retryable("chaos.flaky", format!("attempt {} of {succeed_at}", item.attempt)))
        }
        Order::Trap { message } => panic!("{message}"),
        Order::TrapIn { version } if version == VERSION => panic!("version {version} traps"),
        Order::Flaky { .. } => Ok(Value::Null),
        Order::TrapIn { .. } | Order::Version => Ok(VERSION.into()),
        Order::Loop => faults::compute_for_ever(),
        Order::Sleep { ms } => Ok(faults::sleep(Duration::from_millis(ms))),
        Order::EatMemory { bytes } => Ok(faults::eat(bytes).into()),
        Order::Recurse => Ok(faults::recurse(0).into()),
        Order::Exit { code } => std::process::exit(code),
        Order::Item => Ok(probes::item(item)),
        Order::Env => Ok(probes::environment()),
        Order::Files => Ok(probes::files()),
        Order::Socket { address } => Ok(probes::socket(&address)),
        Order::Config { key } => Ok(json!(outbox_handler::config::get(&key)?)),
        Order::Log { message, lines } => Ok(effects::log(&message, lines)),
        Order::Stderr { message, lines } => Ok(effects::stderr(&message, lines)),
        Order::Http(call) => call.send(),
        Order::HttpForget(call) => call.forget(),
        Order::HttpBig { call, bytes } => call.padded(bytes).send(),
        Order::StateGet { key } => effects::state_get(&key),
        Order::StatePut { key, value } => effects::state_put(&key, &value),
        Order::StateIncr { key } => effects::state_incr(&key),
        Order::StateDelete { key } => effects::state_delete(&key),
        Order::Emit(emit) => emit.send(),
    }
}

fn after(failure: Failure, retry_after_ms: Option<u64>) -> Failure {
    Failure { retry_after_ms, ..failure }
}
