//! The headers of outgoing requests that only the host may set: idempotency key, correlation id, trace.
//!
//! What a guest writes into these headers is removed. The keys themselves are made in `idempotency_key`.

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use outbox_core::{TraceContext, hex, trace_id_of};
use outbox_item::Item;

use crate::outgoing::idempotency_key::{EFFECT, IDEMPOTENCY_KEY, IdempotencyKeys, effect_name, idempotency_root};

/// The header with the item's correlation id.
pub(crate) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// The header with the trace context of W3C.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static(outbox_core::TRACEPARENT);
/// The header with what tracing systems keep about the trace.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static(outbox_core::TRACESTATE);

const HOST_ONLY: [HeaderName; 5] = [IDEMPOTENCY_KEY, CORRELATION_ID, TRACEPARENT, TRACESTATE, EFFECT];

/// Headers that say where a request ends and to which host it goes. The HTTP client sets them.
const FRAMING: [HeaderName; 5] = [
    http::header::CONNECTION,
    http::header::CONTENT_LENGTH,
    http::header::HOST,
    http::header::TE,
    http::header::TRANSFER_ENCODING,
];

/// Whether a header is one that the host sets or removes.
pub(crate) fn is_host_only(name: &HeaderName) -> bool {
    HOST_ONLY.contains(name) || is_alias(name)
}

/// Whether gateways that read `_` as `-`, as CGI does, take the header for one that a guest may not set.
fn is_alias(name: &HeaderName) -> bool {
    let name = name.as_str();
    let hyphened = || name.replace('_', "-");
    name.contains('_') && HOST_ONLY.iter().chain(&FRAMING).any(|reserved| reserved.as_str() == hyphened())
}

/// Makes the host's headers for the requests of one attempt.
#[derive(Debug)]
pub(crate) struct HostHeaders {
    keys: IdempotencyKeys,
    cid: String,
    /// The trace that the caller of the item was in.
    trace: Option<TraceContext>,
    /// Whether this host records the trace; `None` where it records none, and so does not decide.
    is_recorded: Option<bool>,
    delivery: u32,
    spans: u32,
}

impl HostHeaders {
    /// The headers of an attempt at an item.
    pub(crate) fn new(item: &Item) -> Self {
        let trace = TraceContext::of_headers(&item.headers);
        Self { trace, delivery: item.deliveries, ..Self::from_parts(&idempotency_root(item), &item.cid) }
    }

    /// The headers of an attempt at an item with these keys and this correlation id, in no trace of a caller.
    pub(crate) fn from_parts(root: &str, cid: &str) -> Self {
        let keys = IdempotencyKeys::new(root.to_owned());
        Self { keys, cid: cid.to_owned(), trace: None, is_recorded: None, delivery: 0, spans: 0 }
    }

    /// The same headers, which tell receivers whether this host records the trace.
    pub(crate) fn recorded(self, is_recorded: Option<bool>) -> Self {
        Self { is_recorded, ..self }
    }

    /// Replaces the host's headers in a request. A safe request gets no idempotency key. Errors with what is accepted if
    /// the guest's name of the effect is not valid, or if no header can carry the key.
    pub(crate) fn set(&mut self, method: &Method, url: &str, headers: &mut HeaderMap) -> Result<(), String> {
        let effect = headers.remove(EFFECT).map(|name| effect_name(&name)).transpose()?;
        let aliases: Vec<_> = headers.keys().filter(|name| is_alias(name)).cloned().collect();
        for name in HOST_ONLY.into_iter().chain(aliases) {
            headers.remove(name);
        }
        if !method.is_safe() {
            headers.insert(IDEMPOTENCY_KEY, key_value(&self.keys.next(method, url, effect))?);
        }
        insert(headers, CORRELATION_ID, &self.cid);
        let traceparent = self.traceparent();
        insert(headers, TRACEPARENT, &traceparent);
        if let Some(state) = self.trace.as_ref().and_then(|trace| trace.state.as_deref()) {
            insert(headers, TRACESTATE, state);
        }
        Ok(())
    }

    /// Each request is a span of its own, a child of the caller's where the item has a trace.
    fn traceparent(&mut self) -> String {
        self.spans += 1;
        let (trace_id, flags) = match &self.trace {
            Some(trace) => (trace.trace_id.clone(), trace.flags.as_str()),
            None => (trace_id_of(&self.cid), "01"),
        };
        let flags = self.is_recorded.map_or(flags, |is_recorded| if is_recorded { "01" } else { "00" });
        let span = Sha256::digest(format!("{} {} {} {}", self.keys.root(), self.cid, self.delivery, self.spans));
        format!("00-{trace_id}-{}-{flags}", hex(&span[..8]))
    }
}

/// The span that the host has named in a request.
pub(crate) fn span_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()?.split('-').nth(2)
}

/// A key that a receiver does not get cannot keep it from repeating the effect, so the request is not sent without it.
fn key_value(key: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(key)
        .map_err(|_| format!("the idempotency key {key:?} has control characters, which no header can carry"))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Correlation ids are printable ASCII. A value that is not is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(effects: u32) -> HostHeaders {
        let root = if effects == 0 { "k1".to_owned() } else { format!("k1+{effects}") };
        HostHeaders::from_parts(&root, "c1")
    }

    fn key(keys: &mut HostHeaders, method: &Method, url: &str, effect: Option<&'static str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        for forged in ["idempotency-key", "x-correlation-id", "traceparent"] {
            headers.append(forged, HeaderValue::from_static("forged"));
            headers.append(forged, HeaderValue::from_static("twice"));
        }
        if let Some(effect) = effect {
            headers.insert(EFFECT, HeaderValue::from_static(effect));
        }
        keys.set(method, url, &mut headers).unwrap();
        assert!(!headers.contains_key(EFFECT));
        assert_eq!(headers.get_all(CORRELATION_ID).iter().collect::<Vec<_>>(), ["c1"]);
        assert!(headers.get_all(TRACEPARENT).iter().all(|value| value.len() == 55));
        assert!(headers.get_all(IDEMPOTENCY_KEY).iter().count() <= 1);
        headers.get(IDEMPOTENCY_KEY).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn equal_requests_are_counted_and_others_do_not_shift_the_count() {
        let url = "http://a/x";
        let mut first = keys(0);
        let one = key(&mut first, &Method::POST, url, None);
        let two = key(&mut first, &Method::POST, url, None);
        assert_ne!(one, two);
        let mut rerun = keys(0);
        key(&mut rerun, &Method::POST, "http://a/other", None);
        key(&mut rerun, &Method::PUT, url, None);
        assert_eq!(key(&mut rerun, &Method::POST, url, None), one);
        assert_eq!(key(&mut rerun, &Method::POST, url, None), two);
    }

    #[test]
    fn a_named_effect_keeps_its_key_wherever_it_is_sent() {
        assert_eq!(key(&mut keys(0), &Method::POST, "http://a", Some("mail")).as_deref(), Some("k1/mail"));
        assert_eq!(key(&mut keys(2), &Method::PUT, "http://b", Some("mail")).as_deref(), Some("k1+2/mail"));
    }

    #[test]
    fn safe_requests_bear_no_idempotency_key_and_cannot_forge_one() {
        assert_eq!(key(&mut keys(0), &Method::GET, "http://a", None), None);
    }

    #[test]
    fn a_header_that_a_gateway_takes_for_a_reserved_one_is_removed() {
        let mut headers = HeaderMap::new();
        for name in ["idempotency_key", "x_correlation-id", "content_length", "transfer_encoding", "my_header"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        keys(0).set(&Method::POST, "http://a", &mut headers).unwrap();
        let underscored: Vec<_> = headers.keys().map(HeaderName::as_str).filter(|name| name.contains('_')).collect();
        assert_eq!(underscored, ["my_header"]);
    }

    #[test]
    fn an_effect_that_could_be_taken_for_another_key_is_refused() {
        for bad in ["", "a/1", "a b"] {
            let mut headers = HeaderMap::new();
            headers.insert(EFFECT, HeaderValue::from_static(bad));
            assert!(keys(0).set(&Method::POST, "http://a", &mut headers).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_is_not_sent_without_a_key_that_no_header_can_carry() {
        for odd in ["a\0b", "a\nb"] {
            let mut headers = HostHeaders::from_parts(odd, "c1");
            let refused = headers.set(&Method::POST, "http://a", &mut HeaderMap::new()).unwrap_err();
            assert!(refused.contains("idempotency key"), "{refused}");
            headers.set(&Method::GET, "http://a", &mut HeaderMap::new()).unwrap();
        }
    }

    #[test]
    fn a_correlation_id_that_is_a_uuid_becomes_the_trace_id() {
        let mut keys = keys(0);
        keys.cid = "0192f0c1-0000-7000-8000-0000000000ab".to_owned();
        assert!(keys.traceparent().starts_with("00-0192f0c10000700080000000000000ab-"));
    }

    #[test]
    fn each_request_of_each_attempt_is_a_span_of_its_own_in_the_callers_trace() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-00");
        let of_attempt = |delivery| {
            let trace = TraceContext::parse(&parent, Some("vendor=1"));
            let mut keys = HostHeaders { trace, delivery, ..keys(0) };
            let mut spans = Vec::new();
            for _ in 0..2 {
                let mut headers = HeaderMap::new();
                headers.insert(TRACESTATE, HeaderValue::from_static("forged"));
                keys.set(&Method::POST, "http://a", &mut headers).unwrap();
                assert_eq!(headers.get_all(TRACESTATE).iter().collect::<Vec<_>>(), ["vendor=1"]);
                let sent = headers[TRACEPARENT].to_str().unwrap().to_owned();
                let (begin, end) = (format!("00-{TRACE}-"), "-00");
                assert!(sent.starts_with(&begin) && sent.ends_with(end) && sent != parent, "{sent}");
                spans.push(sent);
            }
            spans
        };
        let spans: std::collections::BTreeSet<_> = (1..=3).flat_map(of_attempt).collect();
        assert_eq!(spans.len(), 6);
        let mut headers = HeaderMap::new();
        headers.insert(TRACESTATE, HeaderValue::from_static("forged"));
        keys(0).set(&Method::POST, "http://a", &mut headers).unwrap();
        assert!(!headers.contains_key(TRACESTATE), "there is no trace that it could belong to");
    }

    /// What one request of a guest says: method, URL, a name for its effect, a value for every header
    /// that only the host may say.
    fn request() -> impl Strategy<Value = (Method, String, Option<String>, Vec<u8>)> {
        let method = prop::sample::select(vec![Method::GET, Method::POST, Method::PUT, Method::DELETE]);
        let effect = prop::option::of("[A-Za-z0-9._-]{1,64}");
        (method, "http://[a-z]{1,6}/[a-z]{0,2}", effect, prop::collection::vec(any::<u8>(), 0..40))
    }

    fn sent(
        keys: &mut HostHeaders,
        (method, url, effect, forged): &(Method, String, Option<String>, Vec<u8>),
    ) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in [IDEMPOTENCY_KEY, CORRELATION_ID, TRACEPARENT] {
            if let Ok(value) = HeaderValue::from_bytes(forged) {
                headers.append(&name, value.clone());
                headers.append(&name, value);
            }
        }
        if let Some(effect) = effect {
            headers.insert(EFFECT, HeaderValue::from_str(effect).unwrap());
        }
        keys.set(method, url, &mut headers).unwrap();
        headers
    }

    proptest! {
        #[test]
        fn whatever_a_guest_sends_bears_the_items_keys_and_the_same_in_every_attempt(
            root in "[ -~]{1,255}", cid in "[ -~]{1,255}", requests in prop::collection::vec(request(), 1..12)
        ) {
            let attempt = || {
                let mut keys = HostHeaders::from_parts(&root, &cid);
                requests.iter().map(|request| sent(&mut keys, request)).collect::<Vec<_>>()
            };
            let first = attempt();
            prop_assert_eq!(&first, &attempt());
            let beginning = [&root, "/"].concat();
            let mut unnamed = std::collections::BTreeSet::new();
            for (headers, (method, _, effect, _)) in first.iter().zip(&requests) {
                prop_assert_eq!(headers.get_all(CORRELATION_ID).iter().collect::<Vec<_>>(), [cid.as_str()]);
                prop_assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
                prop_assert!(!headers.contains_key(EFFECT));
                let found: Vec<_> = headers.get_all(IDEMPOTENCY_KEY).iter().collect();
                prop_assert_eq!(found.len(), usize::from(!method.is_safe()));
                for key in found {
                    prop_assert!(key.to_str().unwrap().starts_with(&beginning));
                    prop_assert!(effect.is_some() || unnamed.insert(key.clone()), "two requests share {:?}", key);
                }
            }
        }
    }
}
