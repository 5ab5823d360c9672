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
    for part in [item_type, &failure.code, &normalised(&failure.message), handler_digest.unwrap_or_default()] {
        hash.update(part);
        hash.update([0]);
    }
    let prefix = hash.finalize().iter().take(8).fold(0u64, |group, byte| (group << 8) | u64::from(*byte));
    format!("{prefix:016x}")
}

/// The message with `#` in place of every word that contains a digit. The status of an HTTP error stays, because
/// failures with different statuses differ.
fn normalised(message: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let mut text = String::new();
    let mut rest = message;
    while let Some(first) = rest.chars().next().filter(|_| text.len() < MESSAGE_MAX) {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let is_number = is_word(first) && part.contains(|c: char| c.is_ascii_digit());
        text.push_str(if is_number && !is_http_error(part) { "#" } else { part });
        rest = after;
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn is_http_error(word: &str) -> bool {
    word.parse::<u16>().is_ok_and(|status| (400..600).contains(&status))
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

    #[test]
    fn words_and_the_status_of_an_http_error_tell_failures_apart() {
        assert_ne!(group("the receiver answered 503"), group("the receiver answered 404"));
        assert_ne!(group("connection refused"), group("connection reset"));
        let failure = Failure::new(FailureClass::Retryable, "upstream", "m");
        assert_ne!(fingerprint("mail", &failure, Some("d1")), fingerprint("mail", &failure, Some("d2")));
        assert_ne!(fingerprint("mail", &failure, None), fingerprint("sms", &failure, None));
    }
}
