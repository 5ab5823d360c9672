//! The exchange over `wasi:http`. It starts the request before it writes the body: a body that is written earlier
//! would wait for a reader that does not exist yet.

use std::time::Duration;

use super::{Request, Response};
use crate::Failure;
use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme, http_error_code,
};
use crate::bindings::wasi::io::streams::{OutputStream, StreamError};

/// The part of an answer's body that is kept, in bytes: enough for the answers of APIs, little of an instance's memory.
const BODY_MAX: usize = 1 << 20;

/// The bytes that one read of an answer's body requests.
const READ_BYTES: u64 = 64 << 10;

/// A request that waits for its answer.
#[derive(Debug)]
#[must_use = "an item whose requests are unanswered counts as failed"]
pub struct Pending {
    answer: FutureIncomingResponse,
    target: String,
}

pub(super) fn start(request: &Request) -> Result<Pending, Failure> {
    let target = target(request);
    let outgoing = head(request).map_err(|why| invalid(&target, &why))?;
    let body = outgoing.body().map_err(|()| invalid(&target, "its body was taken"))?;
    let options = request.timeout.map(options);
    let answer = outgoing_handler::handle(outgoing, options).map_err(|code| failure(&target, &code))?;
    write(body, &request.body);
    Ok(Pending { answer, target })
}

impl Pending {
    /// Waits for the whole answer. Any status is an answer.
    pub fn wait(self) -> Result<Response, Failure> {
        self.answer.subscribe().block();
        match self.answer.get() {
            Some(Ok(Ok(response))) => read(&response).map_err(|code| failure(&self.target, &code)),
            Some(Ok(Err(code))) => Err(failure(&self.target, &code)),
            None | Some(Err(())) => Err(failure(&self.target, &ErrorCode::HttpResponseIncomplete)),
        }
    }
}

fn head(request: &Request) -> Result<OutgoingRequest, String> {
    let (scheme, authority, path) =
        split(&request.url).ok_or("its URL does not begin with http://HOST or https://HOST")?;
    let fields = Fields::from_list(&headers(request)).map_err(|error| format!("its headers: {error:?}"))?;
    let outgoing = OutgoingRequest::new(fields);
    outgoing
        .set_method(&method(&request.method))
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(&path)))
        .map_err(|()| "a character of its method or URL is not allowed there".to_owned())?;
    Ok(outgoing)
}

fn headers(request: &Request) -> Vec<(String, Vec<u8>)> {
    let mut headers = request.headers.clone();
    if !request.body.is_empty() || !matches!(request.method.as_str(), "GET" | "HEAD") {
        headers.push(("content-length".to_owned(), request.body.len().to_string().into_bytes()));
    }
    headers
}

/// The name of the request in messages. It omits user, path and query, because messages become part of the item's
/// history and the URL of a webhook often contains a secret.
fn target(request: &Request) -> String {
    let authority = split(&request.url).map_or("an unreadable URL", |(_, authority, _)| authority);
    format!("{} {}", request.method, authority.rsplit('@').next().unwrap_or_default())
}

/// Splits a URL into its scheme, its authority, and its path with the query. The fragment is dropped and never sent.
fn split(url: &str) -> Option<(Scheme, &str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or(rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    (!authority.is_empty()).then(|| (scheme, authority, format!("{slash}{path}")))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn options(timeout: Duration) -> RequestOptions {
    let nanos = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
    let options = RequestOptions::new();
    // A host without support for such a limit refuses it. The item's deadline limits the request in any case.
    for refused in [
        options.set_connect_timeout(nanos),
        options.set_first_byte_timeout(nanos),
        options.set_between_bytes_timeout(nanos),
    ] {
        refused.unwrap_or_default();
    }
    options
}

/// Writes the body. A failed write is not reported here, because the answer, for which the caller waits next, contains
/// the reason: an early refusal or an error of the connection.
fn write(body: OutgoingBody, bytes: &[u8]) {
    let written = body.write().is_ok_and(|stream| write_all(&stream, bytes).is_ok());
    if written {
        OutgoingBody::finish(body, None).unwrap_or_default();
    }
}

fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        stream.subscribe().block();
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        let (chunk, rest) = bytes.split_at(room.min(bytes.len()));
        stream.write(chunk)?;
        bytes = rest;
    }
    stream.blocking_flush()
}

fn read(response: &IncomingResponse) -> Result<Response, ErrorCode> {
    let headers = response.headers().entries().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let headers = headers.collect();
    let body = read_body(&response.consume().map_err(|()| ErrorCode::HttpResponseIncomplete)?)?;
    Ok(Response { status: response.status(), headers, body })
}

fn read_body(body: &IncomingBody) -> Result<Vec<u8>, ErrorCode> {
    let stream = body.stream().map_err(|()| ErrorCode::HttpResponseIncomplete)?;
    let mut bytes = Vec::new();
    while bytes.len() < BODY_MAX {
        match stream.blocking_read(READ_BYTES) {
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(http_error_code(&error).unwrap_or(ErrorCode::HttpResponseIncomplete));
            }
        }
    }
    bytes.truncate(BODY_MAX);
    Ok(bytes)
}

/// The failure that an error of the transport causes. It is permanent only when the request alone causes the error. A
/// denial is retryable, because the operator can change the grants.
fn failure(target: &str, code: &ErrorCode) -> Failure {
    use ErrorCode as E;
    let message = format!("{target}: {code:?}");
    match code {
        E::HttpRequestDenied | E::DestinationIpProhibited => Failure::retryable("upstream.denied", message),
        E::DnsTimeout
        | E::ConnectionTimeout
        | E::ConnectionReadTimeout
        | E::ConnectionWriteTimeout
        | E::HttpResponseTimeout => Failure::retryable("upstream.timeout", message),
        E::HttpRequestBodySize(_) | E::HttpRequestHeaderSize(_) | E::HttpRequestHeaderSectionSize(_) => {
            Failure::permanent("upstream.request", message)
        }
        _ => Failure::retryable("upstream.connect", message),
    }
}

/// The failure of a request that cannot be sent. It is retryable, because URLs come from the operator's manifest.
fn invalid(target: &str, why: &str) -> Failure {
    Failure::retryable("upstream.invalid", format!("{target}: the request cannot be sent: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureClass;

    #[test]
    fn a_url_falls_into_scheme_authority_and_path() {
        let check = |url, authority, path: &str| {
            let (_, found, found_path) = split(url).unwrap();
            assert_eq!((found, found_path.as_str()), (authority, path), "{url}");
        };
        check("http://a:80/b/c?d=e", "a:80", "/b/c?d=e");
        check("https://a", "a", "/");
        check("https://a?b=/c", "a", "/?b=/c");
        check("HTTP://[::1]:80/b#c", "[::1]:80", "/b");
        for url in ["", "a/b", "ftp://a/b", "http://", "http:///b", "http://#a"] {
            assert!(split(url).is_none(), "{url}");
        }
    }

    #[test]
    fn messages_name_the_host_but_not_the_secrets_of_a_url() {
        for url in ["https://hooks.example/T0/secret?token=secret", "https://me:secret@hooks.example/"] {
            assert_eq!(target(&crate::http::post(url)), "POST hooks.example");
        }
        assert_eq!(target(&crate::http::get("secret")), "GET an unreadable URL");
    }

    #[test]
    fn only_what_the_request_alone_decides_is_permanent() {
        let check = |code: &ErrorCode, class, word| {
            let failure = failure("POST a", code);
            assert_eq!((failure.class, failure.code.as_str()), (class, word), "{code:?}");
        };
        check(&ErrorCode::ConnectionRefused, FailureClass::Retryable, "upstream.connect");
        check(&ErrorCode::HttpResponseTimeout, FailureClass::Retryable, "upstream.timeout");
        check(&ErrorCode::HttpRequestDenied, FailureClass::Retryable, "upstream.denied");
        check(&ErrorCode::ConnectionTerminated, FailureClass::Retryable, "upstream.connect");
        check(&ErrorCode::HttpRequestBodySize(Some(9)), FailureClass::Permanent, "upstream.request");
    }
}
