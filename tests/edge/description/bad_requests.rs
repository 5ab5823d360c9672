//! Requests with something wrong in them, whatever the operation: the answer of each must be one that the document
//! describes.

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use outbox::http::{AccessSettings, HttpSettings, Role};

use super::Operation;
use super::scene::{example_body, example_path, example_query, request_to, settings, token_of};

/// A request, and what is wrong with it.
pub(super) type BadRequest = (String, Request<Body>);

/// Values of a parameter in the path. `%FF` is no UTF-8.
const NAMES: [&str; 7] = ["%FF", "%C3%BC", "none-such", "0", "-1", "99999999999999999999", "%20"];

const QUERIES: [&str; 22] = [
    "none_such=1",
    "%FF=1",
    "type=%FF",
    "type=Capital",
    "key_prefix=",
    "limit=0",
    "limit=x",
    "limit=1&limit=2",
    "limit=99999999999999999999",
    "before=x",
    "after=x",
    "after=-1",
    "status=NONE",
    "ids=x",
    "item=x",
    "from=x",
    "last_ms=1",
    "attempts=0",
    "older_than_ms=x",
    "payload=x",
    "sample=1",
    "fingerprint=x",
];

const BODIES: [&str; 24] = [
    "",
    "{",
    "null",
    "7",
    "[1]",
    "\"x\"",
    "\n",
    r#"{"none_such":1}"#,
    r#"{"reason":7}"#,
    r#"{"token":7}"#,
    r#"{"type":7}"#,
    r#"{"type":"Capital","payload":1}"#,
    r#"{"type":"mail","payload":1,"delay_ms":-1}"#,
    r#"{"type":"mail","payload":"?","payload_encoding":"base64"}"#,
    r#"{"type":"mail","payload":1,"headers":{"host":"a"}}"#,
    r#"{"ids":[]}"#,
    r#"{"ids":["x"]}"#,
    r#"{"ids":[99]}"#,
    r#"{"ids":[1],"filter":{"status":["DLQ"]}}"#,
    r#"{"filter":{}}"#,
    r#"{"filter":{"status":["NONE"]}}"#,
    r#"{"filter":{"status":["DLQ"]},"confirm":"x"}"#,
    r#"{"filter":{"status":["PENDING","CLAIMED","DONE","DLQ"],"type":"none-such"}}"#,
    r#"{"delay_ms":-1,"per_second":0,"stop_after":200}"#,
];

const MEDIA_TYPES: [&str; 5] =
    ["", "text/plain", "application/x-ndjson", "application/x-www-form-urlencoded", "application/json; charset=latin1"];

const HEADERS: [(&str, &[u8]); 13] = [
    ("idempotency-key", b"\xff"),
    ("idempotency-key", &[b'k'; 300]),
    ("x-correlation-id", b"\xff"),
    ("x-correlation-id", &[b'c'; 300]),
    ("x-fairness-key", b"\xff"),
    ("x-fairness-key", &[b'f'; 300]),
    ("x-actor", &[b'a'; 300]),
    ("traceparent", b"x"),
    ("last-event-id", b"x"),
    ("sec-fetch-site", b"cross-site"),
    ("origin", b"null"),
    ("cookie", b"outbox_session=9223372036854775807.ff.admin"),
    ("host", b"evil.example"),
];

/// The hosts on which the requests are tried.
pub(super) fn hosts() -> [HttpSettings; 6] {
    let usual = settings;
    [
        usual(),
        HttpSettings { is_strict: true, ..usual() },
        HttpSettings { is_durable: false, ..usual() },
        HttpSettings { max_body: 16, ..usual() },
        HttpSettings { max_pending: Some(1), ..usual() },
        HttpSettings { access: AccessSettings::default(), ..usual() },
    ]
}

/// The operation with each thing wrong in turn.
pub(super) fn of(operation: &Operation) -> Vec<BadRequest> {
    let (path, body) = (example_path(operation) + &example_query(operation), example_body(operation));
    let admin = token_of(Role::Admin);
    let mut all = Vec::new();
    let mut add = |what: String, request: Request<Body>| all.push((what, request));
    let usual = |path: &str, body: &str| {
        let mut request = request_to(operation, &[], path, body);
        request.headers_mut().insert("authorization", format!("Bearer {admin}").parse().unwrap());
        request
    };
    for name in NAMES.iter().filter(|_| operation.path.contains('{')) {
        add(format!("path {name}"), usual(&with_name(&operation.path, name), &body));
    }
    for query in QUERIES {
        let separator = if path.contains('?') { '&' } else { '?' };
        add(format!("query {query}"), usual(&format!("{path}{separator}{query}"), &body));
    }
    for wrong in BODIES {
        add(format!("body {wrong}"), usual(&path, wrong));
    }
    add("body without UTF-8".into(), usual(&path, "").map(|_| Body::from(vec![b'"', 0xff, b'"'])));
    add("a large body".into(), usual(&path, "").map(|_| Body::from(vec![b' '; (1 << 20) + 1])));
    for media_type in MEDIA_TYPES {
        let mut request = usual(&path, &body);
        request.headers_mut().insert("content-type", media_type.parse().unwrap());
        add(format!("content-type {media_type}"), request);
    }
    for (name, value) in HEADERS {
        let mut request = usual(&path, &body);
        request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        if name == "host" || name == "cookie" {
            request.headers_mut().remove("authorization");
            request.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
        }
        add(format!("header {name}"), request);
    }
    for authorization in ["", "Bearer ", "Bearer guess", "Basic YTpi"] {
        let mut request = usual(&path, &body);
        request.headers_mut().insert("authorization", authorization.parse().unwrap());
        add(format!("authorization {authorization}"), request);
    }
    for role in Role::ALL {
        let mut request = usual(&path, &body);
        request.headers_mut().insert("authorization", format!("Bearer {}", token_of(role)).parse().unwrap());
        add(format!("role {role}"), request);
    }
    all
}

/// The path with this name in place of its parameter.
fn with_name(path: &str, name: &str) -> String {
    let (before, rest) = path.split_once('{').unwrap();
    format!("{before}{name}{}", rest.split_once('}').unwrap().1)
}
