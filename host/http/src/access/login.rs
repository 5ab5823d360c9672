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
use crate::access::gate::{SESSION_COOKIE, TLS_SESSION_COOKIE, check_same_origin, checked, session_cookie};
use crate::access::rights::Right;
use crate::access::tokens::NamedToken;
use crate::body::{self, BodyResult};
use crate::description::UnixMillis;
use crate::problem::ApiError;
use crate::server_state::ServerState;

/// The largest body of a log-in, in bytes: anybody may send one.
pub(crate) const LOGIN_MAX: usize = 4096;

/// The media type of a form of a page.
const FORM: &str = "application/x-www-form-urlencoded";

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
    check_page(&headers, &uri)?;
    let settings = state.settings();
    let access = &settings.access;
    if access.tokens.is_empty() {
        return Err(ApiError::Invalid("this host has no tokens, so there is nothing to log in with".into()));
    }
    let address = client(access, &headers, PeerAddress::of(&extensions));
    let LoginBody { token } = parse(&headers, body)?;
    let token = checked(&state, access, token.as_bytes(), address).await?;
    tracing::info!(token = token.name, %address, "a session begins");
    let now = state.clock.now(&*state.inspect).await?;
    let session = state.sessions.begin(access, token, now);
    let seconds = session.expires_at.since(now).as_secs();
    let answer = Json(answer(token, session.expires_at)).into_response();
    Ok(with_cookie(answer, &session.cookie, seconds, &headers))
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
    check_page(&headers, &uri)?;
    if let Some(cookie) = session_cookie(&headers) {
        state.sessions.end(&state.settings().access, cookie, state.clock.now(&*state.inspect).await?);
    }
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), "", 0, &headers))
}

/// A page of another site must not log anybody in or out. A program that is no browser says nothing of a site.
fn check_page(headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let is_browser = headers.contains_key("sec-fetch-site") || headers.contains_key(ORIGIN);
    if is_browser { check_same_origin(headers, uri) } else { Ok(()) }
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
fn with_cookie(mut answer: Response, value: &str, seconds: u64, headers: &HeaderMap) -> Response {
    let begins = |name: &str, prefix: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|text| text.starts_with(prefix))
    };
    let is_tls = begins(ORIGIN.as_str(), "https://") || begins("x-forwarded-proto", "https");
    let (name, secure) = if is_tls { (TLS_SESSION_COOKIE, "; Secure") } else { (SESSION_COOKIE, "") };
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    answer
}
