//! A request for a view: who sends it, from where, and what it needs of the host.

use std::sync::Arc;

use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};

use outbox_item::Millis;

use crate::access::{Caller, form_owner};
use crate::answers::Sight;
use crate::glance::Glance;
use crate::page::content::plain;
use crate::page::frame::{Frame, Tab};
use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::state::HttpSettings;

/// A request for a view.
pub(super) struct Visit {
    pub(super) state: Arc<ServerState>,
    pub(super) settings: Arc<HttpSettings>,
    pub(super) caller: Caller,
    pub(super) headers: HeaderMap,
    pub(super) uri: Uri,
    /// When it came.
    pub(super) now: Millis,
}

impl FromRequestParts<Arc<ServerState>> for Visit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ServerState>) -> Result<Self, ApiError> {
        let Ok(caller) = Caller::from_request_parts(parts, state).await;
        let now = state.clock.now(&*state.inspect).await?;
        let (state, settings) = (Arc::clone(state), state.settings());
        Ok(Self { state, settings, caller, headers: parts.headers.clone(), uri: parts.uri.clone(), now })
    }
}

impl Visit {
    /// The frame of a view with this title.
    pub(super) fn frame(&self, title: &str, here: Tab) -> Frame {
        let owner = form_owner(&self.caller);
        Frame {
            has_session: self.caller.session().is_some(),
            form_token: self.state.sessions.form_token(&self.settings.access, &owner, self.now),
            ..Frame::bare(title, &self.uri, &self.settings).with_caller(&self.caller, here)
        }
    }

    /// The same, of a view that refreshes itself.
    pub(super) fn live_frame(&self, title: &str, here: Tab) -> Frame {
        Frame { is_live: true, ..self.frame(title, here) }
    }

    /// The state of the outbox, a second old at most.
    pub(super) async fn glance(&self) -> Result<Arc<Glance>, ApiError> {
        let served = (self.state.status)().served_types;
        Ok(self.state.glances.newest(&*self.state.inspect, &served).await?)
    }

    /// What the caller may see.
    pub(super) fn sight(&self) -> Sight {
        Sight::of(&self.caller, &self.settings)
    }
}

/// An answer that leads a browser to another address, which is relative to that of the request.
pub(super) fn go_to(address: &str) -> Result<Response, ApiError> {
    let address = address.parse::<HeaderValue>().map_err(|_| ApiError::Internal)?;
    Ok((StatusCode::SEE_OTHER, [(LOCATION, address)]).into_response())
}

/// The view as an answer. Characters that a browser would hide or obey are shown as escapes, in texts of anybody.
pub(super) fn shown(view: &impl Template) -> Result<Response, ApiError> {
    match view.render() {
        Ok(text) => Ok(Html(plain(&text)).into_response()),
        Err(err) => {
            tracing::error!(error = %err, "a view cannot be rendered");
            Err(ApiError::Internal)
        }
    }
}
