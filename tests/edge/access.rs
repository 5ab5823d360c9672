//! Who may do what over HTTP: named tokens, roles, sessions of people, users of a proxy, and what is hidden from whom.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use outbox::core::{
    BreakerState, BreakerStatus, Failure, FailureClass, HostWrites, OnDead, RecordedBody, RecordedExchange, Recording,
    Settlement,
};
use outbox::http::{
    AccessSettings, HostStatus, HttpSettings, HttpState, NamedToken, PeerAddress, ProxyUsers, Right, Rights, Role,
    TokenDigest, router, worker_router,
};
use outbox::item::Millis;
use outbox::store::{AuditQuery, Inspect as _, Maintain as _, Pod, Queue as _, SettleRequest};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::{HttpFixture, get, post, request};
use crate::support::{pod, settled};

fn token(name: &str, role: Role, text: &str) -> NamedToken {
    NamedToken { name: name.into(), role, more: Rights::default(), digest: TokenDigest::of(text), expires_at: None }
}

/// A host with one token for each role: its text is its role and `-token`.
fn host() -> HttpFixture {
    let tokens = Role::ALL.map(|role| token(&format!("the-{role}"), role, &format!("{role}-token")));
    with(AccessSettings { tokens: tokens.to_vec(), ..AccessSettings::default() })
}

fn with(access: AccessSettings) -> HttpFixture {
    HttpFixture::new(HttpSettings { is_durable: true, access, ..HttpSettings::default() })
}

fn bearer(mut request: Request<Body>, token: &str) -> Request<Body> {
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn from(mut request: Request<Body>, address: [u8; 4]) -> Request<Body> {
    request.extensions_mut().insert(PeerAddress::new(IpAddr::from(address)));
    request
}

const ITEM: &str =
    r#"{"type":"a","idem_key":"k","payload":{"card":"4111"},"headers":{"x-of":"Ada"},"metadata":{"of":"of-metadata"}}"#;

/// Makes a request.
type Asked = fn() -> Request<Body>;

async fn actors(host: &HttpFixture) -> Vec<String> {
    let entries = host.store.audit(&AuditQuery::default()).await.unwrap();
    entries.into_iter().rev().map(|entry| entry.actor).collect()
}

#[tokio::test]
async fn each_role_may_do_its_own_part_and_is_told_which_right_it_lacks() {
    let host = host();
    host.send(bearer(post("/items", &[], ITEM), "enqueue-token")).await;
    let asked: [(Asked, Right); 5] = [
        (|| post("/items", &[], ITEM), Right::Enqueue),
        (|| get("/items"), Right::Read),
        (|| post("/items/k/reschedule", &[], r#"{"delay_ms":0}"#), Right::Operate),
        (|| post("/items:purge", &[], r#"{"filter":{"status":["DONE"]},"dry_run":true}"#), Right::Admin),
        (|| get("/metrics"), Right::Scrape),
    ];
    for (request, right) in asked {
        for role in Role::ALL {
            let answer = host.send(bearer(request(), &format!("{role}-token"))).await;
            if role.rights().has(right) {
                assert!(answer.status.is_success(), "{role} {right}: {answer:?}");
            } else {
                let problem = answer.problem(403, "forbidden");
                assert_eq!(problem["right"], right.as_str(), "{role}: {problem}");
                assert!(problem["detail"].as_str().unwrap().contains(&format!("the-{role}")), "{problem}");
            }
        }
    }
}

#[tokio::test]
async fn the_actor_is_the_name_of_the_token_and_no_header_claims_another() {
    let host = host();
    host.send(bearer(post("/items", &[], ITEM), "enqueue-token")).await;
    for (path, body) in [
        ("/items/k/reschedule", json!({ "delay_ms": 0, "actor": "mallory" })),
        ("/types/a/pause", json!({ "actor": "mallory" })),
        ("/items:dead", json!({ "ids": [1], "actor": "mallory" })),
    ] {
        let order = post(path, &[("x-actor", "mallory"), ("x-forwarded-user", "mallory")], &body.to_string());
        assert_eq!(host.send(bearer(order, "operate-token")).await.status, 200, "{path}");
    }
    assert_eq!(actors(&host).await, ["the-operate"; 3]);
    let alone = with(AccessSettings::with_admin("s3cret"));
    alone.send(bearer(post("/items", &[], ITEM), "s3cret")).await;
    alone.send(bearer(post("/items/k/dead", &[("x-actor", "mallory")], "{}"), "s3cret")).await;
    assert_eq!(actors(&alone).await, ["admin"]);
}

#[tokio::test]
async fn two_tokens_of_one_name_are_valid_at_a_time_and_one_that_has_expired_is_not() {
    let now = HttpFixture::durable().store.now().await.unwrap();
    let ended = NamedToken { expires_at: Some(now), ..token("ada", Role::Read, "ended") };
    let later = Some(now.saturating_add(Duration::from_hours(1)));
    let tokens = vec![
        token("ada", Role::Read, "old"),
        NamedToken { expires_at: later, ..token("ada", Role::Read, "new") },
        NamedToken { name: "bob".into(), ..ended },
        NamedToken { expires_at: Some(Millis::MAX), ..token("cy", Role::Scrape, "scrape") },
    ];
    let host = with(AccessSettings { tokens, ..AccessSettings::default() });
    for valid in ["old", "new"] {
        assert_eq!(host.send(bearer(get("/items"), valid)).await.status, 200, "{valid}");
    }
    let problem = host.send(bearer(get("/items"), "ended")).await.problem(401, "unauthorized");
    assert!(problem["detail"].as_str().unwrap().contains("bob has expired"), "{problem}");
    assert_eq!(host.send(bearer(get("/metrics"), "scrape")).await.status, 200);
}

#[tokio::test]
async fn wrong_tokens_are_slowed_for_each_address_and_right_ones_are_not() {
    let host = host();
    let attempt = |text: &str, address| from(bearer(get("/items"), text), address);
    for _ in 0..10 {
        host.send(attempt("guess", [192, 0, 2, 1])).await.problem(401, "unauthorized");
    }
    let answer = host.send(attempt("guess", [192, 0, 2, 1])).await;
    answer.problem(429, "too-many-attempts");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let login = |text: &str, address| from(post("/login", &[], &json!({ "token": text }).to_string()), address);
    host.send(login("guess", [192, 0, 2, 1])).await.problem(429, "too-many-attempts");
    assert_eq!(host.send(login("read-token", [192, 0, 2, 1])).await.status, 200);
    assert_eq!(host.send(attempt("read-token", [192, 0, 2, 1])).await.status, 200, "others share the address");
    host.send(attempt("guess", [192, 0, 2, 2])).await.problem(401, "unauthorized");
    assert_eq!(host.send(login("read-token", [192, 0, 2, 2])).await.status, 200);
}

/// The cookie that a log-in gives, as a browser sends it back.
async fn log_in(host: &HttpFixture, headers: &[(&str, &str)], body: &str) -> (String, String) {
    let answer = host.send(post("/login", headers, body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let set = answer.header("set-cookie").unwrap().to_owned();
    (set.split(';').next().unwrap().to_owned(), set)
}

#[tokio::test]
async fn a_log_in_gives_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let host = host();
    let (cookie, set) = log_in(&host, &[], r#"{"token":"operate-token"}"#).await;
    assert!(set.contains("; HttpOnly; SameSite=Strict") && set.contains("Max-Age=43200"), "{set}");
    assert!(!set.contains("Secure") && !set.contains("operate-token"), "{set}");
    let form = [("content-type", "application/x-www-form-urlencoded"), ("origin", "https://localhost:7070")];
    let (secure, set) = log_in(&host, &form, "token=operate-token").await;
    assert!(
        set.starts_with("__Host-outbox_session=") && set.contains("; Path=/;") && set.contains("; Secure"),
        "{set}"
    );
    let with_secure = request("GET", "/items", &[("cookie", &secure)], "");
    assert_eq!(host.send(with_secure).await.status, 200);

    let of = |mut request: Request<Body>| {
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        request
    };
    assert_eq!(host.send(of(get("/items"))).await.status, 200);
    host.send(of(post("/items", &[("sec-fetch-site", "same-origin")], ITEM))).await.problem(403, "forbidden");
    let pause = |headers: &[(&str, &str)]| of(post("/types/a/pause", headers, r#"{"force":true}"#));
    for foreign in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[],
    ] {
        host.send(pause(foreign)).await.problem(403, "cross-site");
    }
    assert_eq!(host.send(pause(&[("sec-fetch-site", "same-origin")])).await.status, 200);
    assert_eq!(host.send(pause(&[("origin", "http://localhost:7070")])).await.status, 200);
    assert_eq!(actors(&host).await, ["the-operate"], "the second changes nothing");

    host.send(of(post("/logout", &[("sec-fetch-site", "cross-site")], ""))).await.problem(403, "cross-site");
    let out = host.send(of(post("/logout", &[], ""))).await;
    assert_eq!(out.status, 204);
    let removed: Vec<_> = out.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    for (set, name) in removed.iter().zip(["outbox_session", "__Host-outbox_session"]) {
        assert!(set.starts_with(&format!("{name}=; Path=/; Max-Age=0;")), "{out:?}");
    }
    assert_eq!((removed.len(), removed[1].ends_with("; Secure")), (2, true), "{out:?}");
    host.send(of(get("/items"))).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_log_in_that_is_wrong_gives_no_cookie() {
    let host = host();
    for (headers, body, status, word) in [
        (&[][..], r#"{"token":"guess"}"#, 401, "unauthorized"),
        (&[("sec-fetch-site", "cross-site")], r#"{"token":"read-token"}"#, 403, "cross-site"),
        (&[], r#"{"password":"read-token"}"#, 400, "invalid-json"),
        (&[], r#""read-token""#, 400, "invalid-json"),
        (&[], r#"{"token":""}"#, 401, "unauthorized"),
        (&[("content-type", "application/x-www-form-urlencoded")], "password=read-token", 400, "invalid-request"),
        (&[("content-type", "text/plain")], "read-token", 415, "wrong-content-type"),
    ] {
        let answer = host.send(post("/login", headers, body)).await;
        answer.problem(status, word);
        assert_eq!(answer.header("set-cookie"), None);
        assert!(!answer.text.contains("struct"), "{answer:?}");
    }
    HttpFixture::durable().send(post("/login", &[], r#"{"token":"t"}"#)).await.problem(400, "invalid-request");
}

#[tokio::test]
async fn only_a_trusted_proxy_names_its_user() {
    let proxy_users = Some(ProxyUsers { header: "x-forwarded-user".parse().unwrap(), role: Role::Operate });
    let proxies = vec!["10.0.0.0/8".parse().unwrap()];
    let host = with(AccessSettings { proxies, proxy_users, ..AccessSettings::with_admin("s3cret") });
    let user = [("x-forwarded-user", "ada@example.com"), ("x-actor", "mallory"), ("sec-fetch-site", "same-origin")];
    let pause = || post("/types/a/pause", &user, r#"{"force":true}"#);
    host.send(from(pause(), [192, 0, 2, 1])).await.problem(401, "unauthorized");
    assert_eq!(host.send(from(pause(), [10, 0, 0, 1])).await.status, 200);
    assert_eq!(actors(&host).await, ["ada@example.com (proxy)"]);
    let foreign = [("x-forwarded-user", "ada@example.com"), ("sec-fetch-site", "cross-site")];
    host.send(from(post("/types/a/pause", &foreign, "{}"), [10, 0, 0, 1])).await.problem(403, "cross-site");
    let purge = request("POST", "/items:purge", &user, "{}");
    host.send(from(purge, [10, 0, 0, 1])).await.problem(403, "forbidden");
    let nameless = request("GET", "/items", &[("x-forwarded-user", "admin (claimed)")], "");
    host.send(from(nameless, [10, 0, 0, 1])).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_page_that_resolves_its_own_name_to_the_host_names_no_user_of_a_proxy() {
    let proxy_users = Some(ProxyUsers { header: "x-forwarded-user".parse().unwrap(), role: Role::Read });
    let access =
        AccessSettings { proxies: vec!["::1/128".parse().unwrap()], proxy_users, ..AccessSettings::with_admin("t") };
    let hosts = vec!["outbox.example".to_owned()];
    let host = HttpFixture::new(HttpSettings { is_durable: true, access, hosts, ..HttpSettings::default() });
    let asked = |name: &str| {
        let headers = [("x-forwarded-user", "ada"), ("host", name), ("sec-fetch-site", "same-origin")];
        let mut asked = request("GET", "/items", &headers, "");
        asked.extensions_mut().insert(PeerAddress::new("::1".parse().unwrap()));
        asked
    };
    host.send(asked("evil.example:7070")).await.problem(421, "wrong-host");
    for known in ["outbox.example", "localhost:7070"] {
        assert_eq!(host.send(asked(known)).await.status, 200, "{known}");
    }
    assert_eq!(host.send(bearer(asked("evil.example:7070"), "t")).await.status, 200, "a page has no token");
}

/// Texts that only the payload, the headers, the metadata, a result, a failure, its output, a recorded request or the cause
/// of a breaker has.
const SECRETS: [&str; 8] =
    ["4111", "x-of", "of-metadata", "rows-8", "no such card", "last words", "sent-4711", "breaker fell"];

/// The secrets in an answer.
fn told(answer: &Value) -> Vec<&'static str> {
    let text = answer.to_string();
    SECRETS.into_iter().filter(|secret| text.contains(secret)).collect()
}

/// Something with each of the secrets: a dead item with a history, which blocks a key, a result, and an open breaker.
async fn seed_secrets(host: &HttpFixture) {
    let ordered = r#"{"type":"b","idem_key":"b1","payload":1,"ordering_key":"o"}"#;
    for body in [ordered, &ordered.replace("b1", "b2"), r#"{"type":"c","idem_key":"c","payload":1}"#] {
        assert_eq!(host.send(bearer(post("/items", &[], body), "s3cret")).await.status, 202);
    }
    let exchange = RecordedExchange {
        method: "POST".into(),
        url: "http://a/sent-4711".into(),
        effect: None,
        headers: Vec::new(),
        body: RecordedBody::whole("sent-4711"),
        answer: None,
    };
    let exchanges = Recording { exchanges: vec![exchange], ..Recording::default() }.compress();
    let failure = Failure::new(FailureClass::Permanent, "card.declined", "no such card");
    let dead = settled(Settlement::Dead { failure, on_dead: OnDead::Block });
    let dead = SettleRequest { stderr: Some("last words".into()), exchanges, ..dead };
    host.store.settle(&host.claim("b").await.reference(), dead).await.unwrap();
    let result = Some(br#"{"rows-8":1}"#.to_vec());
    host.settle("c", Settlement::Done { result, writes: HostWrites::default() }).await;
    let breaker = BreakerStatus {
        cause: "breaker fell".into(),
        origin: Some("https://a".into()),
        state: BreakerState::Open,
        ..BreakerStatus::default()
    };
    host.store.heartbeat(&Pod { breakers: vec![breaker], ..pod("pod-1") }).await.unwrap();
}

#[tokio::test]
async fn what_items_contain_is_hidden_from_those_without_the_right_and_said_to_be() {
    let reader = token("reader", Role::Operate, "reader");
    let payload = NamedToken { more: [Right::ReadPayload].into_iter().collect(), ..token("all", Role::Operate, "all") };
    let tokens = vec![reader, payload, NamedToken::admin("s3cret")];
    let host = with(AccessSettings { tokens, ..AccessSettings::default() });
    assert_eq!(host.send(bearer(post("/items", &[], ITEM), "s3cret")).await.status, 202);
    host.dead_letter("a").await;
    let found = json!({ "filter": { "status": ["DLQ"], "payload": ["card=4111"] } });
    assert_eq!(host.send(bearer(post("/items:replay", &[], &found.to_string()), "all")).await.json()["changed"], 1);
    host.dead_letter("a").await;
    let found = json!({ "filter": { "status": ["DLQ"], "error": "no such card" }, "background": true });
    assert_eq!(host.send(bearer(post("/items:replay", &[], &found.to_string()), "all")).await.status, 202);
    seed_secrets(&host).await;
    host.send(bearer(post("/items/c/replay", &[], "{}"), "all")).await;
    let mut told_somewhere = Vec::new();
    for path in [
        "/items",
        "/items/1",
        "/items/k",
        "/items/b1",
        "/failures",
        "/audit",
        "/audit?item=1",
        "/audit?item=4",
        "/jobs",
        "/jobs/1",
        "/stuck",
        "/status/cockpit",
    ] {
        let whole = host.send(bearer(get(path), "all")).await.json();
        assert!(!told(&whole).is_empty(), "{path}: {whole}");
        told_somewhere.extend(told(&whole));
        assert!(!whole.to_string().contains("\"hidden\""), "{path}: {whole}");
        let part = host.send(bearer(get(path), "reader")).await.json();
        assert_eq!(told(&part), Vec::<&str>::new(), "{path}: {part}");
        assert!(part.to_string().contains("\"hidden\""), "{path}: {part}");
    }
    assert!(SECRETS.iter().all(|secret| told_somewhere.contains(secret)), "{told_somewhere:?}");
    let item = host.send(bearer(get("/items/1"), "reader")).await.json();
    assert_eq!(item["hidden"], json!(["payload", "headers", "metadata", "result", "last_error"]));
    assert_eq!((item.get("payload"), item["failed_attempts"][0].get("message")), (None, None));
    assert_eq!(item["failed_attempts"][0]["code"], "card.declined");
}

#[tokio::test]
async fn who_may_not_read_what_items_contain_may_not_search_for_it() {
    let host = host();
    for query in ["payload=card=4111", "headers=x-of=Ada", "metadata=of=Ada", "error=card"] {
        for path in ["/items", "/failures"] {
            let asked = get(&format!("{path}?{query}"));
            let problem = host.send(bearer(asked, "operate-token")).await.problem(403, "forbidden");
            assert_eq!(problem["right"], "read-payload", "{path}?{query}");
        }
    }
    let order = r#"{"filter":{"status":["DLQ"],"payload":["card=4111"]},"dry_run":true}"#;
    host.send(bearer(post("/items:replay", &[], order), "operate-token")).await.problem(403, "forbidden");
}

fn state(host: &HttpFixture, settings: watch::Receiver<Arc<HttpSettings>>) -> HttpState {
    HttpState {
        enqueue: host.store.clone(),
        inspect: host.store.clone(),
        operate: host.store.clone(),
        handler: host.handler.clone(),
        settings,
        status: Arc::new(HostStatus::default),
        trials: None,
        stop: host.stop.clone(),
    }
}

#[tokio::test]
async fn a_worker_describes_the_routes_that_it_answers_and_no_others() {
    let host = HttpFixture::durable();
    let routes = worker_router(state(&host, HttpSettings::default().fixed()));
    let send = async |path: &str| routes.clone().oneshot(get(path)).await.unwrap();
    let body = send("/openapi.json").await.into_body().collect().await.unwrap().to_bytes();
    let document: Value = serde_json::from_slice(&body).unwrap();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(paths, ["/healthz", "/metrics", "/metrics/store", "/openapi.json", "/readyz"]);
    for path in paths {
        assert_ne!(send(&path).await.status(), 404, "{path}");
    }
    assert_eq!(send("/items").await.status(), 404);
}

#[tokio::test]
async fn a_token_for_scraping_opens_the_two_paths_of_metrics_only() {
    let host = host();
    for path in ["/metrics", "/metrics/store"] {
        assert_eq!(host.send(bearer(get(path), "scrape-token")).await.status, 200, "{path}");
        host.send(bearer(get(path), "enqueue-token")).await.problem(403, "forbidden");
        host.send(get(path)).await.problem(401, "unauthorized");
    }
    host.send(bearer(get("/items"), "scrape-token")).await.problem(403, "forbidden");
    host.send(bearer(get("/status/cockpit"), "scrape-token")).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_stream_ends_when_the_settings_change_so_that_its_caller_proves_its_rights_again() {
    let host = HttpFixture::durable();
    let durable = || Arc::new(HttpSettings { is_durable: true, ..HttpSettings::default() });
    let settings = watch::Sender::new(durable());
    let stream = router(state(&host, settings.subscribe())).oneshot(get("/signals")).await.unwrap();
    settings.send_replace(durable());
    let ended = tokio::time::timeout(Duration::from_mins(1), stream.into_body().collect()).await;
    assert!(ended.is_ok(), "the stream goes on");
}
