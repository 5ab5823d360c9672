//! What every answer of the pages gets on its way out: the headers that protect it, a page in place of a problem where a
//! browser asks, and compression.
//!
//! An answer that another site made a browser ask for is not compressed: its length could tell that site a secret of the
//! page beside what the site chose (BREACH). The token of forms looks different in every answer besides.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};

use crate::access::{Caller, Right};
use crate::page::compression::{accepts_gzip, compressed};
use crate::page::content::plain;
use crate::page::form::is_from_elsewhere;
use crate::page::frame::{Frame, Tab};
use crate::page::kept::KeptForm;
use crate::page::login::{LoginPage, WantedPage};
use crate::problem::ToldProblem;
use crate::server_state::ServerState;
use crate::state::HttpSettings;

/// What a page may load and do: files of this host, and forms to it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Middleware of all routes: dresses the answers of the pages, and passes on all others.
pub(crate) async fn dress(State(state): State<Arc<ServerState>>, request: Request, next: Next) -> Response {
    if !is_page(request.uri().path()) {
        return next.run(request).await;
    }
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let is_view = request.method().is_safe();
    let mut answer = next.run(request).await;
    if let Some(problem) = answer.extensions_mut().remove::<ToldProblem>()
        && wants_page(&headers)
    {
        let settings = state.settings();
        let sent = KeptForm::of_refused(&mut answer, (&uri, &headers), settings.body_timeout).await;
        let asked = if is_view { WantedPage::View(&uri) } else { WantedPage::Form(&uri, sent) };
        answer = page_of(answer, &problem, asked, &settings);
    }
    protect(answer.headers_mut(), uri.path());
    if accepts_gzip(&headers) && !is_from_elsewhere(&headers) { compressed(answer).await } else { answer }
}

fn is_page(path: &str) -> bool {
    path == "/" || path == "/cockpit" || path.starts_with("/cockpit/")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn wants_page(headers: &HeaderMap) -> bool {
    text(headers, &ACCEPT).contains("text/html")
}

/// The problem as a page, with the status and the headers of the answer.
fn page_of(answer: Response, problem: &ToldProblem, wanted: WantedPage<'_>, settings: &HttpSettings) -> Response {
    let uri = wanted.uri();
    let page = if problem.word == "unauthorized" && !settings.access.tokens.is_empty() {
        LoginPage::after(problem, wanted, settings).render()
    } else {
        let frame = Frame::bare(title(problem), uri, settings);
        let frame = match answer.extensions().get::<Caller>() {
            Some(caller) if caller.may(Right::Read) => frame.with_caller(caller, Tab::None),
            _ => frame,
        };
        ProblemPage { frame, title: title(problem), problem, advice: advice(problem.word) }.render()
    };
    let Ok(page) = page else { return answer };
    let mut page = (answer.status(), Html(plain(&page))).into_response();
    for (name, value) in answer.headers() {
        if *name != CONTENT_TYPE && *name != CONTENT_LENGTH {
            page.headers_mut().append(name, value.clone());
        }
    }
    page
}

/// A problem, as a person reads it.
#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    title: &'static str,
    problem: &'a ToldProblem,
    advice: &'static str,
}

/// What a person calls the problem.
fn title(problem: &ToldProblem) -> &'static str {
    match problem.word {
        "invalid-request" | "invalid-json" | "invalid-item" => "This request cannot be carried out",
        "forbidden" => "You may not do this",
        "cross-site" => "This form is not valid any more",
        "expired-form" => "This form is too old",
        "refused" => "The item cannot take this",
        "conflict" => "The key is taken",
        "no-item" => "There is no such item",
        "no-job" => "There is no such job",
        "no-route" => "There is nothing here",
        "unknown-name" => "Nothing has this name",
        "store-unavailable" => "The store does not answer",
        "too-many-pending" => "Too many items wait",
        _ => problem.title,
    }
}

/// What a person does about a problem.
fn advice(word: &str) -> &'static str {
    match word {
        "forbidden" => "Nothing was changed. Log out, and log in with a token that has the right.",
        "cross-site" => {
            "Nothing was changed. A form is valid for the session in which its page was opened: open the page again, \
             and send it from there."
        }
        "expired-form" => "Nothing was changed. Open the page again, and send the form from there.",
        "store-unavailable" | "internal" => "Try again. If it stays so, the log of this host says more.",
        "no-item" | "no-job" | "no-route" => "It may have been deleted, or the address is misspelt.",
        _ => "Nothing was changed.",
    }
}

fn protect(headers: &mut HeaderMap, path: &str) {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    // The files of the pages are the same for everybody.
    let is_file = path.starts_with("/cockpit/assets/");
    let varies = if is_file { "accept-encoding" } else { "accept, accept-encoding, cookie" };
    headers.append(VARY, HeaderValue::from_static(varies));
}
