//! The text of a JSON document in pieces, so that some of them can be replaced and all others stay byte for byte.
//!
//! It reads every document that the host takes as JSON, also one with numbers beyond a double, with halves of characters,
//! with repeated names, or with any depth. It does not know why a piece is replaced.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::value::RawValue;

/// The text of a document; `None` where it is not JSON.
pub(super) fn json_text(document: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(document).ok()?;
    std::str::from_utf8(document).ok()
}

/// Where the values are that the paths lead to, in their order. A name that is repeated leads to each of its values.
pub(super) fn places(json: &str, paths: &[Vec<String>]) -> Vec<Range<usize>> {
    let paths: Vec<_> = paths.iter().map(Vec::as_slice).collect();
    let mut search = Search { cursor: Cursor { json, at: 0 }, found: Vec::new() };
    search.value(&paths);
    search.found
}

/// The text with other pieces at these places, which are in their order.
pub(super) fn with_replaced<'a>(
    json: &str,
    pieces: impl IntoIterator<Item = (Range<usize>, impl Into<Cow<'a, str>>)>,
) -> String {
    let (mut text, mut copied) = (String::with_capacity(json.len()), 0);
    for (place, piece) in pieces {
        text.push_str(&json[copied..place.start]);
        text.push_str(&piece.into());
        copied = place.end;
    }
    text.push_str(&json[copied..]);
    text
}

/// A part of a document that is no punctuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    /// The name of a member.
    Name,
    /// A string that is a value.
    Text,
    /// A number.
    Number,
}

/// The names, the strings and the numbers of a document, in their order.
pub(super) fn parts(json: &str) -> impl Iterator<Item = (PartKind, Range<usize>)> {
    let mut cursor = Cursor { json, at: 0 };
    std::iter::from_fn(move || {
        loop {
            let (begin, first) = (cursor.after_space(), cursor.peek()?);
            cursor.skip_token();
            let place = begin..cursor.at;
            match first {
                b'"' => {
                    cursor.after_space();
                    return Some((if cursor.peek() == Some(b':') { PartKind::Name } else { PartKind::Text }, place));
                }
                b'-' | b'0'..=b'9' => return Some((PartKind::Number, place)),
                _ => {}
            }
        }
    })
}

/// The text that a string of JSON spells. Half of a character becomes `U+FFFD`.
pub(super) fn decoded(string: &str) -> String {
    let Lossy(text) = serde_json::from_str(string).unwrap_or_else(|_| Lossy(string.to_owned()));
    text
}

/// Whether a string of JSON has half of a character, which no text can have.
pub(super) fn has_half_character(string: &str) -> bool {
    serde_json::from_str::<String>(string).is_err()
}

struct Search<'a> {
    cursor: Cursor<'a>,
    found: Vec<Range<usize>>,
}

impl Search<'_> {
    /// Reads a value to its end. Only the levels that a path reaches are entered, so the depth is that of the paths.
    fn value(&mut self, paths: &[&[String]]) {
        let begin = self.cursor.after_space();
        if paths.iter().any(|path| path.is_empty()) {
            self.cursor.skip_value();
            return self.found.push(begin..self.cursor.at);
        }
        match self.cursor.peek() {
            Some(b'{') if !paths.is_empty() => self.members(paths),
            Some(b'[') if !paths.is_empty() => self.elements(paths),
            _ => self.cursor.skip_value(),
        }
    }

    fn members(&mut self, paths: &[&[String]]) {
        self.cursor.skip_token();
        while self.is_inside(b'}') {
            let begin = self.cursor.after_space();
            self.cursor.skip_token();
            let name = decoded(&self.cursor.json[begin..self.cursor.at]);
            self.cursor.after_space();
            self.cursor.skip_token();
            self.value(&below(paths, |part| part == name));
        }
    }

    fn elements(&mut self, paths: &[&[String]]) {
        self.cursor.skip_token();
        let mut index = 0;
        while self.is_inside(b']') {
            self.value(&below(paths, |part| part.parse() == Ok(index)));
            index += 1;
        }
    }

    /// Whether another member or element follows. Skips the comma before it, or the end.
    fn is_inside(&mut self, end: u8) -> bool {
        self.cursor.after_space();
        let next = self.cursor.peek();
        if next == Some(b',') || next == Some(end) {
            self.cursor.skip_token();
        }
        next.is_some_and(|next| next != end)
    }
}

/// What is left of the paths whose first part leads to a member.
fn below<'a>(paths: &[&'a [String]], leads: impl Fn(&str) -> bool) -> Vec<&'a [String]> {
    let split = paths.iter().filter_map(|path| path.split_first());
    split.filter(|(first, _)| *first == "*" || leads(first)).map(|(_, rest)| rest).collect()
}

/// A place in the text of a document.
struct Cursor<'a> {
    json: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    /// Skips white space, and returns the place behind it.
    fn after_space(&mut self) -> usize {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
        self.at
    }

    /// Skips a string, a number, a word, or one character of punctuation.
    fn skip_token(&mut self) {
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'{' | b'}' | b'[' | b']' | b',' | b':') => self.at += 1,
            _ => {
                let is_inside = |byte: u8| !byte.is_ascii_whitespace() && !matches!(byte, b',' | b']' | b'}');
                while self.peek().is_some_and(is_inside) {
                    self.at += 1;
                }
            }
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return;
            }
        }
    }

    /// Skips a value with all that is in it.
    fn skip_value(&mut self) {
        let mut depth = 0_usize;
        loop {
            self.after_space();
            match self.peek() {
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth = depth.saturating_sub(1),
                Some(_) => {}
                None => return,
            }
            self.skip_token();
            if depth == 0 {
                return;
            }
        }
    }
}

/// A text that may have had halves of characters.
struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(AsBytes)
    }
}

struct AsBytes;

impl Visitor<'_> for AsBytes {
    type Value = Lossy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Lossy, E> {
        Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(json: &'a str, path: &str) -> Vec<&'a str> {
        let path = path.split('.').map(str::to_owned).collect();
        places(json, &[path]).into_iter().map(|place| &json[place]).collect()
    }

    #[test]
    fn a_path_leads_to_whole_values_however_they_and_their_names_are_written() {
        let json = r#" { "a" : [ {"b":"x\"]}"} , [1, 2] , {"b": {"c":[]} } ], "\u0061":-1e400 , "" : null} "#;
        assert_eq!(found(json, "a.0.b"), [r#""x\"]}""#]);
        assert_eq!(found(json, "a.*.b"), [r#""x\"]}""#, r#"{"c":[]}"#]);
        assert_eq!(found(json, "a.1"), ["[1, 2]"]);
        assert_eq!(found(json, "a"), [r#"[ {"b":"x\"]}"} , [1, 2] , {"b": {"c":[]} } ]"#, "-1e400"]);
        assert_eq!(found(json, "*").len(), 3);
        assert_eq!(found(json, "a.b"), Vec::<&str>::new());
        assert_eq!((found("1", "a").len(), found("{}", "*").len(), found(" [ ] ", "*").len()), (0, 0, 0));
    }

    #[test]
    fn a_document_has_names_texts_and_numbers_at_any_depth() {
        let json = format!("{}{}{}", "[".repeat(100_000), r#"{"a" : "b:", "c":[-1.50,true]}"#, "]".repeat(100_000));
        let parts: Vec<_> = parts(&json).map(|(kind, place)| (kind, &json[place])).collect();
        let expected = [
            (PartKind::Name, "\"a\""),
            (PartKind::Text, "\"b:\""),
            (PartKind::Name, "\"c\""),
            (PartKind::Number, "-1.50"),
        ];
        assert_eq!(parts, expected);
        assert!(json_text(json.as_bytes()).is_some() && json_text(b"{\"a\":\"\xff\"}").is_none());
        assert_eq!(found(&json, "0.0.1"), Vec::<&str>::new());
    }

    #[test]
    fn half_of_a_character_is_no_text_and_whole_ones_beside_it_are() {
        let cut = r#""a\ud83d\ude00b\ud83d""#;
        assert!(has_half_character(cut) && !has_half_character(r#""\ud83d\ude00""#));
        let text = decoded(cut);
        assert!(text.starts_with("a😀b\u{fffd}"), "{text}");
    }
}
