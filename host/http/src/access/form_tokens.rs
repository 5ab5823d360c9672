//! Tokens in the forms of pages: they prove that a page of this host, made for this caller, sent a form in time.
//!
//! A token is its end and a signature of its owner and its end, masked by random bytes: it looks different in every page,
//! so that the length of a compressed page tells nothing about it. No process stores tokens.

use std::time::Duration;

use subtle::ConstantTimeEq as _;

use outbox_core::hex;
use outbox_item::Millis;

use crate::access::caller::Caller;
use crate::access::sessions::Sessions;
use crate::access::settings::AccessSettings;

/// How long a form may be sent after its page was made: as long as a session lasts.
pub(crate) const FORM_VALID: Duration = Duration::from_hours(12);

/// The bytes of the end of a token.
const END: usize = 8;
/// The bytes of an end and of the part of a signature that a token has, and of their mask.
const LENGTH: usize = END + 16;

/// What a token of a form proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormProof {
    /// A page for this owner sent the form.
    Valid,
    /// A page for this owner was made too long ago.
    Expired,
    /// Nothing.
    Foreign,
}

/// Whose forms a page has: those of the session that identified the caller, else those of a caller by its name, else those
/// of everybody who may use this host without a name. A cookie that identifies nobody, which another host of the domain
/// may have set, counts for nothing.
pub(crate) fn form_owner(caller: &Caller) -> String {
    match (caller.session(), caller.name()) {
        (Some(cookie), _) => session_owner(cookie),
        (None, Some(name)) => format!("caller {name}"),
        (None, None) => "anybody".to_owned(),
    }
}

/// The owner of the forms of a session.
pub(crate) fn session_owner(cookie: &str) -> String {
    format!("session {cookie}")
}

impl Sessions {
    /// A token for a form of this owner, in a page that is made at `now`.
    pub(crate) fn form_token(&self, settings: &AccessSettings, owner: &str, now: Millis) -> String {
        let random = [(); 2].map(|()| uuid::Uuid::new_v4().into_bytes()).concat();
        let mask = std::array::from_fn(|index| random[index]);
        let proof = self.form_proof(settings, owner, now.saturating_add(FORM_VALID));
        hex(&[mask, combined(mask, proof)].concat())
    }

    /// Whether the text is a token of this owner that a process with this key made, and still valid at `now`.
    pub(crate) fn check_form_token(
        &self,
        settings: &AccessSettings,
        owner: &str,
        text: &str,
        now: Millis,
    ) -> FormProof {
        let Some((mask, masked)) = parts(text) else { return FormProof::Foreign };
        let given = combined(mask, masked);
        let end = Millis::new(i64::from_be_bytes(std::array::from_fn(|index| given[index])));
        let is_own: bool = given.ct_eq(&self.form_proof(settings, owner, end)).into();
        if !is_own {
            return FormProof::Foreign;
        }
        if end <= now { FormProof::Expired } else { FormProof::Valid }
    }

    /// The end of a token, and the first bytes of the signature of its owner and its end.
    fn form_proof(&self, settings: &AccessSettings, owner: &str, end: Millis) -> [u8; LENGTH] {
        let end = end.get().to_be_bytes();
        let signature = self.sign(settings, &[b"outbox form\n", &end, owner.as_bytes()]);
        std::array::from_fn(|index| if index < END { end[index] } else { signature[index - END] })
    }
}

fn combined(left: [u8; LENGTH], right: [u8; LENGTH]) -> [u8; LENGTH] {
    std::array::from_fn(|index| left[index] ^ right[index])
}

/// The mask, and what it masks.
fn parts(text: &str) -> Option<([u8; LENGTH], [u8; LENGTH])> {
    if text.len() != 4 * LENGTH || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |index: usize| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap_or_default();
    Some((std::array::from_fn(byte), std::array::from_fn(|index| byte(LENGTH + index))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::settings::SessionKey;

    const NOW: Millis = Millis::new(1_800_000_000_000);

    #[test]
    fn a_token_is_valid_for_its_owner_and_looks_different_each_time() {
        let (sessions, settings) = (Sessions::default(), AccessSettings::default());
        let [first, second] = [(); 2].map(|()| sessions.form_token(&settings, "caller ada", NOW));
        assert!(first != second && first[2 * LENGTH..] != second[2 * LENGTH..]);
        let check = |owner: &str, text: &str| sessions.check_form_token(&settings, owner, text, NOW);
        assert_eq!([&first, &second].map(|text| check("caller ada", text)), [FormProof::Valid; 2]);
        for (owner, text) in [
            ("caller bob", first.as_str()),
            ("caller ada", ""),
            ("caller ada", &"0".repeat(4 * LENGTH)),
            ("caller ada", &first[..4 * LENGTH - 2]),
        ] {
            assert_eq!(check(owner, text), FormProof::Foreign, "{owner} {text}");
        }
    }

    #[test]
    fn a_token_ends_after_twelve_hours_and_nobody_can_give_it_a_later_end() {
        let (sessions, settings) = (Sessions::default(), AccessSettings::default());
        let token = sessions.form_token(&settings, "anybody", NOW);
        let after = |text: &str, seconds: u64| {
            sessions.check_form_token(&settings, "anybody", text, NOW.saturating_add(Duration::from_secs(seconds)))
        };
        assert_eq!((after(&token, 12 * 3_600 - 1), after(&token, 12 * 3_600)), (FormProof::Valid, FormProof::Expired));
        // The mask of the end is known, so a bit of the end can be turned over.
        let place = 2 * LENGTH + 2 * 2;
        let digit = u8::from_str_radix(&token[place..=place], 16).unwrap() ^ 1;
        let later = format!("{}{digit:x}{}", &token[..place], &token[place + 1..]);
        assert_eq!(after(&later, 12 * 3_600), FormProof::Foreign);
    }

    #[test]
    fn processes_with_one_key_accept_each_others_forms() {
        let shared = AccessSettings { session_key: Some(SessionKey::new("k".repeat(32))), ..AccessSettings::default() };
        let (here, there) = (Sessions::default(), Sessions::default());
        let check = |settings: &AccessSettings| {
            there.check_form_token(settings, "anybody", &here.form_token(settings, "anybody", NOW), NOW)
        };
        assert_eq!(check(&shared), FormProof::Valid);
        assert_eq!(check(&AccessSettings::default()), FormProof::Foreign);
    }
}
