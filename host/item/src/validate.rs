//! The rules that the fields of a new item obey, and the errors that name a field which breaks one.
//!
//! The schemas of both stores enforce the same rules as CHECK constraints; this file exists so that a caller gets a
//! readable error before a statement runs. It knows no store.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::item::NewItem;

/// The longest `idem_key`, `cid`, `ordering_key`, `fairness_key`, type or saga, in bytes. The schemas use the same number.
pub const KEY_MAX: usize = 255;

/// The longest delay of a new item: ten years. A longer delay is most likely a mistaken unit.
pub const DELAY_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// The most bytes of an item's headers, names and values together. A request may have a little more in all.
const HEADERS_MAX: usize = 16 << 10;

/// Headers that say how one connection carries a request, or to whom it goes: the HTTP client sets them. In lower case.
const CONNECTION_HEADERS: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The most characters of a refused value that an error repeats, so that an error fits on one line.
const QUOTED_CHARS: usize = 80;

/// A field of a new item breaks a rule. The caller stored nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}: it must be {accepted}")]
pub struct InvalidItem {
    /// The name of the field, as in JSON and SQL.
    pub field: &'static str,
    /// The refused value, cut to 80 characters.
    pub value: String,
    /// What the rule accepts.
    pub accepted: &'static str,
}

/// One of several new items breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source}")]
pub struct InvalidAt {
    /// The position of the item in the slice, from 0.
    pub index: usize,
    /// The broken rule.
    pub source: InvalidItem,
}

/// Validates items in order. Errors with the first item that breaks a rule.
pub fn validate_items(items: &[NewItem]) -> Result<(), InvalidAt> {
    let validate = |(index, item): (usize, &NewItem)| item.validate().map_err(|source| InvalidAt { index, source });
    items.iter().enumerate().try_for_each(validate)
}

impl NewItem {
    /// Validates every field. Errors with the first field that breaks a rule.
    pub fn validate(&self) -> Result<(), InvalidItem> {
        validate_type(&self.item_type)?;
        validate_key("idem_key", &self.idem_key)?;
        if let Some(cid) = &self.cid {
            validate_key("cid", cid)?;
        }
        if let Some(saga) = &self.saga {
            validate_saga(saga)?;
        }
        if let Some(key) = &self.ordering_key {
            validate_key("ordering_key", key)?;
        }
        if let Some(key) = &self.fairness_key {
            validate_key("fairness_key", key)?;
        }
        validate_headers(&self.headers)?;
        validate_delay(self.delay)?;
        validate_key("content_type", &self.content_type)
    }
}

/// Validates the spelling of an item type: `[a-z0-9][a-z0-9._-]*`, at most [`KEY_MAX`] bytes.
pub fn validate_type(item_type: &str) -> Result<(), InvalidItem> {
    let rest = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    require(is_name(item_type, first, rest), "type", item_type, "[a-z0-9][a-z0-9._-]*, at most 255 bytes")
}

/// Validates the spelling of a saga: `[A-Za-z0-9][A-Za-z0-9._-]*`, at most [`KEY_MAX`] bytes.
pub fn validate_saga(saga: &str) -> Result<(), InvalidItem> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = |b: u8| b.is_ascii_alphanumeric();
    require(is_name(saga, first, rest), "saga", saga, "[A-Za-z0-9][A-Za-z0-9._-]*, at most 255 bytes")
}

/// Validates an `idem_key`, a `cid` or another value with the same rule: 1 to [`KEY_MAX`] printable ASCII bytes.
/// `field` is the name that an error shows.
pub fn validate_key(field: &'static str, key: &str) -> Result<(), InvalidItem> {
    let printable = key.bytes().all(|b| matches!(b, b' '..=b'~'));
    require(printable && (1..=KEY_MAX).contains(&key.len()), field, key, "1 to 255 printable ASCII bytes")
}

/// The header of an item that names the destination of its webhook.
const WEBHOOK_URL: &str = "webhook-url";

/// Whether a text has the form of an absolute URL of HTTP. Whether the destination is granted is decided at the attempt.
fn is_web_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty() && !host.contains('@')) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Validates headers: each of them can be sent in an HTTP request.
fn validate_headers(headers: &BTreeMap<String, String>) -> Result<(), InvalidItem> {
    for (name, value) in headers {
        let accepted =
            "names of HTTP headers, without those that concern the connection, such as host and content-length";
        require(is_header_name(name), "headers", name, accepted)?;
        // The error does not show the value, which may be a secret.
        require(value.bytes().all(is_header_byte), "headers", name, "headers whose values have no control characters")?;
    }
    for (name, url) in headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(WEBHOOK_URL)) {
        let accepted = "an absolute URL in webhook-url, such as https://hooks.example.com/path, without a user";
        require(is_web_url(url), "headers", name, accepted)?;
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    require(bytes <= HEADERS_MAX, "headers", &format!("{bytes} bytes"), "at most 16384 bytes in all")
}

/// Whether an HTTP request can have this header. Those that concern the connection, such as `host`, are left to the
/// client.
pub fn is_header(name: &str, value: &str) -> bool {
    is_header_name(name) && value.bytes().all(is_header_byte)
}

/// Whether a request of a handler can have a header of this name.
fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let concerns_connection = CONNECTION_HEADERS.iter().any(|known| name.eq_ignore_ascii_case(known));
    (1..=KEY_MAX).contains(&name.len()) && name.bytes().all(is_token) && !concerns_connection
}

fn is_header_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn validate_delay(delay: Duration) -> Result<(), InvalidItem> {
    let most = "at most 315360000000, which is ten years";
    require(delay <= DELAY_MAX, "delay_ms", &delay.as_millis().to_string(), most)
}

fn is_name(word: &str, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> bool {
    let bytes = word.as_bytes();
    bytes.len() <= KEY_MAX && bytes.first().is_some_and(|b| first(*b)) && bytes.iter().all(|b| rest(*b))
}

fn require(is_valid: bool, field: &'static str, value: &str, accepted: &'static str) -> Result<(), InvalidItem> {
    if is_valid {
        return Ok(());
    }
    Err(InvalidItem { field, value: value.chars().take(QUOTED_CHARS).collect(), accepted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_named_with_its_value_and_what_is_accepted() {
        let good = NewItem::new("vector_upsert", "k1", "{}");
        assert_eq!(good.validate(), Ok(()));
        let check = |change: fn(&mut NewItem), field: &str| {
            let mut item = good.clone();
            change(&mut item);
            assert_eq!(item.validate().unwrap_err().field, field);
        };
        check(|i| i.item_type = "Vector".into(), "type");
        check(|i| i.item_type = String::new(), "type");
        check(|i| i.idem_key = String::new(), "idem_key");
        check(|i| i.idem_key = "k".repeat(256), "idem_key");
        check(|i| i.idem_key = "schlüssel".into(), "idem_key");
        check(|i| i.cid = Some("a\nb".into()), "cid");
        check(|i| i.saga = Some("-x".into()), "saga");
        check(|i| i.ordering_key = Some(String::new()), "ordering_key");
        check(|i| i.fairness_key = Some("a\tb".into()), "fairness_key");
    }

    #[test]
    fn a_header_that_no_request_can_have_is_refused() {
        let with = |name: &str, value: &str| {
            let headers = [(name.to_owned(), value.to_owned())].into();
            NewItem { headers, ..NewItem::new("t", "k", "") }.validate()
        };
        for name in ["X-Tenant", "authorization", "x_y", "idempotency-key"] {
            assert_eq!(with(name, "Müller\t1"), Ok(()), "{name}");
        }
        for name in
            ["Host", "Connection", "TRANSFER-encoding", "Content-Length", "keep-alive", "bad name", "", "ü", "a:b"]
        {
            assert_eq!(with(name, "x").unwrap_err().field, "headers", "{name:?}");
        }
        let err = with("x-token", "secret\r\nx: y").unwrap_err().to_string();
        assert!(err.contains("x-token") && !err.contains("secret"), "{err}");
        assert_eq!(with("x", &"y".repeat(HEADERS_MAX)).unwrap_err().value, "16385 bytes");
        assert_eq!(with("x", &"y".repeat(HEADERS_MAX - 1)), Ok(()));
    }

    #[test]
    fn the_destination_of_a_webhook_is_an_absolute_url() {
        let with = |url: &str| {
            let headers = [("Webhook-URL".to_owned(), url.to_owned())].into();
            NewItem { headers, ..NewItem::new("t", "k", "") }.validate()
        };
        for url in ["https://hooks.example.com/a?b=c#d", "http://127.0.0.1:9000", "https://[::1]/x"] {
            assert_eq!(with(url), Ok(()), "{url}");
        }
        for url in
            ["", "hooks.example.com", "ftp://a/b", "https://", "https:///x", "https://a b/", "https://me:pw@a/", "/x"]
        {
            let err = with(url).unwrap_err().to_string();
            assert!(err.contains("an absolute URL in webhook-url") && !err.contains("me:pw"), "{url}: {err}");
        }
    }

    #[test]
    fn the_first_invalid_item_is_named_by_its_position() {
        let good = NewItem::new("t", "k", "{}");
        let bad = NewItem::new("T", "k", "{}");
        assert_eq!(validate_items(&[good.clone(), good.clone()]), Ok(()));
        assert_eq!(validate_items(&[good, bad.clone(), bad]).unwrap_err().index, 1);
    }
}
