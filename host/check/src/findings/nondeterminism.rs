//! A note, not a finding: two undisturbed runs at different times and with different random numbers differ.

use outbox_runtime::simulation::GuestCall;

use crate::check_report::Note;
use crate::display::displayed;
use crate::findings::comparison::Baseline;

/// The first call in which the two undisturbed runs differ, if they do.
pub(crate) fn nondeterminism(baseline: &Baseline) -> Option<Note> {
    let (first, second) = (&baseline.result.calls, &baseline.repeat.calls);
    let index = (0..first.len().max(second.len())).find(|index| !is_alike(first.get(*index), second.get(*index)))?;
    let describe = |call: Option<&GuestCall>| call.map_or_else(|| "nothing".to_owned(), call_summary);
    let what = format!(
        "the handler is not deterministic: run again at another time and with other random numbers, it differs first \
         at call {}:\n  first {}\n  then  {}",
        index + 1,
        describe(first.get(index)),
        describe(second.get(index))
    );
    Some(Note { call: Some(index + 1), what })
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
