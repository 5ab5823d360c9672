//! The operator's settings of who may do what.
//!
//! Holds data only. Does not know where the settings come from.

use std::net::IpAddr;

use axum::http::HeaderName;
use ipnet::IpNet;

use outbox_item::Millis;

use crate::access::rights::Role;
use crate::access::tokens::NamedToken;

/// Who may do what. The default lets everybody do everything who names this machine as its own ([`HttpSettings::hosts`]).
///
/// [`HttpSettings::hosts`]: crate::HttpSettings::hosts
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// The tokens of callers, also those that have expired.
    pub tokens: Vec<NamedToken>,
    /// `OUTBOX_TRUST_PROXIES`: the addresses of proxies, whose headers about a caller are believed.
    pub proxies: Vec<IpNet>,
    /// `OUTBOX_TRUST_PROXY_USER` and `OUTBOX_TRUST_PROXY_ROLE`: callers that a proxy names.
    pub proxy_users: Option<ProxyUsers>,
    /// `OUTBOX_SESSION_KEY`: signs the cookies of sessions, so that all processes with it accept them. Without it each
    /// process has a random key of its own.
    pub session_key: Option<SessionKey>,
}

/// Callers that a trusted proxy has identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUsers {
    /// The header in which the proxy names the caller.
    pub header: HeaderName,
    /// What these callers may do.
    pub role: Role,
}

impl AccessSettings {
    /// Settings with one token that may do everything.
    pub fn with_admin(token: &str) -> Self {
        Self { tokens: vec![NamedToken::admin(token)], ..Self::default() }
    }

    /// Whether callers must say who they are.
    pub fn is_closed(&self) -> bool {
        !self.tokens.is_empty() || self.proxy_users.is_some()
    }

    /// The tokens that are refused at the store's time `now`.
    pub fn expired(&self, now: Millis) -> impl Iterator<Item = &NamedToken> {
        self.tokens.iter().filter(move |token| token.is_expired(now))
    }

    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|range| range.contains(&address))
    }
}

/// A key that signs cookies. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey(Vec<u8>);

impl SessionKey {
    /// The key with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// A new key, from the system's random numbers.
    pub fn random() -> Self {
        // A UUID has 122 random bits.
        Self([uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(uuid::Uuid::into_bytes).concat())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(hidden)")
    }
}
