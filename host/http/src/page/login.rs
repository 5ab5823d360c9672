//! The way in and out for people: the page on which a token is given, and what its forms do.
//!
//! Sessions are begun and ended by the code of `POST /login` and `POST /logout`.

use askama::Template;
use axum::http::header::{LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Extensions, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::access::login::{Entry, begin_session, check_entry, end_session, without_cookies};
use crate::access::{session_cookie, session_owner};
use crate::body::BodyResult;
use crate::page::form;
use crate::page::frame::Frame;
use crate::page::visit::{Visit, shown};
use crate::problem::{ApiError, ToldProblem};
use crate::state::HttpSettings;

/// The page on which a token is given.
#[derive(Template)]
#[template(path = "login.html")]
pub(super) struct LoginPage {
    frame: Frame,
    /// Where the person wanted to go: a path below the root of the host, without its first slash.
    next: String,
    /// What was wrong with the token.
    wrong: Option<String>,
    /// Whether a form led here, which was not carried out.
    is_after_form: bool,
}

impl LoginPage {
    /// The page in place of one that needs a caller.
    pub(super) fn after(problem: &ToldProblem, (uri, is_view): (&Uri, bool), settings: &HttpSettings) -> Self {
        let address = uri.path_and_query().filter(|_| is_view).map_or("", |path| path.as_str());
        let wanted = address.trim_start_matches('/');
        let wrong = (problem.is_about_a_token).then(|| problem.detail.clone());
        Self { frame: Frame::bare("Log in", uri, settings), next: accepted(wanted), wrong, is_after_form: !is_view }
    }
}

/// The path, if it leads to a page of the cockpit; the overview otherwise.
fn accepted(next: &str) -> String {
    let rest = next.strip_prefix("cockpit");
    let is_page = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let hides_a_step = ["%2e", "%2f", "%5c"].iter().any(|code| next.to_ascii_lowercase().contains(code));
    let is_plain = !hides_a_step
        && next.bytes().all(|byte| byte.is_ascii_graphic())
        && !next.contains("..")
        && !next.contains('\\');
    let leads_back = rest.is_some_and(|rest| rest.starts_with("/login") || rest.starts_with("/logout"));
    if is_page && is_plain && !leads_back { next.to_owned() } else { "cockpit".to_owned() }
}

/// An answer that leads a browser to another address, which is relative to that of the request.
pub(super) fn go_to(address: &str) -> Result<Response, ApiError> {
    let address = address.parse::<axum::http::HeaderValue>().map_err(|_| ApiError::Internal)?;
    Ok((StatusCode::SEE_OTHER, [(LOCATION, address)]).into_response())
}

/// Leads to the overview.
pub(super) async fn to_cockpit(uri: Uri) -> Result<Response, ApiError> {
    go_to(if uri.path() == "/" { "cockpit" } else { "../cockpit" })
}

/// Exchanges the token of the form for a session.
pub(super) async fn log_in(visit: Visit, extensions: Extensions, body: BodyResult) -> Result<Response, ApiError> {
    let entry = Entry { headers: &visit.headers, extensions: &extensions, uri: &visit.uri };
    check_entry(&visit.state, &entry)?;
    let fields = form::fields(&visit.headers, body)?;
    let field = |name: &str| fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
    let next = accepted(field("next"));
    match begin_session(&visit.state, &entry, field("token").trim()).await {
        Ok(begun) => Ok(begun.with_cookie(go_to(&format!("../{next}"))?, &visit.headers)),
        Err(err @ (ApiError::Unauthorized(_) | ApiError::TooManyAttempts { .. })) => {
            let frame = Frame::bare("Log in", &visit.uri, &visit.settings);
            let page = shown(&LoginPage { frame, next, wrong: Some(err.to_string()), is_after_form: false })?;
            let mut page = (err.status(), page).into_response();
            for (name, value) in err.into_response().headers() {
                if *name == WWW_AUTHENTICATE || *name == RETRY_AFTER {
                    page.headers_mut().insert(name, value.clone());
                }
            }
            Ok(page)
        }
        Err(err) => Err(err),
    }
}

/// Ends the session. Its form is one of a page of that session.
pub(super) async fn log_out(visit: Visit, body: BodyResult) -> Result<Response, ApiError> {
    if let Some(cookie) = session_cookie(&visit.headers) {
        let fields = form::fields(&visit.headers, body)?;
        let given = fields.iter().find(|(name, _)| name == form::TOKEN).map_or("", |(_, value)| value.as_str());
        if !visit.state.sessions.is_form_token(&visit.settings.access, &session_owner(cookie), given) {
            return Err(ApiError::CrossSite);
        }
    }
    end_session(&visit.state, &visit.headers, &visit.uri).await?;
    Ok(without_cookies(go_to("../cockpit")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_leads_to_pages_of_the_cockpit_only() {
        for page in ["cockpit", "cockpit/items?status=DLQ", "cockpit?x=1"] {
            assert_eq!(accepted(page), page);
        }
        for other in [
            "",
            "//evil.example",
            "https://evil.example",
            "cockpits",
            "cockpit/../x",
            "cockpit/\\x",
            "cockpit/%2E%2e/x",
            "cockpit/login",
            "cockpit/a b",
        ] {
            assert_eq!(accepted(other), "cockpit", "{other}");
        }
    }
}
