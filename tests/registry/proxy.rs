//! The proxies of the environment, which apply to registries other than those of this machine.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use super::{Bench, fails};

/// A proxy that answers every request with 418. Tells what it was asked for.
fn proxy() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (asked, requests) = std::sync::mpsc::channel();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            let _headers = lines.take_while(|line| !line.is_empty()).count();
            if asked.send(first).is_err() {
                return;
            }
            stream.write_all(b"HTTP/1.1 418 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
        }
    });
    (address, requests)
}

#[test]
fn a_proxy_is_asked_for_registries_elsewhere_unless_it_is_excepted_by_name() {
    let bench = Bench::new();
    let (address, requests) = proxy();
    let plan = |variables: &[(&str, &str)]| {
        let plan = bench.plan.clone().set("OUTBOX_REGISTRY_HTTP", "loopback,plain.invalid:5000");
        variables.iter().fold(plan, |plan, (name, value)| plan.set(name, value))
    };
    let pull = |variables: &[(&str, &str)], registry: &str| {
        plan(variables).run(&["plugin", "pull", &format!("{registry}/p:1"), "--to", "."])
    };
    let asked = |registry: &str, variables: &[(&str, &str)], what: &str| {
        let told = pull(variables, registry);
        let first = requests.try_recv().unwrap_or_else(|_| panic!("{variables:?} is not used: {told:?}"));
        assert!(first.starts_with(what), "{first}");
        let _rest = requests.try_iter().count();
    };
    let proxied = address.as_str();
    asked("plain.invalid:5000", &[("HTTP_PROXY", proxied)], "GET http://plain.invalid:5000/v2/");
    asked("tls.invalid:5000", &[("HTTPS_PROXY", proxied)], "CONNECT tls.invalid:5000");
    asked("tls.invalid", &[("all_proxy", proxied), ("NO_PROXY", "*.invalid, other")], "CONNECT tls.invalid:443");
    asked(
        "tls.invalid:5000",
        &[("https_proxy", proxied), ("NO_PROXY", "tls.invalid:5000")],
        "CONNECT tls.invalid:5000",
    );
    for (registry, except) in [("tls.invalid:5000", "a,.invalid"), ("tls.invalid", "*")] {
        fails(&pull(&[("HTTPS_PROXY", proxied), ("no_proxy", except)], registry), &["does not answer"]);
    }
    fails(&pull(&[("HTTP_PROXY", proxied)], "127.0.0.1:9"), &["does not answer", "refused"]);
    assert_eq!(requests.try_iter().count(), 0, "the proxy was asked");
}
