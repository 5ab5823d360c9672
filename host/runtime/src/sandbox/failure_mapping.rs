//! What the end of a call means for the item: errors of the engine and failures of the guest become a [`Failure`] with
//! a class, a stable code and a message.

use std::time::Duration;

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use outbox_core::{Failure, FailureClass, HOST_RESOURCES, HOST_STATE, KeyLockTimeout, StateReadError};

use crate::bindings::outbox::handler::types::{Failure as GuestFailure, FailureClass as GuestFailureClass};
use crate::load::manifest::value::show_size;
use crate::outgoing::host_want::{causes, is_host_want};
use crate::sandbox::cpu_meter::CpuLimitExceeded;
use crate::sandbox::limiter::{Limiter, stack_hint};
use crate::sandbox::observations::{Denial, NetworkFault, SideEffects};

/// Bytes of a failure code. Codes group failures; a longer text is no code.
const CODE_MAX: usize = 128;
/// Bytes of a failure message: enough for a problem document of a receiver.
const MESSAGE_MAX: usize = 4 << 10;
/// The innermost functions of a trap that a message names. The outer ones are those of language libraries.
const FRAMES_SHOWN: usize = 6;

/// The phase in which a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The host was creating the instance.
    Instantiating,
    /// The guest was running.
    Running,
}

/// The failure code when no instance of the component can be created.
const NO_INSTANCE: &str = "host.instance";

/// Whether the component is at fault (trap, memory, CPU, instantiation), not a returned failure, a timeout or a
/// host error.
pub(crate) fn is_component_fault(failure: &Failure) -> bool {
    match failure.class {
        FailureClass::Trap | FailureClass::Memory | FailureClass::Cpu => true,
        class => class == FailureClass::Host && failure.code == NO_INSTANCE,
    }
}

/// The failure that the guest returned.
pub(crate) fn from_guest_failure(failure: GuestFailure) -> Failure {
    let class = match failure.class {
        GuestFailureClass::Retryable => FailureClass::Retryable,
        GuestFailureClass::Permanent => FailureClass::Permanent,
        GuestFailureClass::Defer => FailureClass::Deferred,
    };
    Failure {
        class,
        code: truncated(failure.code, CODE_MAX),
        message: truncated(failure.message, MESSAGE_MAX),
        retry_after: failure.retry_after_ms.map(Duration::from_millis),
    }
}

/// The failure that an error of the engine means. `output` is what the guest wrote.
pub(crate) fn from_engine_error(
    err: &wasmtime::Error,
    phase: Phase,
    limiter: &Limiter,
    output: Option<&str>,
) -> Failure {
    exceeded_limit(err, limiter)
        .or_else(|| early_exit(err, output))
        .or_else(|| host_fault(err, phase))
        .unwrap_or_else(|| trap(err, output))
}

/// A limit of memory, CPU time or waiting for another attempt that the guest exceeded.
fn exceeded_limit(err: &wasmtime::Error, limiter: &Limiter) -> Option<Failure> {
    if let Some(exceeded) = limiter.explain(err) {
        return Some(Failure::new(FailureClass::Memory, exceeded.code, exceeded.message));
    }
    if let Some(exceeded) = err.downcast_ref::<CpuLimitExceeded>() {
        return Some(Failure::new(FailureClass::Cpu, "plugin.cpu", exceeded.to_string()));
    }
    let overdue = err.downcast_ref::<KeyLockTimeout>()?;
    Some(Failure::new(FailureClass::Conflict, "state.turn", overdue.to_string()))
}

/// A call of `exit` in the guest. It may come from a start function, so it is no fault of the host in any phase.
fn early_exit(err: &wasmtime::Error, output: Option<&str>) -> Option<Failure> {
    let exit = err.downcast_ref::<I32Exit>()?;
    let message = format!("the component ended itself with exit({}) instead of answering", exit.0);
    Some(Failure::new(FailureClass::Trap, "plugin.exit", with_last_line(message, output)))
}

/// What the host could not do for the guest. A want of memory or descriptors is no fault of the component.
fn host_fault(err: &wasmtime::Error, phase: Phase) -> Option<Failure> {
    let (code, message) = if let Some(fault) = err.downcast_ref::<StateReadError>() {
        (HOST_STATE, format!("the plugin's state could not be read: {fault}"))
    } else if err.is::<PoolConcurrencyLimitError>() {
        ("host.busy", format!("the pool of instances was empty: {}", root_cause(err)))
    } else if causes(err.as_ref()).any(is_host_want) {
        (HOST_RESOURCES, format!("this host lacks memory or descriptors: {}", root_cause(err)))
    } else if phase == Phase::Instantiating && !err.is::<Trap>() {
        (NO_INSTANCE, format!("no instance could be made: {}", root_cause(err)))
    } else {
        return None;
    };
    Some(Failure::new(FailureClass::Host, code, message))
}

fn trap(err: &wasmtime::Error, output: Option<&str>) -> Failure {
    let explained = stack_hint(err).map(|words| format!(": {words};")).unwrap_or_default();
    let message = format!("{}{explained}{}", root_cause(err), frames(err));
    Failure::new(FailureClass::Trap, "plugin.trap", with_last_line(message, output))
}

/// The failure of a guest that was still running at its deadline, after `time_allowed`.
pub(crate) fn timed_out(timeout: Option<Duration>, time_allowed: Duration, effects: SideEffects) -> Failure {
    let reason = match timeout {
        Some(timeout) => format!("`timeout` is {}", humantime::format_duration(timeout)),
        None => {
            format!(
                "without a `timeout` the lease leaves {:.1}s, see OUTBOX_VISIBILITY_SEC",
                time_allowed.as_secs_f64()
            )
        }
    };
    let unknown = match effects {
        SideEffects::Possible => "; a request had gone out, so its effect is unknown",
        SideEffects::None => "",
    };
    Failure::new(
        FailureClass::Timeout,
        "plugin.timeout",
        format!("the attempt was cut off at its deadline: {reason}{unknown}"),
    )
}

/// The failure of a guest that returned `ok` while a request had no response.
pub(crate) fn requests_in_flight() -> Failure {
    let message =
        "the component answered ok while a request was in flight, or had dropped one: wait for every response";
    Failure::new(FailureClass::Contract, "plugin.in_flight", message)
}

/// The failure of a guest whose result is larger than its limit.
pub(crate) fn result_too_large(bytes: usize, most: u64) -> Failure {
    let message = format!("the component answered {bytes} bytes: `limits.result` is {}", show_size(most));
    Failure::new(FailureClass::Contract, "plugin.result", message)
}

/// The same failure with the denial that came before it, if the failure can be a consequence. The guest reports only
/// its own view of a denial; the operator needs the manifest lines that would allow the call.
pub(crate) fn after_denial(failure: Failure, denial: &Denial, plugin: &str) -> Failure {
    if !can_follow_from_a_request(failure.class) {
        return failure;
    }
    let remedy = denial.lines.as_ref().map(|lines| format!("\nthese lines in {plugin}.toml would allow it:\n{lines}"));
    let message =
        format!("{}{}\nthe component then failed: {}", denial.what, remedy.unwrap_or_default(), failure.message);
    // A failure that the guest calls permanent stays permanent if no manifest line would allow the call.
    let class = match failure.class {
        FailureClass::Permanent if denial.lines.is_none() => FailureClass::Permanent,
        _ => FailureClass::Denied,
    };
    Failure { class, code: "host.denied".to_owned(), message, ..failure }
}

/// The same failure with what went wrong on the way to a receiver, if the failure can be a consequence. What this host
/// lacked is a failure of the host, whatever the guest makes of it.
pub(crate) fn after_network_fault(failure: Failure, fault: &NetworkFault) -> Failure {
    if !can_follow_from_a_request(failure.class) {
        return failure;
    }
    let NetworkFault { what, is_hosts } = fault;
    let message = truncated(format!("{}: {what}", failure.message), MESSAGE_MAX);
    if !is_hosts {
        return Failure { message, ..failure };
    }
    let message = truncated(format!("this host lacks descriptors, memory or ports: {what}"), MESSAGE_MAX);
    Failure::new(FailureClass::Host, HOST_RESOURCES, message)
}

/// Whether a guest ends like this when one of its requests has failed.
fn can_follow_from_a_request(class: FailureClass) -> bool {
    use FailureClass::{Deferred, Permanent, Retryable, Trap};
    matches!(class, Retryable | Permanent | Deferred | Trap)
}

fn root_cause(err: &wasmtime::Error) -> String {
    truncated(err.root_cause().to_string(), MESSAGE_MAX)
}

fn frames(err: &wasmtime::Error) -> String {
    let Some(backtrace) = err.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let names = backtrace.frames().iter().filter_map(|frame| frame.func_name()).take(FRAMES_SHOWN);
    let names: Vec<_> = names.collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(" < ")) }
}

fn with_last_line(message: String, output: Option<&str>) -> String {
    // A panic in Rust ends with a note about backtraces, which does not say what went wrong.
    let says_something = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ");
    let last = output.and_then(|text| text.lines().rev().find(says_something));
    match last {
        Some(line) => truncated(format!("{message}; its last words: {line}"), MESSAGE_MAX),
        None => message,
    }
}

fn truncated(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::manifest::limits::Limits;

    #[test]
    fn a_denial_explains_what_may_follow_from_it_and_nothing_else() {
        let denial = Denial { what: "POST http://a/b is not granted".into(), lines: Some("[[grant.http]]".into()) };
        let failure = after_denial(Failure::new(FailureClass::Permanent, "x", "no"), &denial, "p");
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Denied, "host.denied"));
        assert!(failure.message.contains("p.toml would allow it:\n[[grant.http]]"), "{}", failure.message);
        let failure = after_denial(
            Failure::new(FailureClass::Permanent, "x", "no"),
            &Denial { lines: None, ..denial.clone() },
            "p",
        );
        assert_eq!(failure.class, FailureClass::Permanent);
        let cpu = Failure::new(FailureClass::Cpu, "plugin.cpu", "long");
        assert_eq!(after_denial(cpu.clone(), &denial, "p"), cpu);
    }

    #[test]
    fn what_this_host_lacks_is_its_own_failure_and_other_faults_are_told_in_words() {
        let fault = |is_hosts| NetworkFault { what: "no connection to a: 10.0.0.1:80: why".into(), is_hosts };
        let guests = Failure::new(FailureClass::Permanent, "x", "the receiver is gone");
        let failure = after_network_fault(guests.clone(), &fault(true));
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Host, HOST_RESOURCES));
        assert!(failure.message.ends_with("10.0.0.1:80: why"), "{}", failure.message);
        let failure = after_network_fault(guests, &fault(false));
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Permanent, "x"));
        assert_eq!(failure.message, "the receiver is gone: no connection to a: 10.0.0.1:80: why");
        let cpu = Failure::new(FailureClass::Cpu, "plugin.cpu", "long");
        assert_eq!(after_network_fault(cpu.clone(), &fault(true)), cpu);
    }

    #[test]
    fn an_instance_that_the_system_has_no_memory_for_is_no_fault_of_its_component() {
        let err = wasmtime::Error::from(std::io::Error::from(rustix::io::Errno::NOMEM)).context("mapping memory");
        let failure = from_engine_error(&err, Phase::Instantiating, &Limiter::new(&Limits::default()), None);
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Host, HOST_RESOURCES));
        assert!(!is_component_fault(&failure));
    }

    #[test]
    fn the_last_words_of_a_trapped_guest_are_in_the_message() {
        let (err, limiter) = (wasmtime::Error::from(Trap::UnreachableCodeReached), Limiter::new(&Limits::default()));
        let failure = from_engine_error(
            &err,
            Phase::Running,
            &limiter,
            Some("starting\npanicked at the end\nnote: run with RUST_BACKTRACE=1\n\n"),
        );
        assert_eq!(failure.class, FailureClass::Trap);
        assert!(failure.message.ends_with("its last words: panicked at the end"), "{}", failure.message);
    }
}
