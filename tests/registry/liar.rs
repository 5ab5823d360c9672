//! Registries and token servers that answer what they should not: without an end, with another digest, or with a realm that
//! would take credentials away.

use std::convert::Infallible;
use std::fs;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Bench, fails};
use crate::support::host::HostConfig;
use crate::support::registry::{Door, RegistryServer};

/// A request as a liar sees it.
struct Seen {
    /// The method and the path, such as `GET /v2/`.
    what: String,
    query: String,
    authorization: String,
    body: String,
}

/// A server that answers as a test says.
struct Liar {
    host: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    async fn start(answer: impl Fn(&str, &Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (seen, own) = (Arc::<Mutex<Vec<String>>>::default(), host.clone());
        let told = Arc::clone(&seen);
        let app = axum::Router::new().fallback(move |request: Request| {
            let (answer, told, own) = (answer.clone(), Arc::clone(&told), own.clone());
            async move {
                let request = read(request).await;
                told.lock().unwrap().push(request.what.clone());
                answer(&own, &request)
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { host, seen }
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn read(request: Request) -> Seen {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let authorization = head.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    Seen {
        what: format!("{} {}", head.method, head.uri.path()),
        query: head.uri.query().unwrap_or_default().to_owned(),
        authorization: authorization.unwrap_or_default(),
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

fn answer(status: u16, body: impl Into<Body>) -> Response {
    Response::builder().status(status).body(body.into()).unwrap()
}

/// A body that never ends.
fn endless() -> Body {
    let part = axum::body::Bytes::from(vec![b' '; 64 << 10]);
    Body::from_stream(futures_util::stream::repeat_with(move || Ok::<_, Infallible>(part.clone())))
}

fn asks_for_token(realm: &str) -> Response {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"registry \\\"r\\\"\"");
    Response::builder().status(401).header(WWW_AUTHENTICATE, challenge).body(Body::empty()).unwrap()
}

/// The manifest of an image with one layer of this many bytes.
fn manifest(size: u64) -> String {
    let layer =
        json!({ "mediaType": "application/wasm", "digest": format!("sha256:{}", "0".repeat(64)), "size": size });
    json!({ "schemaVersion": 2, "layers": [layer] }).to_string()
}

/// The bench with a file of credentials for a host.
fn with_auth(bench: &Bench, host: &str, auth: &Value) -> HostConfig {
    fs::write(bench.path("auth.json"), json!({ "auths": { host: auth } }).to_string()).unwrap();
    bench.plan.clone().set("OUTBOX_REGISTRY_AUTH_FILE", "auth.json")
}

fn password() -> Value {
    json!({ "auth": STANDARD.encode("ada:hunter2") })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_end_is_read_up_to_a_limit() {
    let bench = Bench::new();
    let liar = Liar::start(|own, request| match request.what.as_str() {
        "GET /v2/" => answer(200, ""),
        "GET /v2/manifest/manifests/1" | "GET /token" => answer(200, endless()),
        "GET /v2/refusal/manifests/1" => answer(500, endless()),
        "GET /v2/layer/manifests/1" => answer(200, manifest(7)),
        what if what.starts_with("GET /v2/layer/blobs/") => answer(200, endless()),
        _ => answer(404, own.to_owned()),
    });
    let liar = liar.await;
    bench.refuses(&liar.image("manifest:1"), &["a manifest has more than 4194304 bytes", &liar.host]);
    bench.refuses(&liar.image("refusal:1"), &["answers 500"]);
    bench.refuses(&liar.image("layer:1"), &["longer than the image says"]);
    let guarded = Liar::start(|own, request| match request.what.as_str() {
        "GET /v2/" => asks_for_token(&format!("http://{own}/token")),
        _ => answer(200, endless()),
    });
    let guarded = guarded.await;
    bench.refuses(&guarded.image("p:1"), &["a token has more than 262144 bytes", &guarded.host]);
    assert_eq!(guarded.seen(), ["GET /v2/", "GET /token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_another_digest_than_the_one_that_was_asked_for_is_refused() {
    let bench = Bench::new();
    let liar =
        Liar::start(|_, request| answer(200, if request.what == "GET /v2/" { String::new() } else { manifest(7) }));
    let liar = liar.await;
    let pinned = format!("p@sha256:{}", "1".repeat(64));
    bench.refuses(&liar.image(&pinned), &["not what its digest says", "has the digest sha256:"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_become_a_token_of_the_server_that_the_registry_names() {
    let bench = Bench::new();
    let registry = Liar::start(|own, request| {
        let is_let_in = request.authorization == "Bearer short";
        let by_password = request.authorization == format!("Basic {}", STANDARD.encode("ada:hunter2"));
        let by_identity = ["grant_type=refresh_token", "refresh_token=long%26hunter2", "client_id=outbox"]
            .iter()
            .all(|part| request.body.contains(part));
        let is_asked_well = |text: &str| {
            text.contains("service=registry+%22r%22") && text.contains("scope=repository%3Ateam%2Fp%3Apull")
        };
        match request.what.as_str() {
            "GET /v2/" if !is_let_in => asks_for_token(&format!("http://{own}/token")),
            "GET /token" if by_password && is_asked_well(&request.query) => answer(200, r#"{"token": "short"}"#),
            "POST /token" if by_identity && is_asked_well(&request.body) => answer(200, r#"{"access_token": "short"}"#),
            "POST /token" if request.body.contains("refresh_token=ended") => {
                answer(400, r#"{"error": "invalid_grant"}"#)
            }
            "GET /v2/team/p/manifests/1" if is_let_in => answer(200, manifest(1 << 40)),
            _ => answer(401, ""),
        }
    });
    let registry = registry.await;
    let pull = |plan: &HostConfig| plan.run(&["plugin", "pull", &registry.image("team/p:1"), "--to", "."]);
    let identity = json!({ "auth": STANDARD.encode("ada:"), "identitytoken": "long&hunter2" });
    for auth in [password(), identity] {
        fails(&pull(&with_auth(&bench, &registry.host, &auth)), &["134217728 are allowed"]);
    }
    for refused in ["old", "ended"] {
        let wrong = with_auth(&bench, &registry.host, &json!({ "identitytoken": refused }));
        fails(&pull(&wrong), &["refuses those given", "the identitytoken for", &registry.host, "auth.json"]);
    }
    fails(&pull(&bench.plan), &["asks for credentials", "OUTBOX_REGISTRY_AUTH_FILE"]);

    let guarded = RegistryServer::with(Door::Guarded);
    let host = guarded.image("");
    let identity = with_auth(&bench, host.trim_end_matches('/'), &json!({ "identitytoken": "hunter2" }));
    let pulled = identity.run(&["plugin", "pull", &guarded.image("p:1"), "--to", "."]);
    fails(&pulled, &["the identitytoken for", "auth.json", "give a user and a password"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_follow_no_realm_without_tls_and_no_redirect() {
    let bench = Bench::new();
    let elsewhere = Liar::start(|_, _| answer(200, r#"{"token": "short"}"#)).await;
    let target = elsewhere.host.clone();
    let liar = Liar::start(move |own, request| match request.what.as_str() {
        "GET /v2/" if request.authorization.is_empty() => asks_for_token(&format!("http://{own}/token")),
        "GET /token" | "POST /token" => {
            let place = format!("http://{target}/token");
            Response::builder().status(307).header(LOCATION, place).body(Body::empty()).unwrap()
        }
        _ => answer(401, ""),
    });
    let liar = liar.await;
    for auth in [password(), json!({ "identitytoken": "hunter2" })] {
        let pulled = with_auth(&bench, &liar.host, &auth).run(&["plugin", "pull", &liar.image("p:1"), "--to", "."]);
        fails(&pulled, &["the token server", "answers 307"]);
    }
    assert_eq!(elsewhere.seen(), Vec::<String>::new());
    for realm in ["http://tokens.example/token", "nowhere"] {
        let liar = Liar::start(move |_, _| asks_for_token(realm)).await;
        let pulled =
            with_auth(&bench, &liar.host, &password()).run(&["plugin", "pull", &liar.image("p:1"), "--to", "."]);
        fails(&pulled, &[&liar.host, realm]);
    }
}

#[test]
fn credentials_for_a_registry_with_tls_do_not_go_to_a_realm_without() {
    let (bench, listener) = (Bench::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let tokens = listener.local_addr().unwrap().to_string();
    let registry = RegistryServer::with(Door::Tokens(listener.local_addr().unwrap().port()));
    let host = registry.image("");
    let plan = with_auth(&bench, host.trim_end_matches('/'), &password())
        .set("OUTBOX_REGISTRY_HTTP", &tokens)
        .set("OUTBOX_CA_FILE", registry.dir.path().join("authority.crt").to_str().unwrap());
    let push = plan.run(&["plugin", "push", "p.wasm", &registry.image("p:1")]);
    fails(&push, &["without TLS", &format!("http://{tokens}/token"), "nothing was sent", "https://"]);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "the token server was called");
}

#[test]
fn credentials_for_a_registry_with_tls_follow_no_redirect_to_an_address_without() {
    let (bench, listener) = (Bench::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let layers = listener.local_addr().unwrap().to_string();
    let mut registry = RegistryServer::with(Door::Encrypted);
    let (host, image) = (registry.image(""), registry.image("p:1"));
    let plan = with_auth(&bench, host.trim_end_matches('/'), &password())
        .set("OUTBOX_REGISTRY_HTTP", &layers)
        .set("OUTBOX_CA_FILE", registry.dir.path().join("authority.crt").to_str().unwrap());
    plan.json(&["plugin", "push", "p.wasm", &image, "--json"]);
    registry.guard_and_redirect(&format!("http://{layers}/"));
    fails(&plan.run(&["plugin", "pull", &image, "--to", "."]), &["redirects to where nothing is sent"]);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "the server of the layers was called");
}
