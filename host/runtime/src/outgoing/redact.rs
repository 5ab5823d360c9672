//! Removes secrets from what an attempt leaves behind, in its result, its state, its follow-ups, its failure and its
//! history: the headers that carry credentials, and every value that the host adds to requests, also where a receiver or
//! the guest repeats it.

use std::fmt;

use http::header::{AUTHORIZATION, CONTENT_ENCODING, COOKIE, HeaderMap, HeaderName, PROXY_AUTHORIZATION, SET_COOKIE};
use memchr::memmem;

use outbox_core::{HostWrites, StateChange, StateKeyChange, spellings};
use outbox_item::NewItem;

use crate::outgoing::grant::Grants;
use crate::outgoing::host_headers::is_host_only;

/// The text that replaces a secret.
const REDACTED: &str = "[redacted]";
/// Headers whose values are always credentials, also those that the guest sets.
const CREDENTIAL_HEADERS: [HeaderName; 5] =
    [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE, HeaderName::from_static("x-api-key")];

/// The shortest beginning of a secret that is removed at the end of a cut text. Shorter ones occur by chance.
const PARTIAL_SECRET_MIN: usize = 4;

/// How much of a body was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyExtent {
    /// All of it.
    Whole,
    /// Only its beginning, so a secret may be cut at the end.
    Beginning,
}

/// Removes a plugin's secrets.
#[derive(Default)]
pub(crate) struct Redactor {
    /// Longest first, so that a whole header value is found before the token in it.
    values: Vec<Vec<u8>>,
    headers: Vec<HeaderName>,
}

impl Redactor {
    /// A redactor of everything that these grants add to requests.
    pub(crate) fn new(grants: &Grants) -> Self {
        let secrets = || grants.http.iter().flat_map(|rule| &rule.secrets);
        let values = secrets().flat_map(|secret| [&secret.value, &secret.token]).filter(|value| !value.is_empty());
        let values = values.flat_map(|value| spellings(&String::from_utf8_lossy(value.as_bytes())));
        let mut values: Vec<_> = values.map(String::into_bytes).collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values, headers: secrets().map(|secret| secret.header.clone()).collect() }
    }

    /// Bytes that a handler has returned or asks the host to store, without secrets.
    pub(crate) fn bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.replaced(bytes)
    }

    /// What an attempt writes besides its result, without secrets: the values of its state, and the payloads, headers
    /// and metadata of its follow-ups. Keys stay, because other attempts look them up.
    pub(crate) fn writes(&self, writes: HostWrites) -> HostWrites {
        if self.values.is_empty() {
            return writes;
        }
        let state = writes.state.into_iter().map(|key_change| self.state(key_change)).collect();
        let followups = writes.followups.into_iter().map(|item| self.followup(item)).collect();
        HostWrites { state, followups, ..writes }
    }

    fn state(&self, key_change: StateKeyChange) -> StateKeyChange {
        let change = match key_change.change {
            StateChange::Put(value) => StateChange::Put(self.bytes(value)),
            other => other,
        };
        StateKeyChange { change, ..key_change }
    }

    fn followup(&self, item: NewItem) -> NewItem {
        let headers = item.headers.into_iter().map(|(name, value)| (name, self.text(&value))).collect();
        let metadata = serde_json::to_vec(&item.metadata).map(|json| self.bytes(json));
        let metadata = metadata.and_then(|json| serde_json::from_slice(&json)).unwrap_or_default();
        NewItem { payload: self.bytes(item.payload), headers, metadata, ..item }
    }

    /// A text without secrets.
    pub(crate) fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.replaced(text.as_bytes().to_vec())).into_owned()
    }

    /// The output of a handler without secrets, which the handler can know from a response. The output may end in the
    /// beginning of a secret.
    pub(crate) fn redact_output(&self, text: &str) -> String {
        let text = self.text(text);
        let partial = |value: &Vec<u8>| {
            (PARTIAL_SECRET_MIN..value.len()).rev().find(|partial| text.as_bytes().ends_with(&value[..*partial]))
        };
        match self.values.iter().filter_map(partial).max() {
            Some(partial) => format!("{}{REDACTED}", text.get(..text.len() - partial).unwrap_or_default()),
            None => text,
        }
    }

    /// The headers of a request or a response without those of the host and without secrets.
    pub(crate) fn headers(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let own = headers.iter().filter(|(name, _)| !is_host_only(name));
        let entry = |name: &HeaderName, value: &[u8]| {
            let is_secret = CREDENTIAL_HEADERS.contains(name) || self.headers.contains(name);
            let value = if is_secret { REDACTED.to_owned() } else { self.text(&String::from_utf8_lossy(value)) };
            (name.as_str().to_owned(), value)
        };
        own.map(|(name, value)| entry(name, value.as_bytes())).collect()
    }

    /// The kept bytes of a body that came with these headers, without secrets. If only the beginning was kept, a secret
    /// that is cut at its end is removed too. An encoded body is removed as a whole, because it may hide a secret.
    pub(crate) fn body(&self, kept: Vec<u8>, headers: &HeaderMap, extent: BodyExtent) -> Vec<u8> {
        let Some(longest) = self.values.first().map(Vec::len) else { return kept };
        if headers.contains_key(CONTENT_ENCODING) {
            return Vec::new();
        }
        let mut kept = self.replaced(kept);
        if extent == BodyExtent::Beginning {
            kept.truncate(kept.len().saturating_sub(longest - 1));
        }
        kept
    }

    fn replaced(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.values.iter().fold(bytes, |bytes, value| replace(bytes, value))
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("headers", &self.headers).finish_non_exhaustive()
    }
}

fn replace(bytes: Vec<u8>, value: &[u8]) -> Vec<u8> {
    let mut found = memmem::find_iter(&bytes, value).peekable();
    if found.peek().is_none() {
        return bytes;
    }
    let (mut replaced, mut rest) = (Vec::with_capacity(bytes.len()), 0);
    for at in found {
        replaced.extend_from_slice(&bytes[rest..at]);
        replaced.extend_from_slice(REDACTED.as_bytes());
        rest = at + value.len();
    }
    replaced.extend_from_slice(&bytes[rest..]);
    replaced
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;
    use outbox_core::StateVersion;

    use super::*;
    use crate::load::manifest::Manifest;
    use crate::load::manifest::environment::EnvLookup;

    fn redactor(token: &'static str) -> Redactor {
        let secrets = "secrets = [{ env = 'TOKEN', header = 'x-token', template = 'Bearer {}' }]";
        let manifest = format!("[[grant.http]]\norigin = 'http://a'\n{secrets}");
        let environment: EnvLookup = std::sync::Arc::new(|_| Some(token.to_owned()));
        Redactor::new(&Manifest::parse(&manifest, &environment).unwrap().grants)
    }

    fn body(redactor: &Redactor, body: &str, extent: BodyExtent) -> String {
        String::from_utf8(redactor.body(body.into(), &HeaderMap::new(), extent)).unwrap()
    }

    #[test]
    fn neither_the_value_that_was_sent_nor_the_token_in_it_stays_in_a_body() {
        let redactor = redactor("hu\"sh");
        assert_eq!(body(&redactor, r#"a Bearer hu"sh b hu"sh"#, BodyExtent::Whole), "a [redacted] b [redacted]");
        assert_eq!(body(&redactor, r#"{"echo":"Bearer hu\"sh"}"#, BodyExtent::Whole), r#"{"echo":"[redacted]"}"#);
        assert_eq!(body(&Redactor::default(), "anything", BodyExtent::Beginning), "anything");
    }

    #[test]
    fn of_a_body_that_was_cut_nothing_stays_that_could_be_half_a_secret() {
        let redactor = redactor("hush");
        for length in 1.."Bearer hush".len() {
            let cut = format!("{}{}", "x".repeat(50), &"Bearer hush"[..length]);
            assert!(!body(&redactor, &cut, BodyExtent::Beginning).contains('B'), "{length}");
        }
    }

    #[test]
    fn what_a_handler_says_of_an_answer_is_told_without_what_it_repeats() {
        let redactor = redactor("hush-4711");
        assert_eq!(redactor.redact_output("401: you sent Bearer hush-4711!"), "401: you sent [redacted]!");
        assert_eq!(redactor.redact_output("401: you sent Bearer hush-4"), "401: you sent [redacted]");
        assert_eq!(redactor.redact_output("401: there was a rush"), "401: there was a rush");
    }

    #[test]
    fn an_encoded_body_is_kept_only_where_it_can_hide_nothing() {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        assert!(redactor("hush").body(b"zipped".to_vec(), &headers, BodyExtent::Whole).is_empty());
        assert_eq!(Redactor::default().body(b"zipped".to_vec(), &headers, BodyExtent::Whole), b"zipped");
    }

    #[test]
    fn headers_lose_what_the_host_adds_and_what_they_should_not_tell() {
        let names = ["idempotency-key", "traceparent", "x-token", "cookie", "x-echo", "accept"];
        let headers = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("my hush")));
        let kept = redactor("hush").headers(&HeaderMap::from_iter(headers));
        let kept: Vec<_> = kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected =
            [("x-token", REDACTED), ("cookie", REDACTED), ("x-echo", "my [redacted]"), ("accept", "my [redacted]")];
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_an_attempt_writes_has_no_secret_whichever_way_a_receiver_spelt_it() {
        let redactor = redactor("hu sh/4711");
        let echo = r#"{"echo":"Bearer hu sh/4711","url":"/?t=hu%20sh%2F4711"}"#;
        let put = StateKeyChange {
            key: "k".into(),
            read_version: StateVersion::default(),
            change: StateChange::Put(echo.into()),
        };
        let mut followup = NewItem::new("mail", "k", echo);
        followup.headers.insert("x".into(), "hu sh/4711".into());
        followup.metadata.insert("x".into(), "hu sh/4711".into());
        let writes = HostWrites { state: vec![put], followups: vec![followup], ..HostWrites::default() };
        let written = format!("{:?}", redactor.writes(writes));
        let bytes = |text: &str| format!("{:?}", text.as_bytes());
        for secret in ["4711".to_owned(), bytes("4711").trim_matches(['[', ']']).to_owned()] {
            assert!(!written.contains(&secret), "{written}");
        }
        assert_eq!(redactor.bytes(b"a Bearer hu sh/4711".to_vec()), b"a [redacted]");
    }

    #[test]
    fn it_does_not_tell_its_secrets_when_it_is_printed() {
        assert!(!format!("{:?}", redactor("hush")).contains("hush"));
    }
}
