//! Tokens in the forms of pages: they prove that a page of this host, made for this caller, sent a form.
//!
//! A token is a signature of its owner, masked by random bytes: it looks different in every page, so that the length of a
//! compressed page tells nothing about it. No process stores tokens.

use subtle::ConstantTimeEq as _;

use outbox_core::hex;

use crate::access::caller::Caller;
use crate::access::sessions::Sessions;
use crate::access::settings::AccessSettings;

/// The bytes of a signature that a token has, and of its mask.
const LENGTH: usize = 16;

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
    /// A token for a form of this owner.
    pub(crate) fn form_token(&self, settings: &AccessSettings, owner: &str) -> String {
        let mask = uuid::Uuid::new_v4().into_bytes();
        let signature = self.form_signature(settings, owner);
        hex(&[mask, combined(mask, signature)].concat())
    }

    /// Whether the text is a token of this owner that a process with this key made.
    pub(crate) fn is_form_token(&self, settings: &AccessSettings, owner: &str, text: &str) -> bool {
        let Some((mask, masked)) = parts(text) else { return false };
        combined(mask, masked).ct_eq(&self.form_signature(settings, owner)).into()
    }

    fn form_signature(&self, settings: &AccessSettings, owner: &str) -> [u8; LENGTH] {
        let signature = self.sign(settings, &[b"outbox form\n", owner.as_bytes()]);
        std::array::from_fn(|index| signature[index])
    }
}

fn combined(left: [u8; LENGTH], right: [u8; LENGTH]) -> [u8; LENGTH] {
    std::array::from_fn(|index| left[index] ^ right[index])
}

/// The mask and the masked signature.
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

    #[test]
    fn a_token_is_valid_for_its_owner_and_looks_different_each_time() {
        let (sessions, settings) = (Sessions::default(), AccessSettings::default());
        let [first, second] = [(); 2].map(|()| sessions.form_token(&settings, "caller ada"));
        assert!(first != second && first[32..] != second[32..]);
        assert!(sessions.is_form_token(&settings, "caller ada", &first));
        assert!(sessions.is_form_token(&settings, "caller ada", &second));
        for (owner, text) in [
            ("caller bob", first.as_str()),
            ("caller ada", ""),
            ("caller ada", &"0".repeat(64)),
            ("caller ada", &first[..62]),
        ] {
            assert!(!sessions.is_form_token(&settings, owner, text), "{owner} {text}");
        }
    }

    #[test]
    fn processes_with_one_key_accept_each_others_forms() {
        let shared = AccessSettings { session_key: Some(SessionKey::new("k".repeat(32))), ..AccessSettings::default() };
        let (here, there) = (Sessions::default(), Sessions::default());
        assert!(there.is_form_token(&shared, "anybody", &here.form_token(&shared, "anybody")));
        let own = AccessSettings::default();
        assert!(!there.is_form_token(&own, "anybody", &here.form_token(&own, "anybody")));
    }
}
