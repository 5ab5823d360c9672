//! Groups like failures: a pure function from the failure of a dead-lettered item to the name of its group.
//!
//! Knows no store; the stores keep the name beside the item and list the groups.

use sha2::{Digest as _, Sha256};

use crate::failure::Failure;

/// The part of a message that decides its group, in bytes. Longer messages differ in details only.
const MESSAGE_MAX: usize = 200;

/// The name of the group, 16 hexadecimal digits. Failures are in one group when they have the same type, code and
/// component, and messages that differ in numbers and ids only.
pub fn fingerprint(item_type: &str, failure: &Failure, handler_digest: Option<&str>) -> String {
    let mut hash = Sha256::new();
    let message = normalised(&failure.message, MESSAGE_MAX);
    for part in [item_type, &failure.code, &message, handler_digest.unwrap_or_default()] {
        hash.update(part);
        hash.update([0]);
    }
    let prefix = hash.finalize().iter().take(8).fold(0u64, |group, byte| (group << 8) | u64::from(*byte));
    format!("{prefix:016x}")
}

/// Words after which a number from 400 to 599 is the status of an HTTP response.
const BEFORE_STATUS: [&str; 15] = [
    "answered",
    "answers",
    "code",
    "error",
    "got",
    "http",
    "https",
    "replied",
    "responded",
    "response",
    "returned",
    "status",
    "status_code",
    "statuscode",
    "with",
];

/// The first words of the reasons that servers write behind a status.
const REASONS: [&str; 16] = [
    "bad",
    "conflict",
    "forbidden",
    "gateway",
    "gone",
    "internal",
    "length",
    "locked",
    "method",
    "not",
    "payload",
    "precondition",
    "request",
    "service",
    "too",
    "unauthorized",
];

/// Words after which a number is the code of an error.
const BEFORE_CODE: [&str; 2] = ["errno", "sqlstate"];

/// The first bytes of a message with one `#` in place of numbers, ids, addresses and times, and of lists of them. The status
/// of an HTTP error stays, because failures with different statuses differ.
pub fn normalised(message: &str, max: usize) -> String {
    let without_mail: Vec<_> = message.split_whitespace().map(hide_mail_address).collect();
    let without_mail = without_mail.join(" ");
    let tokens = tokens(&without_mail);
    let mut kept: Vec<&str> = Vec::new();
    for (position, token) in tokens.iter().copied().enumerate() {
        if !is_variable(&tokens, position) {
            kept.push(token);
            continue;
        }
        let [.., before, joint] = kept[..] else {
            kept.push("#");
            continue;
        };
        if before == "#" && joint.chars().all(|c| ".,:/+ ".contains(c)) {
            kept.pop();
        } else {
            kept.push("#");
        }
    }
    let text = kept.concat().to_lowercase();
    text[..text.floor_char_boundary(max)].to_owned()
}

/// The text in words and what is between them.
fn tokens(text: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_in_word(c) != is_in_word(first)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end);
        tokens.push(token);
        rest = after;
    }
    tokens
}

fn is_in_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '#')
}

/// `#` for a mail address, with the punctuation around it.
fn hide_mail_address(chunk: &str) -> String {
    let address = chunk.trim_matches(|c: char| !c.is_alphanumeric());
    match address.split_once('@') {
        Some((name, host)) if !name.is_empty() && host.contains('.') && !address.contains('/') => {
            chunk.replace(address, "#")
        }
        _ => chunk.to_owned(),
    }
}

/// Whether the token differs among failures that are alike.
fn is_variable(tokens: &[&str], position: usize) -> bool {
    let word = tokens[position];
    if !word.starts_with(is_in_word) {
        return false;
    }
    let has_digit = word.contains(|c: char| c.is_ascii_digit());
    let is_constant = is_status(tokens, position) || is_code(tokens, position);
    word == "#" || has_digit && !is_constant || is_random(word) || is_of_date(tokens, position)
}

/// A word that names nothing: hexadecimal digits, or letters whose case changes at every turn.
fn is_random(word: &str) -> bool {
    let is_hex = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let letters: Vec<_> = word.chars().filter(char::is_ascii_alphabetic).collect();
    let turns = letters.windows(2).filter(|pair| pair[0].is_ascii_uppercase() != pair[1].is_ascii_uppercase()).count();
    is_hex || letters.len() >= 12 && turns * 5 > letters.len() * 2
}

/// A day or a month beside a number.
fn is_of_date(tokens: &[&str], position: usize) -> bool {
    const NAMES: [&str; 19] = [
        "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep",
        "Oct", "Nov", "Dec",
    ];
    let is_number = |at: Option<usize>| {
        at.and_then(|at| tokens.get(at)).is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
    };
    NAMES.contains(&tokens[position]) && (is_number(position.checked_sub(2)) || is_number(Some(position + 2)))
}

/// The status of an HTTP error: behind a word that introduces it, or at the beginning of a part with its reason behind
/// it. `order 404 not found` has none.
fn is_status(tokens: &[&str], position: usize) -> bool {
    let is_in_range = tokens[position].parse::<u16>().is_ok_and(|status| (400..600).contains(&status));
    let begins_part = position == 0 || tokens[position - 1].contains([':', '(', '[', '"', '<', '>']);
    let reason = tokens.get(position + 2).map(|word| word.to_lowercase());
    is_in_range
        && (BEFORE_STATUS.contains(&name_before(tokens, position).as_str())
            || begins_part && reason.is_none_or(|reason| REASONS.contains(&reason.as_str())))
}

fn is_code(tokens: &[&str], position: usize) -> bool {
    BEFORE_CODE.contains(&name_before(tokens, position).as_str()) || tokens[position].starts_with("ORA-")
}

/// The word before the token in lower case, past the version of a protocol.
fn name_before(tokens: &[&str], position: usize) -> String {
    let words = tokens[..position].iter().rev().filter(|token| token.starts_with(is_in_word));
    let is_version = |word: &&&str| word.len() == 1 && word.bytes().all(|byte| byte.is_ascii_digit());
    words.into_iter().find(|word| !is_version(word)).map(|word| word.to_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    fn group(message: &str) -> String {
        fingerprint("mail", &Failure::new(FailureClass::Retryable, "upstream", message), Some("d1"))
    }

    #[test]
    fn messages_that_differ_in_numbers_and_ids_are_alike() {
        assert_eq!(group("user 17 not found"), group("User 4711  not found"));
        assert_eq!(group("no row 550e8400-e29b-41d4-a716-446655440000"), group("no row a1"));
        assert_eq!(group("took 12.5s"), group("took 9.25s"));
        assert_eq!(group("").len(), 16);
    }

    /// Messages of real libraries and services. Those of a paragraph have one cause, and no two paragraphs have the same.
    const CORPUS: &str = include_str!("fingerprint/corpus.txt");

    #[test]
    fn messages_of_one_cause_are_one_group_and_those_of_others_are_others() {
        let causes: Vec<Vec<&str>> = CORPUS.split("\n\n").map(|cause| cause.trim().lines().collect()).collect();
        assert!(causes.iter().map(Vec::len).sum::<usize>() >= 200);
        let mut seen = std::collections::BTreeMap::new();
        for cause in &causes {
            let normalised = |message: &str| normalised(message, MESSAGE_MAX);
            for message in cause {
                assert_eq!(normalised(message), normalised(cause[0]), "{message}\n{}", cause[0]);
            }
            if let Some(other) = seen.insert(normalised(cause[0]), cause[0]) {
                panic!("one group for {other:?} and {:?}", cause[0]);
            }
        }
    }

    #[test]
    fn words_and_the_status_of_an_http_error_tell_failures_apart() {
        assert_ne!(group("the receiver answered 503"), group("the receiver answered 404"));
        assert_ne!(group("connection refused"), group("connection reset"));
        let failure = Failure::new(FailureClass::Retryable, "upstream", "m");
        assert_ne!(fingerprint("mail", &failure, Some("d1")), fingerprint("mail", &failure, Some("d2")));
        assert_ne!(fingerprint("mail", &failure, None), fingerprint("sms", &failure, None));
    }
}
