//! A handler for the host's tests that does what the item's payload orders. It is never built into `plugins.d`.
//!
//! The payload is JSON; its field `do` names one of the [`Order`](order::Order)s. A build with another `CHAOS_VERSION`
//! in the environment is another component: it behaves alike, but its digest differs.

mod effects;
mod faults;
mod order;
mod probes;

use std::time::Duration;

use outbox_handler::{Failure, Handler, Item, Outcome};
use serde_json::{Value, json};

use order::Order;

/// The version of this build, which makes its digest different from that of other versions.
const VERSION: &str = match option_env!("CHAOS_VERSION") {
    Some(version) => version,
    None => "1",
};

struct Chaos;

impl Handler for Chaos {
    const TYPES: &'static [&'static str] = &["chaos", "chaos_other"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        Outcome::json(&obey(item.json()?, &item)?)
    }
}

outbox_handler::export!(Chaos, version: VERSION);

fn obey(order: Order, item: &Item) -> Result<Value, Failure> {
    match order {
        Order::Succeed { result } => Ok(result),
        Order::BigResult { bytes } => Ok("x".repeat(bytes).into()),
        Order::Sequence { steps } => steps.into_iter().map(|step| obey(step, item)).collect(),
        Order::Retry { retry_after_ms } => {
            Err(Failure { retry_after_ms, ..Failure::retryable("chaos.retry", "as told") })
        }
        Order::Reject => Err(Failure::permanent("chaos.reject", "as told")),
        Order::Defer { retry_after_ms } => Err(Failure { retry_after_ms, ..Failure::defer("chaos.defer", "as told") }),
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
        Order::HttpFollow(call) => call.follow(),
        Order::HttpForget(call) => call.forget(),
        Order::StateGet { key } => effects::state_get(&key),
        Order::StatePut { key, value } => effects::state_put(&key, &value),
        Order::StateFill { keys, bytes } => effects::state_fill(keys, bytes),
        Order::StateIncr { key } => effects::state_incr(&key),
        Order::StateDelete { key } => effects::state_delete(&key),
        Order::Emit(emit) => emit.send(),
    }
}
