//! Sessions of people: signed cookies, so that no process has to remember who has logged in.
//!
//! A cookie names a token and an end. Its signature covers both and the digest of the token, so a session ends with its
//! token. The key of the signature is no part of what is stored about tokens: who reads the digests can sign nothing.
//! This file knows no HTTP.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use outbox_core::hex;
use outbox_item::Millis;

use crate::access::settings::{AccessSettings, SessionKey};
use crate::access::tokens::NamedToken;

/// How long a session lasts: a working day.
const LENGTH: Duration = Duration::from_hours(12);

/// Sessions whose end by a log-out is remembered. The oldest are forgotten first.
const ENDED_MAX: usize = 10_000;

/// What signs sessions, and which of them were logged out.
pub(crate) struct Sessions {
    /// Signs where the operator gives no key.
    key: SessionKey,
    /// The sessions that were logged out before their end, by their ends.
    ended: Mutex<BTreeSet<(Millis, String)>>,
}

/// A session that begins.
pub(crate) struct NewSession {
    /// The value of its cookie.
    pub(crate) cookie: String,
    /// When it ends.
    pub(crate) expires_at: Millis,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { key: SessionKey::random(), ended: Mutex::default() }
    }
}

impl Sessions {
    /// A session of whoever has the token. It ends with the token.
    pub(crate) fn begin(&self, settings: &AccessSettings, token: &NamedToken, now: Millis) -> NewSession {
        let latest = now.saturating_add(LENGTH);
        let expires_at = token.expires_at.map_or(latest, |at| at.min(latest));
        let signature = self.signature(settings, token, expires_at);
        NewSession { cookie: format!("{expires_at}.{signature}.{}", token.name), expires_at }
    }

    /// The token of the session; `None` when the session has ended, or its token, or nobody here signed it.
    pub(crate) fn token<'a>(&self, settings: &'a AccessSettings, cookie: &str, now: Millis) -> Option<&'a NamedToken> {
        let (expires_at, signature, name) = parts(cookie)?;
        let is_over = expires_at <= now || self.is_ended(expires_at, signature);
        let of_name = settings.tokens.iter().filter(|token| token.name == name && !token.is_expired(now));
        let signed = |token: &&NamedToken| {
            self.signature(settings, token, expires_at).as_bytes().ct_eq(signature.as_bytes()).into()
        };
        of_name.filter(|_| !is_over).find(signed)
    }

    /// Ends the session in this process. What is no session is not remembered, so nobody fills the memory with it.
    pub(crate) fn end(&self, settings: &AccessSettings, cookie: &str, now: Millis) {
        let session = parts(cookie).filter(|_| self.token(settings, cookie, now).is_some());
        let Some((expires_at, signature, _)) = session else { return };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|(expires_at, _)| *expires_at > now);
        if ended.len() >= ENDED_MAX {
            ended.pop_first();
        }
        ended.insert((expires_at, signature.to_owned()));
    }

    fn is_ended(&self, expires_at: Millis, signature: &str) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.contains(&(expires_at, signature.to_owned()))
    }

    fn signature(&self, settings: &AccessSettings, token: &NamedToken, expires_at: Millis) -> String {
        let named = format!("outbox session\n{}\n{expires_at}\n", token.name);
        hex(&self.sign(settings, &[named.as_bytes(), token.digest.bytes()]))
    }

    /// The signature of these bytes, one part after the other.
    pub(super) fn sign(&self, settings: &AccessSettings, parts: &[&[u8]]) -> [u8; 32] {
        let key = settings.session_key.as_ref().unwrap_or(&self.key);
        let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("a key of any length signs");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The end, the signature and the name.
fn parts(cookie: &str) -> Option<(Millis, &str, &str)> {
    let (expires_at, rest) = cookie.split_once('.')?;
    let (signature, name) = rest.split_once('.')?;
    Some((expires_at.parse().ok()?, signature, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis::new(1_800_000_000_000);

    fn settings() -> AccessSettings {
        let ada = NamedToken { name: "ada.l".into(), ..NamedToken::admin("s3cret") };
        let soon = NamedToken {
            name: "bob".into(),
            expires_at: Some(NOW.saturating_add(Duration::from_secs(5))),
            ..NamedToken::admin("other")
        };
        AccessSettings { tokens: vec![ada, soon], ..AccessSettings::default() }
    }

    fn name(sessions: &Sessions, settings: &AccessSettings, cookie: &str, now: Millis) -> Option<String> {
        sessions.token(settings, cookie, now).map(|token| token.name.clone())
    }

    #[test]
    fn a_session_lasts_for_twelve_hours_or_until_its_token_ends() {
        let (sessions, settings) = (Sessions::default(), settings());
        let [ada, bob] = [0, 1].map(|index| sessions.begin(&settings, &settings.tokens[index], NOW));
        let after = |secs| NOW.saturating_add(Duration::from_secs(secs));
        assert_eq!((ada.expires_at, bob.expires_at), (after(12 * 3_600), after(5)));
        assert_eq!(name(&sessions, &settings, &ada.cookie, after(12 * 3_600 - 1)).as_deref(), Some("ada.l"));
        assert_eq!(name(&sessions, &settings, &bob.cookie, after(4)).as_deref(), Some("bob"));
        assert_eq!(name(&sessions, &settings, &ada.cookie, after(12 * 3_600)), None);
        assert_eq!(name(&sessions, &settings, &bob.cookie, after(5)), None);
    }

    #[test]
    fn a_session_ends_with_its_token_and_by_a_log_out() {
        let (sessions, settings) = (Sessions::default(), settings());
        let session = sessions.begin(&settings, &settings.tokens[0], NOW);
        let without = AccessSettings { tokens: settings.tokens[1..].to_vec(), ..settings.clone() };
        let other = AccessSettings {
            tokens: vec![NamedToken { name: "ada.l".into(), ..NamedToken::admin("new") }],
            ..settings.clone()
        };
        assert_eq!(name(&sessions, &without, &session.cookie, NOW), None);
        assert_eq!(name(&sessions, &other, &session.cookie, NOW), None, "another token of the name");
        sessions.end(&settings, &session.cookie, NOW);
        assert_eq!(name(&sessions, &settings, &session.cookie, NOW), None);
        let forged = format!("{}.{}.ada.l", i64::MAX, "f".repeat(64));
        for other in ["nonsense", &forged] {
            sessions.end(&settings, other, NOW);
        }
        assert_eq!(sessions.ended.lock().unwrap().len(), 1);
    }

    #[test]
    fn processes_with_one_key_accept_each_others_sessions_and_nobody_can_change_one() {
        let (here, there) = (Sessions::default(), Sessions::default());
        let own = settings();
        let shared = AccessSettings { session_key: Some(SessionKey::new("k".repeat(32))), ..settings() };
        let [of_own, of_shared] = [&own, &shared].map(|settings| here.begin(settings, &settings.tokens[1], NOW).cookie);
        assert!(there.token(&own, &of_own, NOW).is_none() && there.token(&shared, &of_shared, NOW).is_some());
        let (end, rest) = of_shared.split_once('.').unwrap();
        let later = format!("{}.{rest}", end.parse::<u64>().unwrap() + 1);
        for forged in [later, of_shared.replace("bob", "ada.l"), of_shared.replace('.', ""), String::new()] {
            assert!(there.token(&shared, &forged, NOW).is_none(), "{forged}");
        }
    }
}
