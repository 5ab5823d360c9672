//! `POST /login` and `POST /logout`: a person exchanges a token for a cookie, which the scripts of a page cannot read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ORIGIN, SET_COOKIE};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use outbox_item::{JSON, Millis};

use crate::access::address::{PeerAddress, client};
use crate::access::caller::Caller;
use crate::access::gate::{SESSION_COOKIE, TLS_SESSION_COOKIE, check_page, checked, session_cookies};
use crate::access::rights::Right;
use crate::access::sessions::NewSession;
use crate::access::tokens::NamedToken;
use crate::body::{self, BodyResult, FORM};
use crate::description::UnixMillis;
use crate::problem::ApiError;
use crate::server_state::ServerState;

/// The largest body of a log-in, in bytes: anybody may send one.
pub(crate) const LOGIN_MAX: usize = 4096;

/// The body of a log-in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginBody {
    /// The token.
    token: String,
}

/// The answer to a log-in.
#[derive(Serialize, ToSchema)]
pub(crate) struct LoginAnswer {
    /// The name of the token, under which the audit trail records what the caller does.
    name: String,
    /// Its role.
    #[schema(value_type = String)]
    role: &'static str,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    rights: Vec<&'static str>,
    /// When the session ends.
    #[schema(value_type = UnixMillis)]
    expires_at: Millis,
}

/// Exchange a token for the cookie of a session
#[utoipa::path(post, path = "/login", operation_id = "login", tag = "callers",
    request_body(content((LoginBody = "application/json"), (LoginBody = "application/x-www-form-urlencoded"))),
    responses((status = 200, description = "The session has begun", body = LoginAnswer,
        headers(("Set-Cookie" = String, description = "The cookie of the session")))))]
pub(crate) async fn login(
    State(state): State<Arc<ServerState>>,
    extensions: Extensions,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let entry = Entry { headers: &headers, extensions: &extensions, uri: &uri };
    check_entry(&state, &entry)?;
    let LoginBody { token } = parse(&headers, body)?;
    let begun = begin_session(&state, &entry, &token).await?;
    let answer = Json(answer(&begun.token, begun.session.expires_at)).into_response();
    Ok(begun.with_cookie(answer, &headers))
}

/// A request of somebody who wants to log in.
pub(crate) struct Entry<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
    pub(crate) uri: &'a Uri,
}

/// A session that has begun.
pub(crate) struct Begun {
    token: NamedToken,
    session: NewSession,
    seconds: u64,
}

impl Begun {
    /// The caller in the session.
    pub(crate) fn caller(&self) -> Caller {
        Caller::in_session(&self.token, &self.session.cookie)
    }

    /// The answer with the cookie of the session.
    pub(crate) fn with_cookie(&self, answer: Response, headers: &HeaderMap) -> Response {
        with_cookie(answer, &self.session.cookie, self.seconds, headers)
    }
}

/// Errors when a page of another site wants to log somebody in, or when this host has no tokens.
pub(crate) fn check_entry(state: &ServerState, entry: &Entry<'_>) -> Result<(), ApiError> {
    check_page(entry.headers, entry.uri)?;
    if state.settings().access.tokens.is_empty() {
        return Err(ApiError::Invalid("this host has no tokens, so there is nothing to log in with".into()));
    }
    Ok(())
}

/// Begins a session of whoever has the token.
pub(crate) async fn begin_session(state: &ServerState, entry: &Entry<'_>, token: &str) -> Result<Begun, ApiError> {
    let settings = state.settings();
    let access = &settings.access;
    let address = client(access, entry.headers, PeerAddress::of(entry.extensions));
    let token = checked(state, access, token.as_bytes(), address).await?;
    tracing::info!(token = token.name, %address, "a session begins");
    let now = state.clock.now(&*state.inspect).await?;
    let session = state.sessions.begin(access, token, now);
    let seconds = session.expires_at.since(now).as_secs();
    Ok(Begun { token: token.clone(), session, seconds })
}

/// End the session
#[utoipa::path(post, path = "/logout", operation_id = "logout", tag = "callers",
    responses((status = 204, description = "There is no session any more",
        headers(("Set-Cookie" = String, description = "Removes the cookie of the session")))))]
pub(crate) async fn logout(
    State(state): State<Arc<ServerState>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    end_session(&state, &headers, &uri).await?;
    Ok(without_cookies(StatusCode::NO_CONTENT.into_response()))
}

/// Ends the sessions of the cookies, if there are any.
pub(crate) async fn end_session(state: &ServerState, headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    check_page(headers, uri)?;
    for cookie in session_cookies(headers) {
        state.sessions.end(&state.settings().access, cookie, state.clock.now(&*state.inspect).await?);
    }
    Ok(())
}

fn parse(headers: &HeaderMap, body: BodyResult) -> Result<LoginBody, ApiError> {
    let body = body.map_err(|err| match err {
        ApiError::TooLarge { .. } => ApiError::TooLarge { limit: LOGIN_MAX },
        other => other,
    });
    match body::media_type(headers).as_str() {
        JSON => serde_json::from_slice(&body::read(body)?).map_err(ApiError::invalid_json("the log-in")),
        FORM => serde_urlencoded::from_bytes(&body::read(body)?)
            .map_err(|_| ApiError::Invalid("the form has one field, `token`".into())),
        given => {
            let accepted = "application/json, or application/x-www-form-urlencoded for a form";
            Err(ApiError::WrongContentType { given: given.to_owned(), accepted })
        }
    }
}

fn answer(token: &NamedToken, expires_at: Millis) -> LoginAnswer {
    let rights = Right::ALL.into_iter().filter(|right| token.rights().has(*right)).map(Right::as_str).collect();
    LoginAnswer { name: token.name.clone(), role: token.role.as_str(), rights, expires_at }
}

/// The cookie goes to this host only, never along with a request that another site causes, and, once the log-in came by
/// TLS, only by TLS.
fn with_cookie(answer: Response, value: &str, seconds: u64, headers: &HeaderMap) -> Response {
    let begins = |name: &str, prefix: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|text| text.starts_with(prefix))
    };
    let is_tls = begins(ORIGIN.as_str(), "https://") || begins("x-forwarded-proto", "https");
    let name = if is_tls { TLS_SESSION_COOKIE } else { SESSION_COOKIE };
    setting(answer, name, value, seconds)
}

/// The answer that removes the cookies of sessions, whether they began by TLS or not.
pub(crate) fn without_cookies(answer: Response) -> Response {
    [SESSION_COOKIE, TLS_SESSION_COOKIE].into_iter().fold(answer, |answer, name| setting(answer, name, "", 0))
}

fn setting(mut answer: Response, name: &str, value: &str, seconds: u64) -> Response {
    let secure = if name == TLS_SESSION_COOKIE { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
    answer
}
