//! The trace context of W3C: which trace an item belongs to, as its caller says in two headers, and the names of its
//! spans there.
//!
//! The names follow from the item, so every process gives a span the same one, and a log line has it without a record of
//! the span. Who sends the headers, and who records spans, is decided elsewhere.

use std::collections::BTreeMap;

use outbox_item::Item;
use sha2::{Digest as _, Sha256};

use crate::digest::hex;

/// The header that names a trace and a span in it.
pub const TRACEPARENT: &str = "traceparent";
/// The header in which tracing systems keep their own facts about a trace.
pub const TRACESTATE: &str = "tracestate";

/// The longest `tracestate` that is passed on, in bytes: what the standard asks for.
const STATE_MAX: usize = 512;

/// The trace that a caller was in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 lower-case hexadecimal digits.
    pub trace_id: String,
    /// 16 lower-case hexadecimal digits: the span of the caller.
    pub span_id: String,
    /// Two hexadecimal digits: whether the caller records the trace.
    pub flags: String,
    /// The `tracestate` beside it.
    pub state: Option<String>,
}

impl TraceContext {
    /// The trace that the headers of an item name; `None` where they name none in the form of the standard.
    pub fn of_headers(headers: &BTreeMap<String, String>) -> Option<Self> {
        let find = |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, parent) = find(TRACEPARENT)?;
        Self::parse(parent, find(TRACESTATE).map(|(_, state)| state.as_str()))
    }

    /// The trace of the two headers. A later version of the standard may append to `traceparent`.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut parts = traceparent.trim().split('-');
        let (version, trace_id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let has_more = parts.next().is_some();
        let is_valid = is_hex(version, 2)
            && version != "ff"
            && !(version == "00" && has_more)
            && is_hex(trace_id, 32)
            && is_hex(span, 16)
            && is_hex(flags, 2)
            && [trace_id, span].iter().all(|id| id.bytes().any(|digit| digit != b'0'));
        let fits = |state: &&str| state.len() <= STATE_MAX && state.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        is_valid.then(|| Self {
            trace_id: trace_id.to_owned(),
            span_id: span.to_owned(),
            flags: flags.to_owned(),
            state: tracestate.map(str::trim).filter(|state| !state.is_empty()).filter(fits).map(str::to_owned),
        })
    }
}

/// The trace of an item that names none: its correlation id if that has the form of a trace id, else a digest of it.
pub fn trace_id_of(cid: &str) -> String {
    let plain = cid.replace('-', "").to_ascii_lowercase();
    let is_trace_id = plain.len() == 32 && plain.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_trace_id && plain.bytes().any(|byte| byte != b'0') { plain } else { hex(&Sha256::digest(cid)[..16]) }
}

/// The names of the trace and the spans of one claim of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanIds {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The span of the attempt, in 16 hexadecimal digits like the others.
    pub attempt: String,
}

impl SpanIds {
    /// Of the present claim of the item.
    pub fn of(item: &Item) -> Self {
        let caller = TraceContext::of_headers(&item.headers);
        let trace_id = caller.map_or_else(|| trace_id_of(&item.cid), |caller| caller.trace_id);
        Self { attempt: span_id("attempt", item, item.deliveries), trace_id }
    }
}

/// The name of a span of an item: of its enqueueing, or of one of its claims.
pub(crate) fn span_id(work: &str, item: &Item, delivery: u32) -> String {
    let digest = Sha256::digest(format!("{work} {delivery} {} {}", item.id.get(), item.idem_key));
    hex(&digest[..8])
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_read_from_the_headers_of_the_standard_in_any_case() {
        let headers = [("Traceparent", PARENT), ("tracestate", "vendor=1")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let trace = TraceContext::of_headers(&headers).unwrap();
        assert_eq!((trace.trace_id.as_str(), trace.flags.as_str()), ("4bf92f3577b34da6a3ce929d0e0e4736", "01"));
        assert_eq!(trace.span_id, "00f067aa0ba902b7");
        assert_eq!(trace.state.as_deref(), Some("vendor=1"));
        assert_eq!(TraceContext::of_headers(&BTreeMap::new()), None);
    }

    #[test]
    fn a_correlation_id_that_is_a_uuid_is_the_trace_of_an_item_without_one() {
        assert_eq!(trace_id_of("0192F0C1-0000-7000-8000-0000000000ab"), "0192f0c10000700080000000000000ab");
        assert_eq!(trace_id_of("order-7").len(), 32);
        assert_ne!(trace_id_of("00000000-0000-0000-0000-000000000000"), "0".repeat(32));
    }

    #[test]
    fn each_claim_of_an_item_has_a_span_of_its_own_in_one_trace() {
        let item = |deliveries| Item {
            deliveries,
            ..outbox_item::NewItem::new("t", "k", "").into_item(outbox_item::ItemId::new(1), 0.into())
        };
        let [first, again, second] = [1, 1, 2].map(|deliveries| SpanIds::of(&item(deliveries)));
        assert_eq!(first, again);
        assert_eq!(first.trace_id, second.trace_id);
        assert_ne!(first.attempt, second.attempt);
    }

    #[test]
    fn what_is_not_of_the_form_is_no_trace() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(TraceContext::parse(bad, None), None, "{bad}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(TraceContext::parse(later, None).is_some());
        let long = "a".repeat(513);
        for state in [None, Some(""), Some("a\nb"), Some(long.as_str())] {
            assert_eq!(TraceContext::parse(PARENT, state).unwrap().state, None);
        }
    }
}
