//! The ways in which JSON, URLs and forms spell a text. What must not be shown is looked for in each of them, because a
//! handler or a receiver may repeat it in any.

use serde_json::Value;

/// The text as it is, as JSON escapes it with and without characters beyond ASCII, and as URLs and forms escape it; each
/// once, the longest first.
pub fn spellings(text: &str) -> Vec<String> {
    let json = Value::from(text).to_string();
    let json = &json[1..json.len() - 1];
    let percent = percent_encoded(text);
    let form = percent.replace("%20", "+");
    let mut all = vec![text.to_owned(), json.to_owned(), in_ascii(json), percent, form];
    all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    all.dedup();
    all
}

/// The same JSON with only ASCII characters, as the library of Python writes it.
fn in_ascii(json: &str) -> String {
    let escaped = |unit: u16| format!("\\u{unit:04x}");
    let of = |c: char| {
        if c.is_ascii() { c.to_string() } else { c.encode_utf16(&mut [0; 2]).iter().copied().map(escaped).collect() }
    };
    json.chars().map(of).collect()
}

fn percent_encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let encoded = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_spelt_as_it_is_in_json_and_in_urls() {
        let expected =
            ["%22%C3%84%22%0A%F0%9F%90%8B%20a", "%22%C3%84%22%0A%F0%9F%90%8B+a", r#"\"\u00c4\"\n\ud83d\udc0b a"#];
        let expected = expected.into_iter().chain(["\\\"Ä\\\"\\n🐋 a", "\"Ä\"\n🐋 a"]);
        assert_eq!(spellings("\"Ä\"\n🐋 a"), expected.collect::<Vec<_>>());
        assert_eq!(spellings("4711"), ["4711"]);
        assert_eq!(spellings("4111 1111"), ["4111%201111", "4111 1111", "4111+1111"]);
    }
}
