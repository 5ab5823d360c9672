//! The trace context of W3C: which trace an item belongs to, as its caller says in two headers.
//!
//! It knows the form of the headers. Who sends them, and which spans there are, is decided elsewhere.

use std::collections::BTreeMap;

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
            flags: flags.to_owned(),
            state: tracestate.map(str::trim).filter(|state| !state.is_empty()).filter(fits).map(str::to_owned),
        })
    }
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
        assert_eq!(trace.state.as_deref(), Some("vendor=1"));
        assert_eq!(TraceContext::of_headers(&BTreeMap::new()), None);
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
