//! What items contain, exactly: JSON with every digit of its numbers, text as it is, other bytes in hexadecimal.

use std::fmt::Write as _;

use serde_json::value::RawValue;

use outbox_core::{RecordedBody, RecordedExchange, RecordedResponse, hex};
use outbox_item::{Item, JSON, reformat};

use crate::answers::{Sight, Visible};
use crate::page::words;

/// Bytes of a content that a page shows; what follows is in the JSON of the item.
const SHOWN_MAX: usize = 64 << 10;

/// Bytes in a line of hexadecimal digits.
const LINE: usize = 16;

/// A payload, a result or a body.
pub(super) struct ShownContent {
    pub(super) text: String,
    /// `JSON`, `text` or `bytes`.
    pub(super) kind: &'static str,
    pub(super) size: String,
    /// Whether the end is left out.
    pub(super) is_cut: bool,
}

/// The payload of an item, as people read it. What its media type does not call JSON is shown as it is.
pub(super) fn of_payload(bytes: &[u8], content_type: &str) -> ShownContent {
    match std::str::from_utf8(bytes) {
        Ok(text) if !is_json(content_type) => shown_text("text", text, bytes.len()),
        _ => of_bytes(bytes),
    }
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type == JSON || media_type.ends_with("+json")
}

fn shown_text(kind: &'static str, text: &str, bytes: usize) -> ShownContent {
    let is_cut = text.len() > SHOWN_MAX;
    let end = (0..=SHOWN_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    ShownContent { text: plain(&text[..end]), kind, size: words::bytes(bytes as u64), is_cut }
}

/// The bytes, as people read them.
pub(super) fn of_bytes(bytes: &[u8]) -> ShownContent {
    let (kind, text) = match (std::str::from_utf8(bytes), serde_json::from_slice::<&RawValue>(bytes)) {
        (_, Ok(json)) => ("JSON", reformat(json.get(), Some(2))),
        (Ok(text), _) => ("text", text.to_owned()),
        (Err(_), _) => ("bytes", in_hex(&bytes[..bytes.len().min(SHOWN_MAX / 4)])),
    };
    let content = shown_text(kind, &text, bytes.len());
    ShownContent { is_cut: content.is_cut || (kind == "bytes" && bytes.len() > SHOWN_MAX / 4), ..content }
}

/// The text with what a browser would hide or obey as `\u{…}`: control characters, and those that turn the direction.
pub(super) fn plain(text: &str) -> String {
    let is_hidden = |c: char| {
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || (c.is_control() && c != '\n' && c != '\t')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// Lines of an offset, the bytes in hexadecimal, and what of them is printable.
fn in_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes.chunks(LINE).enumerate() {
        let digits = line.iter().map(|byte| hex(&[*byte])).collect::<Vec<_>>().join(" ");
        let printable = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let shown: String = line.iter().map(printable).collect();
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{:08x}  {digits:<width$} {shown}", number * LINE, width = LINE * 3 - 1);
    }
    text
}

/// The headers of the item, where the reader may see them.
pub(super) fn header_rows(item: &Item, sight: &Sight) -> Vec<(String, String)> {
    match sight.content(&item.headers) {
        Visible::Shown(headers) => headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Visible::Hidden => Vec::new(),
    }
}

/// The metadata of the item as JSON, where there is some that the reader may see.
pub(super) fn metadata_text(item: &Item, sight: &Sight) -> Option<String> {
    match sight.content(&item.metadata) {
        Visible::Shown(metadata) if !metadata.is_empty() => serde_json::to_string_pretty(metadata).ok(),
        _ => None,
    }
}

/// A request of an attempt with its answer.
pub(super) struct ShownExchange {
    pub(super) line: String,
    pub(super) answer: String,
    pub(super) request_headers: Vec<(String, String)>,
    pub(super) request: Option<ShownContent>,
    pub(super) response_headers: Vec<(String, String)>,
    pub(super) response: Option<ShownContent>,
}

/// The recorded request, as people read it.
pub(super) fn exchange(recorded: &RecordedExchange) -> ShownExchange {
    let effect = recorded.effect.as_ref().map(|effect| format!(" (effect {effect})")).unwrap_or_default();
    let (answer, response_headers, response) = match &recorded.answer {
        None => ("no answer before the attempt ended".to_owned(), Vec::new(), None),
        Some(RecordedResponse::Error { error }) => (error.clone(), Vec::new(), None),
        Some(RecordedResponse::Response { status, headers, body }) => {
            (status.to_string(), headers.clone(), of_body(body))
        }
    };
    ShownExchange {
        line: format!("{} {}{effect}", recorded.method, recorded.url),
        answer,
        request_headers: recorded.headers.clone(),
        request: of_body(&recorded.body),
        response_headers,
        response,
    }
}

fn of_body(body: &RecordedBody) -> Option<ShownContent> {
    if body.length == 0 {
        return None;
    }
    let content = of_bytes(&body.kept);
    Some(ShownContent { size: words::bytes(body.length), is_cut: content.is_cut || !body.is_whole(), ..content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_shown_exactly() {
        let json = of_bytes(br#"{"big":12345678901234567890.10,"a":[]}"#);
        assert_eq!((json.kind, json.text.as_str()), ("JSON", "{\n  \"big\": 12345678901234567890.10,\n  \"a\": []\n}"));
        let text = of_bytes("hällo".as_bytes());
        assert_eq!((text.kind, text.text.as_str(), text.size.as_str()), ("text", "hällo", "6 B"));
        let text = of_payload(b" {\"a\":1,\n\"b\":2}", "text/plain");
        assert_eq!((text.kind, text.text.as_str()), ("text", " {\"a\":1,\n\"b\":2}"), "only JSON is laid out anew");
        assert_eq!(of_payload(b"{\"a\":1}", "application/ld+json; charset=utf-8").kind, "JSON");
        assert_eq!(plain("a\u{1b}[31m\u{202e}b\n\t"), "a\\u{1b}[31m\\u{202e}b\n\t");
        let bytes = of_bytes(b"\xffAB\x00");
        let expected = format!("00000000  {:<47} .AB.\n", "ff 41 42 00");
        assert_eq!((bytes.kind, bytes.text), ("bytes", expected));
    }

    #[test]
    fn the_end_of_a_long_content_is_left_out_and_that_is_said() {
        let long = of_bytes("ä".repeat(SHOWN_MAX).as_bytes());
        assert!(long.is_cut && long.text.len() <= SHOWN_MAX);
        let bytes = of_bytes(&vec![0xff; SHOWN_MAX]);
        assert!(bytes.is_cut && bytes.text.len() <= 2 * SHOWN_MAX);
    }
}
