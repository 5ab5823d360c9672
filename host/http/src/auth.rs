//! Which clients the host answers.
//!
//! With a token configured, a client must present it. Without one, the Host header must be a loopback name or one of
//! `OUTBOX_HOSTS`: a web page can resolve its own name to 127.0.0.1 (DNS rebinding), but cannot set the Host header.
//! The probes are open, because kubelets send no token and address pods by IP; they reveal no data.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::state::HttpSettings;

/// Middleware: passes the request on, or answers with 401 or 421.
pub(crate) async fn authorize(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !matches!(request.uri().path(), "/healthz" | "/readyz") {
        check_caller(&state.settings(), request.headers(), request.uri())?;
    }
    Ok(next.run(request).await)
}

fn check_caller(settings: &HttpSettings, headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    if let Some(token) = &settings.token {
        return if has_bearer_token(headers, token) { Ok(()) } else { Err(ApiError::Unauthorized) };
    }
    let host =
        headers.get(HOST).and_then(|value| value.to_str().ok()).or_else(|| uri.authority().map(Authority::as_str));
    match host {
        Some(host) if is_accepted_host(host, &settings.hosts) => Ok(()),
        other => Err(ApiError::WrongHost(other.unwrap_or_default().to_owned())),
    }
}

fn has_bearer_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let Some((scheme, credentials)) = given.and_then(|value| value.split_at_checked("Bearer ".len())) else {
        return false;
    };
    // The time to compare digests does not depend on how many characters of the token are right.
    scheme.eq_ignore_ascii_case(b"Bearer ") && Sha256::digest(credentials) == Sha256::digest(token)
}

fn is_accepted_host(host: &str, hosts: &[String]) -> bool {
    let name = without_port(host);
    is_loopback(name) || hosts.iter().any(|known| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_listed_hosts_are_known_with_and_without_a_port() {
        let hosts = ["outbox.internal".to_owned(), "10.0.0.7:7070".to_owned()];
        for host in [
            "localhost",
            "LOCALHOST:7070",
            "127.0.0.1:7070",
            "127.9.9.9",
            "[::1]",
            "[::1]:7070",
            "Outbox.Internal:80",
            "10.0.0.7:7070",
        ] {
            assert!(is_accepted_host(host, &hosts), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "10.0.0.7", "127.0.0.1.evil.example:7070"] {
            assert!(!is_accepted_host(host, &hosts), "{host}");
        }
    }

    #[test]
    fn only_the_whole_token_is_accepted() {
        let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        assert!(has_bearer_token(&with("Bearer s3cret"), "s3cret"));
        assert!(has_bearer_token(&with("bearer s3cret"), "s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crett", "Bearer ", "Bearer", "s3cret", "Basic  s3cret"] {
            assert!(!has_bearer_token(&with(wrong), "s3cret"), "{wrong}");
        }
        assert!(!has_bearer_token(&HeaderMap::new(), "s3cret"));
    }
}
