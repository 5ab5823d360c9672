//! The pages of the cockpit, as a browser without scripts sees and uses them, on both stores.

mod actions;
mod frame;
mod items;
mod kept;
mod overview;
mod trials;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use http_body_util::BodyExt as _;
use outbox::http::{
    AccessSettings, HostStatus, HttpSettings, HttpState, NamedToken, Rights, Role, TokenDigest, Trials, router,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::support::{Backend, Fixture};

/// A host with its pages on a store of its own.
pub(crate) struct Desk {
    pub(crate) fixture: Fixture,
    router: Router,
    pub(crate) stop: CancellationToken,
    /// The cookie of the session, once there is one.
    cookie: Option<String>,
}

pub(crate) fn token(role: Role, more: Rights) -> NamedToken {
    let digest = TokenDigest::of(&format!("{role}-token"));
    NamedToken { name: format!("the-{role}"), role, more, digest, expires_at: None }
}

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Page {
    pub(crate) fn html(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// What a person reads: the text without tags, its white space as single spaces.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for part in self.html().split('<') {
            text.push(' ');
            text.push_str(part.split_once('>').map_or(part, |(_, text)| text));
        }
        let text = text.replace("&#60;", "<").replace("&#62;", ">").replace("&#34;", "\"").replace("&#39;", "'");
        text.replace("&#38;", "&").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The value of the hidden field of a form.
    pub(crate) fn hidden(&self, name: &str) -> String {
        let after = self
            .html()
            .split_once(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("no {name}: {self:?}"));
        after.1.split_once('"').unwrap().0.replace("&#38;", "&").replace("&#34;", "\"")
    }
}

impl Page {
    /// The hidden fields of the last form, which is the one that confirms.
    pub(crate) fn hidden_fields(&self) -> Vec<(String, String)> {
        let form = self.html().rsplit("method=\"post\"").next().unwrap();
        let inputs = form.split("<input type=\"hidden\" name=\"").skip(1);
        let field = |input: &str| {
            let (name, rest) = input.split_once("\" value=\"").unwrap();
            let value = rest.split_once('"').unwrap().0;
            (name.to_owned(), value.replace("&#34;", "\"").replace("&#38;", "&").replace("&#39;", "'"))
        };
        inputs.map(field).collect()
    }
}

fn host(
    fixture: &Fixture,
    settings: HttpSettings,
    status: HostStatus,
    trials: Option<Trials>,
    stop: CancellationToken,
) -> Router {
    router(HttpState {
        enqueue: fixture.store.clone(),
        inspect: fixture.store.clone(),
        operate: fixture.store.clone(),
        handler: crate::worker::Scripted::new(async |_| crate::worker::done()),
        settings: HttpSettings { is_durable: true, ..settings }.fixed(),
        status: Arc::new(move || HostStatus { is_scanned: true, ..status.clone() }),
        trials,
        stop,
    })
}

impl Desk {
    /// A host with handlers of these types, which asks nobody for a name.
    pub(crate) async fn serving(backend: Backend, types: &[&str]) -> Self {
        let served_types = types.iter().map(|word| (*word).to_owned()).collect();
        Self::with(backend, HttpSettings::default(), HostStatus { served_types, ..HostStatus::default() }).await
    }

    /// A host that asks nobody for a name.
    pub(crate) async fn open(backend: Backend) -> Self {
        Self::with(backend, HttpSettings::default(), HostStatus::default()).await
    }

    /// A host with one token for each role: its text is its role and `-token`.
    pub(crate) async fn closed(backend: Backend) -> Self {
        Self::with_tokens(backend, Role::ALL.map(|role| token(role, Rights::default())).to_vec()).await
    }

    /// A host with one token, of this role and with more rights.
    pub(crate) async fn with_token(backend: Backend, role: Role, more: Rights) -> Self {
        Self::with_tokens(backend, vec![token(role, more)]).await
    }

    async fn with_tokens(backend: Backend, tokens: Vec<NamedToken>) -> Self {
        let access = AccessSettings { tokens, ..AccessSettings::default() };
        Self::with(backend, HttpSettings { access, ..HttpSettings::default() }, HostStatus::default()).await
    }

    pub(crate) async fn with(backend: Backend, settings: HttpSettings, status: HostStatus) -> Self {
        Self::with_trials(backend, settings, status, None).await
    }

    /// The same, whose process tries items so.
    pub(crate) async fn with_trials(
        backend: Backend,
        settings: HttpSettings,
        status: HostStatus,
        trials: Option<Trials>,
    ) -> Self {
        let (fixture, stop) = (Fixture::new(backend).await, CancellationToken::new());
        let router = host(&fixture, settings, status, trials, stop.clone());
        Self { fixture, router, stop, cookie: None }
    }

    /// Ends the process, and begins another on the same store.
    pub(crate) fn restart(&mut self, settings: HttpSettings) {
        self.router = host(&self.fixture, settings, HostStatus::default(), None, self.stop.clone());
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Page {
        let (parts, body) = self.answer(method, path, headers, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Page { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The answer, whose body may have no end.
    pub(crate) async fn answer(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let usual = [("host", "localhost:7070"), ("accept", "text/html"), ("sec-fetch-site", "same-origin")];
        let cookie = self.cookie.as_deref().map(|cookie| ("cookie", cookie));
        for (name, value) in usual.iter().chain(cookie.iter()).chain(headers) {
            let name: axum::http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Page {
        self.send("GET", path, &[], "").await
    }

    /// Sends a form with these fields.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let body = serde_urlencoded::to_string(fields).unwrap();
        self.send("POST", path, &[("content-type", "application/x-www-form-urlencoded")], &body).await
    }

    /// Logs in with the token of the role.
    pub(crate) async fn log_in(&mut self, role: Role) {
        let answer = self.post("/cockpit/login", &[("token", &format!("{role}-token")), ("next", "cockpit")]).await;
        assert_eq!((answer.status, answer.header("location")), (303, "../cockpit"), "{answer:?}");
        self.cookie = Some(answer.header("set-cookie").split(';').next().unwrap().to_owned());
    }
}
