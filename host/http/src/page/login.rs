//! The way in and out for people: the page on which a token is given, and what its forms do.
//!
//! Sessions are begun and ended by the code of `POST /login` and `POST /logout`.

use askama::Template;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Extensions, Uri};
use axum::response::{IntoResponse, Response};

use crate::access::login::{Entry, begin_session, check_entry, end_session, without_cookies};
use crate::access::{FormProof, session_cookie, session_owner};
use crate::body::BodyResult;
use crate::page::form;
use crate::page::frame::Frame;
use crate::page::kept::{ENCODED_MAX, KeptForm};
use crate::page::visit::{Visit, go_to, shown};
use crate::page::{act, anew, controls};
use crate::problem::{ApiError, ToldProblem};
use crate::state::HttpSettings;

/// The largest body of a log-in, in bytes: anybody may send one.
pub(super) const LOGIN_MAX: usize = crate::access::login::LOGIN_MAX + ENCODED_MAX;

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
    /// That form, which is shown again after the log-in.
    kept: Option<KeptForm>,
}

/// What somebody without a session asked for.
pub(super) enum WantedPage<'a> {
    /// A view.
    View(&'a Uri),
    /// What a form does, with the form if it can be shown again.
    Form(&'a Uri, Option<KeptForm>),
}

impl WantedPage<'_> {
    /// The address.
    pub(super) fn uri(&self) -> &Uri {
        match self {
            Self::View(uri) | Self::Form(uri, _) => uri,
        }
    }
}

impl LoginPage {
    /// The page in place of one that needs a caller.
    pub(super) fn after(problem: &ToldProblem, wanted: WantedPage<'_>, settings: &HttpSettings) -> Self {
        let wrong = (problem.is_about_a_token).then(|| problem.detail.clone());
        let frame = Frame::bare("Log in", wanted.uri(), settings);
        let (next, is_after_form, kept) = match wanted {
            WantedPage::View(uri) => (uri.path_and_query().map_or("", |path| path.as_str()), false, None),
            WantedPage::Form(_, kept) => ("", true, kept),
        };
        Self { frame, next: accepted(next.trim_start_matches('/')), wrong, is_after_form, kept }
    }

    /// The page again, because of this token.
    fn again(visit: &Visit, next: String, kept: Option<KeptForm>, wrong: &ApiError) -> Self {
        let frame = Frame::bare("Log in", &visit.uri, &visit.settings);
        Self { frame, next, wrong: Some(wrong.to_string()), is_after_form: kept.is_some(), kept }
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

/// Leads to the overview.
pub(super) async fn to_cockpit(uri: Uri) -> Result<Response, ApiError> {
    go_to(if uri.path() == "/" { "cockpit" } else { "../cockpit" })
}

/// Exchanges the token of the form for a session.
pub(super) async fn log_in(visit: Visit, extensions: Extensions, body: BodyResult) -> Result<Response, ApiError> {
    let entry = Entry { headers: &visit.headers, extensions: &extensions, uri: &visit.uri };
    check_entry(&visit.state, &entry)?;
    let fields = form::fields(&visit.headers, body)?;
    let (next, kept) = (accepted(fields.get("next").unwrap_or_default()), KeptForm::of_login(&fields));
    match begin_session(&visit.state, &entry, fields.get("token").unwrap_or_default()).await {
        Ok(begun) => {
            let headers = visit.headers.clone();
            let visit = Visit { caller: begun.caller(), ..visit };
            Ok(begun.with_cookie(led_back(&visit, &next, kept).await.into_response(), &headers))
        }
        Err(err @ (ApiError::Unauthorized(_) | ApiError::TooManyAttempts { .. })) => {
            refused(&LoginPage::again(&visit, next, kept, &err), err)
        }
        Err(err) => Err(err),
    }
}

/// The page of the log-in, with the status and the headers of the refusal.
fn refused(page: &LoginPage, err: ApiError) -> Result<Response, ApiError> {
    let mut answer = (err.status(), shown(page)?).into_response();
    for (name, value) in err.into_response().headers() {
        if *name == WWW_AUTHENTICATE || *name == RETRY_AFTER {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    Ok(answer)
}

/// Leads to where the person wanted to go: to a view, or to the page of a form, with what was typed there. The form is not
/// carried out.
async fn led_back(visit: &Visit, next: &str, kept: Option<KeptForm>) -> Result<Response, ApiError> {
    let Some(kept) = kept else { return go_to(&format!("../{next}")) };
    let (path, fields) = (accepted(&kept.path), kept.fields());
    match path.split('/').collect::<Vec<_>>()[..] {
        ["cockpit", "items", id, "anew"] => anew::again(visit, id, &fields).await,
        ["cockpit", "items", id, "try"] => go_to(&format!("items/{id}")),
        ["cockpit", "act", word] => go_to(&format!("act/{word}?{}", act::again(&fields))),
        ["cockpit", "control", word] => go_to(&format!("control/{word}?{}", controls::again(&fields))),
        _ => go_to("../cockpit"),
    }
}

/// Ends the session. Its form is one of a page of that session.
pub(super) async fn log_out(visit: Visit, body: BodyResult) -> Result<Response, ApiError> {
    if let Some(cookie) = session_cookie(&visit.headers) {
        let fields = form::fields(&visit.headers, body)?;
        let given = fields.get(form::TOKEN).unwrap_or_default();
        // A form that is too old ends a session too.
        let (access, owner) = (&visit.settings.access, session_owner(cookie));
        if visit.state.sessions.check_form_token(access, &owner, given, visit.now) == FormProof::Foreign {
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
