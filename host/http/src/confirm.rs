//! The confirmation of bulk actions that delete, take work away or may repeat effects.
//!
//! A dry run answers with a token, and the action presents it. The token contains the time of the dry run and a digest
//! of the action and of the filter at that time; no process remembers it, so each process of the host can check it. It
//! proves that the client has asked; it is no secret. What needs it is decided by the store's
//! [`Action::needs_confirmation`].

use std::time::Duration;

use serde_json::json;

use outbox_core::sha256;
use outbox_item::Millis;
use outbox_store::{Action, Filter};

use crate::problem::ApiError;

/// How long a confirmation is accepted after its dry run: long enough to ask a colleague.
const VALID_FOR: Duration = Duration::from_hours(1);

/// Hexadecimal digits of the digest in a token. They tell requests apart, and protect nothing.
const DIGITS: usize = 16;

/// The token for the action on the items that matched the filter at `as_of`.
pub(crate) fn token(action: Action, filter: &Filter, as_of: Millis) -> String {
    let filter = Filter { as_of: Some(as_of), ..filter.clone() };
    let digest = sha256(json!([action, filter]).to_string().as_bytes());
    format!("{as_of}-{}", &digest[..DIGITS])
}

/// The time of the dry run that gave the token. Errors when the token belongs to another request or is too old.
pub(crate) fn check(given: &str, action: Action, filter: &Filter, now: Millis) -> Result<Millis, ApiError> {
    let as_of = given.split_once('-').and_then(|(as_of, _)| as_of.parse().ok()).map(Millis::new);
    let as_of = as_of.filter(|as_of| token(action, filter, *as_of) == given).ok_or_else(|| wrong(given))?;
    if as_of > now || now.since(as_of) > VALID_FOR {
        return Err(ApiError::Invalid(format!(
            "confirm is {given:?}: a confirmation is accepted for an hour after its dry run, make a new one"
        )));
    }
    Ok(as_of)
}

fn wrong(given: &str) -> ApiError {
    ApiError::Invalid(format!(
        "confirm is {given:?}, which belongs to another action or filter: send what the dry run of this request gave"
    ))
}

#[cfg(test)]
mod tests {
    use outbox_item::Status;
    use outbox_store::EffectKeys;

    use super::*;

    const NOW: Millis = Millis::new(1_800_000_000_000);

    fn dead() -> Filter {
        Filter { status: vec![Status::Dlq], ..Filter::default() }
    }

    #[test]
    fn a_token_is_accepted_for_its_own_action_and_filter_only() {
        let given = token(Action::Purge, &dead(), NOW);
        assert_eq!(check(&given, Action::Purge, &dead(), NOW).unwrap(), NOW);
        let of_type = Filter { r#type: Some("mail".into()), ..dead() };
        let replay = Action::Replay { keys: EffectKeys::New };
        for (given, action, filter) in [
            (given.as_str(), Action::Purge, of_type),
            (&given, replay, dead()),
            ("yes", Action::Purge, dead()),
            ("", Action::Purge, dead()),
            (&given.replacen('1', "2", 1), Action::Purge, dead()),
        ] {
            let problem = check(given, action, &filter, NOW).unwrap_err().to_string();
            assert!(problem.contains("another action or filter"), "{problem}");
        }
    }

    #[test]
    fn a_token_is_accepted_for_an_hour() {
        let given = token(Action::Purge, &dead(), NOW);
        assert!(check(&given, Action::Purge, &dead(), NOW.saturating_add(VALID_FOR)).is_ok());
        let late = NOW.saturating_add(VALID_FOR + Duration::from_millis(1));
        for now in [late, NOW.saturating_sub(Duration::from_millis(1))] {
            assert!(check(&given, Action::Purge, &dead(), now).unwrap_err().to_string().contains("an hour"));
        }
    }
}
