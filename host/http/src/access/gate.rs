//! The gate before every route: which callers are answered, as whom, and with which rights.
//!
//! With tokens or a trusted proxy configured, a caller proves who it is. Without, and for users that a proxy names, the
//! Host header must be a loopback name or one of `OUTBOX_HOSTS`: a web page can resolve its own name to 127.0.0.1 (DNS
//! rebinding), but cannot set the Host header. The probes are open, because kubelets send no token and address pods by IP; they reveal no data.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use crate::access::address::{PeerAddress, client};
use crate::access::caller::Caller;
use crate::access::rights::Right;
use crate::access::settings::AccessSettings;
use crate::access::tokens::{self, NamedToken, is_name};
use crate::body::{FORM, UnreadBody, media_type};
use crate::problem::{ApiError, Unidentified};
use crate::server_state::ServerState;

/// The cookie of a session.
pub(crate) const SESSION_COOKIE: &str = "outbox_session";

/// The same for a log-in by TLS. Browsers take a cookie with this prefix only by TLS and only from the very host, so no
/// other host of its domain can set one.
pub(crate) const TLS_SESSION_COOKIE: &str = "__Host-outbox_session";

/// The paths that need no caller: the probes, the description of the routes, and the way in and out.
const OPEN: [&str; 7] =
    ["/healthz", "/readyz", "/openapi.json", "/login", "/logout", "/cockpit/login", "/cockpit/logout"];

/// The files of the pages, which need none either.
const OPEN_FILES: &str = "/cockpit/assets/";

/// Middleware of all routes: finds out who sends the request, and passes it on, or answers with a problem.
pub(crate) async fn identify(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    if OPEN.contains(&path) || path.starts_with(OPEN_FILES) {
        return Ok(next.run(request).await);
    }
    // A body cannot be shared with other threads, so it is set aside while the store is asked.
    let (mut parts, body) = request.into_parts();
    let caller = match find_caller(&state, &parts).await {
        Ok(caller) => caller,
        Err(err) => return Ok(refused(err, &parts, body)),
    };
    parts.extensions.insert(caller.clone());
    let mut answer = next.run(Request::from_parts(parts, body)).await;
    // A page about a problem is made outside of the routes, and has links to what the caller may see.
    answer.extensions_mut().insert(caller);
    Ok(answer)
}

/// The refusal, with the form that was sent: a page can show again what somebody typed.
fn refused(err: ApiError, request: &Parts, body: Body) -> Response {
    let mut answer = err.into_response();
    if media_type(&request.headers) == FORM {
        answer.extensions_mut().insert(UnreadBody::new(body));
    }
    answer
}

/// Middleware of one route: passes the request on if its sender has the right.
pub(crate) async fn require(
    State(right): State<Right>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require(right)?;
    Ok(next.run(request).await)
}

async fn find_caller(state: &ServerState, request: &Parts) -> Result<Caller, ApiError> {
    let (settings, headers) = (state.settings(), &request.headers);
    let access = &settings.access;
    if !access.is_closed() {
        check_host(headers, &request.uri, &settings.hosts)?;
        return Ok(Caller::anybody());
    }
    let peer = PeerAddress::of(&request.extensions);
    if let Some(given) = bearer_token(headers) {
        let found = checked(state, access, given, client(access, headers, peer)).await?;
        return Ok(Caller::with_token(found));
    }
    let caller = if let Some(caller) = by_session(state, access, headers).await? {
        caller
    } else {
        let user = by_proxy(access, headers, peer)?.ok_or(ApiError::Unauthorized(Unidentified::Absent))?;
        // A page in a browser at the address of the proxy could set the header too.
        check_host(headers, &request.uri, &settings.hosts)?;
        user
    };
    // A browser adds cookies, and what makes a proxy name its user, to requests that another site makes it send.
    if !request.method.is_safe() {
        check_same_origin(headers, &request.uri)?;
    }
    Ok(caller)
}

fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)?.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// The token that the caller gave. A failed attempt is counted for the address; after too many the answer says so, and a
/// token that is right is still taken: the address may be that of a proxy, with many callers behind it.
pub(crate) async fn checked<'a>(
    state: &ServerState,
    access: &'a AccessSettings,
    given: &[u8],
    address: IpAddr,
) -> Result<&'a NamedToken, ApiError> {
    match valid_token(state, access, given).await {
        Err(ApiError::Unauthorized(reason @ Unidentified::Wrong)) => {
            let now = Instant::now();
            let wait = state.throttle.wait(address, now);
            state.throttle.failed(address, now);
            if wait.is_none() && state.throttle.wait(address, now).is_some() {
                tracing::warn!(%address, "many tokens from one address are wrong");
            }
            Err(wait.map_or(ApiError::Unauthorized(reason), |wait| ApiError::TooManyAttempts { wait }))
        }
        result => result,
    }
}

/// The token that this text is, if it has not expired.
async fn valid_token<'a>(
    state: &ServerState,
    access: &'a AccessSettings,
    given: &[u8],
) -> Result<&'a NamedToken, ApiError> {
    let token = tokens::find(&access.tokens, given).ok_or(ApiError::Unauthorized(Unidentified::Wrong))?;
    if token.expires_at.is_some() && token.is_expired(state.clock.now(&*state.inspect).await?) {
        return Err(ApiError::Unauthorized(Unidentified::Expired { name: token.name.clone() }));
    }
    Ok(token)
}

async fn by_session(
    state: &ServerState,
    access: &AccessSettings,
    headers: &HeaderMap,
) -> Result<Option<Caller>, ApiError> {
    let Some(cookie) = session_cookie(headers) else { return Ok(None) };
    let now = state.clock.now(&*state.inspect).await?;
    Ok(state.sessions.token(access, cookie, now).map(|token| Caller::in_session(token, cookie)))
}

/// The value of the cookie that identifies a session.
pub(crate) fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    session_cookies(headers).next()
}

/// The values of all cookies of sessions, those of log-ins by TLS first.
pub(crate) fn session_cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    [TLS_SESSION_COOKIE, SESSION_COOKIE].into_iter().flat_map(|wanted| {
        let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let cookies = values.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
        cookies.filter(move |(name, _)| *name == wanted).map(|(_, value)| value)
    })
}

/// The caller that a trusted proxy names. Its mark is one that no name of a token has, so that the audit trail tells
/// them apart.
fn by_proxy(access: &AccessSettings, headers: &HeaderMap, peer: IpAddr) -> Result<Option<Caller>, ApiError> {
    let Some(users) = access.proxy_users.as_ref().filter(|_| access.is_proxy(peer)) else { return Ok(None) };
    let mut values = headers.get_all(&users.header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str().ok().filter(|name| is_name(&name.replace('@', "-"))).filter(|_| values.next().is_none()) {
        Some(name) => Ok(Some(Caller::named(&format!("{name} (proxy)"), users.role.rights()))),
        None => Err(ApiError::Unauthorized(Unidentified::ProxyUser { header: users.header.clone() })),
    }
}

/// Errors unless the page that sends the request is one of this host. Every browser says so in `Sec-Fetch-Site`, or at
/// least in `Origin`.
pub(crate) fn check_same_origin(headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_same = match (text("sec-fetch-site"), text(ORIGIN.as_str())) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let place = origin.split_once("://").map(|(_, place)| place);
            place.is_some() && place == host(headers, uri)
        }
        (None, None) => false,
    };
    if is_same { Ok(()) } else { Err(ApiError::CrossSite) }
}

/// The same for what a program may send too, which is no browser and says nothing of a site.
pub(crate) fn check_page(headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let is_browser = headers.contains_key("sec-fetch-site") || headers.contains_key(ORIGIN);
    if is_browser { check_same_origin(headers, uri) } else { Ok(()) }
}

fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    headers.get(HOST).and_then(|value| value.to_str().ok()).or_else(|| uri.authority().map(Authority::as_str))
}

fn check_host(headers: &HeaderMap, uri: &Uri, hosts: &[String]) -> Result<(), ApiError> {
    match host(headers, uri) {
        Some(host) if is_accepted_host(host, hosts) => Ok(()),
        other => Err(ApiError::WrongHost(other.unwrap_or_default().to_owned())),
    }
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
    use crate::access::rights::Role;
    use crate::access::settings::ProxyUsers;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (axum::http::HeaderName::from_static(name), value.parse::<HeaderValue>().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

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
    fn a_token_is_read_from_the_header_whatever_the_case_of_its_scheme() {
        let token = |value: &str| bearer_token(&headers(&[("authorization", value)])).map(<[u8]>::to_vec);
        assert_eq!(token("Bearer s3cret"), Some(b"s3cret".to_vec()));
        assert_eq!(token("bearer s3cret"), Some(b"s3cret".to_vec()));
        for none in ["Bearer", "s3cret", "Basic  s3cret"] {
            assert_eq!(token(none), None, "{none}");
        }
        assert_eq!(bearer_token(&HeaderMap::new()), None);
    }

    #[test]
    fn a_page_of_another_site_is_told_by_what_its_browser_says() {
        let check = |pairs: &[(&'static str, &str)]| check_same_origin(&headers(pairs), &Uri::from_static("/")).is_ok();
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        assert!(check(&[("origin", "https://outbox.example:8443"), ("host", "outbox.example:8443")]));
        for wrong in [
            &[("sec-fetch-site", "cross-site"), ("origin", "https://a"), ("host", "a")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://evil.example"), ("host", "outbox.example")],
            &[("origin", "null"), ("host", "null")],
            &[("host", "outbox.example")],
        ] {
            assert!(!check(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_names_its_user_who_is_marked() {
        let users = ProxyUsers { header: "x-user".parse().unwrap(), role: Role::Read };
        let access = AccessSettings {
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            proxy_users: Some(users),
            ..AccessSettings::with_admin("s3cret")
        };
        let user = |peer: [u8; 4], pairs: &[(&'static str, &str)]| by_proxy(&access, &headers(pairs), peer.into());
        let ada = Caller::named("ada@example.com (proxy)", Role::Read.rights());
        assert_eq!(user([10, 0, 0, 1], &[("x-user", "ada@example.com")]).unwrap(), Some(ada));
        assert_eq!(user([192, 0, 2, 1], &[("x-user", "ada@example.com")]).unwrap(), None);
        assert_eq!(user([10, 0, 0, 1], &[]).unwrap(), None);
        for wrong in ["", "ada (claimed)", "ada (proxy)"] {
            assert!(user([10, 0, 0, 1], &[("x-user", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_cookie_of_a_session_is_found_among_others() {
        let cookie = |value: &str| session_cookie(&headers(&[("cookie", value)])).map(str::to_owned);
        assert_eq!(cookie("a=b; outbox_session=1.ab.ada; c=d").as_deref(), Some("1.ab.ada"));
        assert_eq!(cookie("outbox_sessions=1"), None);
        assert_eq!(cookie("outbox_session=tossed; __Host-outbox_session=own").as_deref(), Some("own"));
    }
}
