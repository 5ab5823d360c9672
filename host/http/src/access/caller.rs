//! Who sends a request: a name that is proven, and the rights that come with it.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use outbox_store::{Filter, Redaction};

use crate::access::rights::{Right, Rights};
use crate::access::tokens::NamedToken;
use crate::problem::ApiError;

/// The actor of a request that names nobody, on a host without tokens. No token can have this name, because of the
/// parentheses.
const NO_NAME: &str = "http (no name)";

/// The sender of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Its name; `None` when the host asks no caller for a name.
    name: Option<String>,
    rights: Rights,
    /// The cookie of the session that identified it.
    session: Option<String>,
}

impl Caller {
    /// Anybody, on a host that asks nobody for a name.
    pub(crate) fn anybody() -> Self {
        Self { rights: Rights::all(), ..Self::default() }
    }

    /// A caller with a name that is proven.
    pub(crate) fn named(name: &str, rights: Rights) -> Self {
        Self { name: Some(name.to_owned()), rights, session: None }
    }

    /// Whoever has the token.
    pub(crate) fn with_token(token: &NamedToken) -> Self {
        Self::named(&token.name, token.rights())
    }

    /// Whoever has the token, in the session of this cookie.
    pub(crate) fn in_session(token: &NamedToken, cookie: &str) -> Self {
        Self { session: Some(cookie.to_owned()), ..Self::with_token(token) }
    }

    /// The cookie of the session that identified the caller.
    pub(crate) fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// The name that is proven.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether the caller has the right.
    pub(crate) fn may(&self, right: Right) -> bool {
        self.rights.has(right)
    }

    /// Errors with [`ApiError::Forbidden`] unless the caller has the right.
    pub(crate) fn require(&self, right: Right) -> Result<(), ApiError> {
        if self.may(right) {
            return Ok(());
        }
        Err(ApiError::Forbidden { right, caller: self.name.clone().unwrap_or_default() })
    }

    /// Errors unless the caller may find items by these conditions. Who may not read what items contain may not search
    /// for it either, and nobody for what is hidden from all: each answer would tell a part of it.
    pub(crate) fn require_to_search(&self, filter: &Filter, redaction: &Redaction) -> Result<(), ApiError> {
        if filter.reads_content() || filter.error.is_some() {
            self.require(Right::ReadPayload)?;
        }
        let hidden = |condition| {
            let why = "asks for what OUTBOX_REDACT may hide: leave it out, or use `outbox list` at the database";
            Err(ApiError::Invalid(format!("{condition} {why}")))
        };
        redaction.hidden_condition(filter).map_or(Ok(()), hidden)
    }

    /// The actor of the audit trail: the proven name. Without one, what the caller claims to be, marked as a claim, or
    /// [`NO_NAME`]. Nobody can claim a name beside a proven one.
    pub(crate) fn actor(&self, claim: Option<String>) -> String {
        match (&self.name, claim.filter(|claim| !claim.is_empty())) {
            (Some(name), _) => name.clone(),
            (None, Some(claim)) => format!("{claim} (claimed)"),
            (None, None) => NO_NAME.to_owned(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    /// The caller that [`identify`](crate::access::identify) found. One that it did not see has no rights.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::rights::Role;

    #[test]
    fn a_proven_name_is_the_actor_whatever_is_claimed() {
        let ada = Caller::named("ada", Role::Operate.rights());
        let claim = |text: &str| Some(text.to_owned());
        assert_eq!([ada.actor(None), ada.actor(claim("bob"))], ["ada", "ada"]);
        let anybody = Caller::anybody();
        let actors = [anybody.actor(None), anybody.actor(claim("")), anybody.actor(claim("bob"))];
        assert_eq!(actors, ["http (no name)", "http (no name)", "bob (claimed)"]);
    }

    #[test]
    fn who_may_not_read_content_may_not_search_for_it() {
        let (reader, admin) = (Caller::named("r", Role::Read.rights()), Caller::named("a", Role::Admin.rights()));
        let condition = || vec!["order=17".parse().unwrap()];
        for filter in [
            Filter { payload: condition(), ..Filter::default() },
            Filter { headers: condition(), ..Filter::default() },
            Filter { metadata: condition(), ..Filter::default() },
            Filter { error: Some("17".into()), ..Filter::default() },
            Filter { text: Some("17".into()), ..Filter::default() },
        ] {
            assert!(admin.require_to_search(&filter, &Redaction::default()).is_ok());
            let refused = reader.require_to_search(&filter, &Redaction::default()).unwrap_err().to_string();
            assert!(refused.contains("read-payload"), "{refused}");
        }
        let of_cid = Filter { cid: Some("c".into()), ..Filter::default() };
        assert!(reader.require_to_search(&of_cid, &Redaction::default()).is_ok());
    }

    #[test]
    fn nobody_may_search_for_what_is_hidden_from_all() {
        let (admin, hidden) = (Caller::named("a", Role::Admin.rights()), "card.number".parse().unwrap());
        let with = |condition: &str| Filter { payload: vec![condition.parse().unwrap()], ..Filter::default() };
        assert!(admin.require_to_search(&with("order=17"), &hidden).is_ok());
        for (filter, named) in [
            (with("card.number=4111"), "payload=card.number=4111"),
            (Filter { text: Some("4111".into()), ..Filter::default() }, "text"),
        ] {
            let refused = admin.require_to_search(&filter, &hidden).unwrap_err().to_string();
            assert!(refused.starts_with(named) && refused.contains("OUTBOX_REDACT"), "{refused}");
        }
    }
}
