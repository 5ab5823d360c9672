//! A note, not a finding: two undisturbed runs at different times and with different random numbers differ.

use outbox_runtime::simulation::GuestCall;

use crate::call_record::PlayedAttempt;
use crate::check_report::{CallPosition, Note};
use crate::display::displayed;
use crate::findings::comparison::{Baseline, call_number};

/// The first call in which the two undisturbed runs differ, if they do.
pub(crate) fn nondeterminism(baseline: &Baseline) -> Option<Note> {
    let (first, second) = (&baseline.result.attempts, &baseline.repeat.attempts);
    let attempts = 1..=u32::try_from(first.len().max(second.len())).unwrap_or(u32::MAX);
    attempts.into_iter().find_map(|attempt| first_difference(attempt, first.get(&attempt), second.get(&attempt)))
}

fn first_difference(attempt: u32, first: Option<&PlayedAttempt>, second: Option<&PlayedAttempt>) -> Option<Note> {
    let calls = |record: Option<&'_ PlayedAttempt>| -> Vec<GuestCall> {
        record.map(|record| record.calls.iter().map(|record| record.call.clone()).collect()).unwrap_or_default()
    };
    let (first, second) = (calls(first), calls(second));
    let index = (0..first.len().max(second.len())).find(|index| !is_alike(first.get(*index), second.get(*index)))?;
    let describe = |call: Option<&GuestCall>| call.map_or_else(|| "nothing".to_owned(), call_summary);
    let at = CallPosition { attempt, call: index + 1 };
    let what = format!(
        "the handler is not deterministic: run again at another time and with other random numbers, it differs first \
         at {}:\n  first {}\n  then  {}",
        call_number(at),
        describe(first.get(index)),
        describe(second.get(index))
    );
    Some(Note { at: Some(at), what })
}

fn is_alike(first: Option<&GuestCall>, second: Option<&GuestCall>) -> bool {
    match (first, second) {
        (Some(GuestCall::Request(first)), Some(GuestCall::Request(second))) => {
            first.asks_the_same(second) && first.key == second.key
        }
        (first, second) => first == second,
    }
}

fn call_summary(call: &GuestCall) -> String {
    match call {
        GuestCall::Request(request) => format!("{call} {}", displayed(&request.body)),
        GuestCall::Put { value, .. } => format!("{call} {}", displayed(value)),
        GuestCall::Emit { payload, .. } => format!("{call} {}", displayed(payload)),
        GuestCall::Get { .. } | GuestCall::Delete { .. } => call.to_string(),
    }
}
