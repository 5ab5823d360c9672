//! Orders for the chaos handler that try to reach outside: the network, the state, other items.

use outbox::core::FailureClass::{Contract, Cpu, Denied, Memory, Permanent, Retryable, Timeout, Trap};
use serde_json::{Value, json};

use super::Ending::{self, Done, Fails};

/// A manifest that grants everything on which the corpus tries a limit or an address.
pub(crate) fn manifest(port: u16) -> String {
    let rule = |origin: String| format!("[[grant.http]]\norigin = \"{origin}\"\n");
    let origins = [
        format!("http://server.test:{port}"),
        format!("http://rebind.test:{port}"),
        format!("http://*:{port}"),
        "http://*".to_owned(),
        "http://169.254.169.254".to_owned(),
    ];
    format!(
        r#"
timeout = "1s"
[limits]
memory = "32MiB"
cpu = "1s"
http_requests = 4
request = "256KiB"
response = "256KiB"
followups = 8
state_bytes = "100KiB"
result = "256KiB"
[grant]
state = true
emit = ["mail"]
{}"#,
        origins.map(rule).concat()
    )
}

/// Each row has a name, an order and the expected end. The timeout is 1 s for names that begin with `slow`.
pub(crate) fn corpus(port: u16) -> Vec<(&'static str, Value, Ending)> {
    [compute(), reach(port), headers(port), bodies(port), store()].into_iter().flatten().collect()
}

type Orders = Vec<(&'static str, Value, Ending)>;

fn get(url: &str) -> Value {
    json!({"do": "http", "method": "GET", "url": url})
}

fn times(count: usize, order: &Value) -> Value {
    json!({"do": "sequence", "steps": vec![order; count]})
}

fn compute() -> Orders {
    vec![
        ("loop", json!({"do": "loop"}), Fails(Cpu, "`limits.cpu`, which is 1s")),
        ("recursion", json!({"do": "recurse"}), Fails(Trap, "stack")),
        ("memory bomb", json!({"do": "eat_memory"}), Fails(Memory, "`limits.memory` is 32MiB")),
        ("memory within", json!({"do": "eat_memory", "bytes": 16 << 20}), Done),
        ("slow for ever", json!({"do": "sleep", "ms": 600_000}), Fails(Timeout, "`timeout` is 1s")),
        ("sleep within", json!({"do": "sleep", "ms": 50}), Done),
        ("exit", json!({"do": "exit", "code": 3}), Fails(Trap, "exit(")),
        ("panic", json!({"do": "trap", "message": "by order"}), Fails(Trap, "by order")),
        ("large result", json!({"do": "big_result", "bytes": 300 << 10}), Fails(Contract, "`limits.result` is 256KiB")),
        ("result within", json!({"do": "big_result", "bytes": 200 << 10}), Done),
        ("flood of output", json!({"do": "stderr", "message": "y".repeat(100), "lines": 2000}), Done),
    ]
}

fn reach(port: u16) -> Orders {
    let follow =
        |to: &str| json!({"do": "http_follow", "method": "GET", "url": format!("http://server.test:{port}/to/{to}")});
    let rebound = times(2, &get(&format!("http://rebind.test:{port}/ok")));
    let out_of_reach = || Fails(Denied, "which its grant does not reach");
    vec![
        ("granted", get(&format!("http://server.test:{port}/ok")), Done),
        ("metadata by number", get("http://169.254.169.254/latest"), out_of_reach()),
        ("metadata by another number", get("http://2852039166/latest"), out_of_reach()),
        ("metadata by mapped number", get("http://[::ffff:169.254.169.254]/latest"), out_of_reach()),
        ("metadata by name", get("http://metadata.test/latest"), out_of_reach()),
        ("metadata by redirect", follow("169.254.169.254"), out_of_reach()),
        ("metadata by rebinding", rebound, out_of_reach()),
        ("private by number", get("http://10.0.0.1/"), out_of_reach()),
        ("private by name", get("http://private.test/"), out_of_reach()),
        ("private by redirect", follow("private.test"), out_of_reach()),
        ("loopback by number", get(&format!("http://127.0.0.1:{port}/ok")), out_of_reach()),
        ("another scheme", get("https://server.test/"), Fails(Denied, "origin = \"https://server.test\"")),
    ]
}

fn headers(port: u16) -> Orders {
    let with = |name: &str, value: &str| json!({"do": "http", "method": "POST", "url": format!("http://server.test:{port}/ok"), "headers": {name: value}});
    let method = |method: &str| json!({"do": "http", "method": method, "url": format!("http://server.test:{port}/ok")});
    vec![
        ("smuggled host", with("host", "evil"), Fails(Retryable, "")),
        ("smuggled length", with("transfer-encoding", "evil"), Fails(Retryable, "")),
        ("smuggled trailer", with("trailer", "evil"), Fails(Retryable, "")),
        ("smuggled line", with("x", "a\r\nhost: evil"), Fails(Retryable, "")),
        ("smuggled request", with("x", "a\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"), Fails(Retryable, "")),
        ("forged key", with("idempotency-key", "forged"), Done),
        ("forged effect", with("outbox-effect", "a/b"), Fails(Denied, "must be 1 to 64 of")),
        ("large header", with("x", &"y".repeat(40 << 10)), Fails(Memory, "larger headers: the most is 32KiB")),
        ("header within", with("x", &"y".repeat(8 << 10)), Done),
        ("echoed secrets", method("TRACE"), Fails(Denied, "TRACE is no method")),
        ("password in the url", get(&format!("http://evil@server.test:{port}/")), Fails(Denied, "name or a password")),
    ]
}

fn bodies(port: u16) -> Orders {
    let url = |path: &str| format!("http://server.test:{port}{path}");
    let body = |bytes: usize| json!({"do": "http", "url": url("/ok"), "body": "x", "body_times": bytes});
    let too_many = Fails(Denied, "an attempt may send 4 requests (`limits.http_requests`)");
    let forgotten = json!({"do": "http_forget", "method": "POST", "url": url("/never")});
    vec![
        ("response bomb", get(&url("/bomb")), Fails(Denied, "`limits.response`, which is 256KiB")),
        ("response within", get(&url("/large")), Done),
        ("many headers within", get(&url("/some-heads")), Done),
        ("header bomb", get(&url("/heads")), Fails(Denied, "64KiB and 128 headers")),
        ("slow head", get(&url("/slow-head")), Fails(Timeout, "`timeout` is 1s")),
        ("slow body", get(&url("/slow-body")), Fails(Timeout, "`timeout` is 1s")),
        ("slow silence", get(&url("/never")), Fails(Timeout, "`timeout` is 1s")),
        ("flood of requests", times(5, &get(&url("/ok"))), too_many),
        ("requests within", times(4, &get(&url("/ok"))), Done),
        ("large body", body(300 << 10), Fails(Denied, "`limits.request`, which is 256KiB")),
        ("body within", body(200 << 10), Done),
        ("forgotten request", forgotten, Fails(Contract, "in flight")),
    ]
}

fn store() -> Orders {
    let emit = |item_type: &str, count: usize| json!({"do": "emit", "type": item_type, "count": count});
    let mail = |bytes: usize, delay_ms: u64| json!({"do": "emit", "type": "mail", "payload": "x".repeat(bytes - 2), "delay_ms": delay_ms});
    let ten_years = 10 * 365 * 24 * 3_600_000;
    let fill = |keys: usize, bytes: usize| json!({"do": "state_fill", "keys": keys, "bytes": bytes});
    vec![
        ("flood of items", emit("mail", 9), Fails(Denied, "an attempt may emit 8 items (`limits.followups`)")),
        ("items within", emit("mail", 8), Done),
        ("large item", mail((256 << 10) + 1, 0), Fails(Permanent, "payload of a follow-up may have 256KiB")),
        ("item of that size within", mail(256 << 10, 0), Done),
        ("item of another age", mail(2, ten_years + 1), Fails(Retryable, "which is ten years")),
        ("late item within", mail(2, ten_years), Done),
        ("items not granted", emit("sms", 1), Fails(Denied, r#"emit = ["mail", "sms"]"#)),
        ("large value", fill(1, 300 << 10), Fails(Permanent, "a value 256KiB")),
        ("value over quota", fill(1, 101 << 10), Fails(Denied, "may keep 100KiB (`limits.state_bytes`)")),
        ("value within", fill(1, 90 << 10), Done),
        ("state within", fill(11, 90 << 10), Done),
        ("flood of state", fill(20, 90 << 10), Fails(Permanent, "all values that an attempt writes 1MiB")),
        ("flood of keys", fill(257, 1), Fails(Denied, "one attempt may touch 256 keys")),
        ("keys within", fill(256, 1), Done),
    ]
}
