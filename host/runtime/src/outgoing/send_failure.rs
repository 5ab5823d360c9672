//! What an error of the HTTP client is called: the error for the guest, the words for people, and whether this host
//! caused it.

use std::error::Error as StdError;

use hyper_util::client::legacy::Error as ClientError;
use rustix::io::Errno;
use wasmtime_wasi_http::Error;

use crate::load::manifest::value::show_size;
use crate::outgoing::backend::SendError;
use crate::outgoing::client::{HEAD_MAX, HEADERS_COUNT_MAX};
use crate::outgoing::connect_error::{ConnectError, show};
use crate::outgoing::happy_eyeballs::FailedAddress;
use crate::outgoing::host_want::{causes, is_host_want};
use crate::sandbox::observations::{Denial, NetworkFault};

/// The answer to a guest whose request got none from its receiver. `lines` are those of a manifest that would grant it.
pub(crate) fn explain(err: &ClientError, lines: &str) -> SendError {
    let explained = if err.is_connect() { connect_failed(err, lines) } else { exchange_failed(err) };
    let fault = NetworkFault { what: words(err), is_hosts: is_host_fault(err) };
    SendError { fault: Some(Box::new(fault)), ..explained }
}

/// The answer to a guest whose own timeout ended before the receiver answered.
pub(crate) fn response_timeout() -> SendError {
    SendError { error: Error::HttpResponseTimeout, was_sent: true, denial: None, fault: None }
}

fn is_host_fault(err: &ClientError) -> bool {
    match find::<ConnectError>(err) {
        Some(ConnectError::Failed { failures, .. }) => failures.iter().any(|(_, err)| is_host_want(err)),
        _ => is_host_want(err),
    }
}

/// The error without the client's own name for it, and what it comes from.
fn words(err: &ClientError) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in causes(err).skip(1).map(ToString::to_string) {
        // Some errors repeat what they come from.
        if words.last().is_none_or(|last| !last.ends_with(&cause)) {
            words.push(cause);
        }
    }
    words.join(": ")
}

fn exchange_failed(err: &ClientError) -> SendError {
    let (error, denial) = match (find::<Error>(err), find::<hyper::Error>(err)) {
        (Some(Error::HttpRequestBodySize(most)), _) => (Error::HttpRequestBodySize(*most), None),
        (_, Some(err)) if err.is_parse_too_large() => {
            let (bytes, count) = (show_size(HEAD_MAX as u64), HEADERS_COUNT_MAX);
            let what = format!("the head of an answer may have {bytes} and {count} headers");
            let error = Error::HttpResponseHeaderSectionSize(u32::try_from(HEAD_MAX).ok());
            (error, Some(Denial { what, lines: None }))
        }
        (_, Some(err)) if err.is_parse() => (Error::HttpProtocolError, None),
        _ => (Error::ConnectionTerminated, None),
    };
    SendError { error, was_sent: true, denial, fault: None }
}

fn connect_failed(err: &ClientError, lines: &str) -> SendError {
    let (error, denial) = match find::<ConnectError>(err) {
        Some(reason @ ConnectError::OutOfScope { .. }) => {
            let lines = format!("{lines}\nprivate = true   # unless the address is link-local or metadata");
            let denial = Denial { what: reason.to_string(), lines: Some(lines) };
            (Error::DestinationIpProhibited, Some(denial))
        }
        Some(ConnectError::TimedOut { .. }) => (Error::ConnectionTimeout, None),
        Some(ConnectError::ResolvedLate { .. }) => (Error::DnsTimeout, None),
        Some(ConnectError::Unresolved { source, .. }) => {
            (Error::DnsError { rcode: Some(source.to_string()), info_code: None }, None)
        }
        Some(ConnectError::Failed { failures, .. }) => (no_connection(failures), None),
        None => (no_tls(err), None),
    };
    SendError { error, was_sent: false, denial, fault: None }
}

/// The error of the last address. Only a receiver that refused is called so.
fn no_connection(failures: &[FailedAddress]) -> Error {
    let errno = failures.last().and_then(|(_, err)| Errno::from_io_error(err));
    match errno {
        _ if failures.iter().any(|(_, err)| is_host_want(err)) => Error::InternalError(Some(show(failures))),
        Some(Errno::CONNREFUSED) => Error::ConnectionRefused,
        Some(Errno::NETUNREACH) => Error::DestinationIpUnroutable,
        Some(Errno::TIMEDOUT) => Error::ConnectionTimeout,
        Some(Errno::CONNRESET | Errno::CONNABORTED) => Error::ConnectionTerminated,
        _ => Error::DestinationUnavailable,
    }
}

fn no_tls(err: &ClientError) -> Error {
    match find::<rustls::Error>(err) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(_) => Error::TlsProtocolError,
        None if find::<tokio::time::error::Elapsed>(err).is_some() => Error::ConnectionTimeout,
        None => Error::ConnectionTerminated,
    }
}

fn find<'a, E: StdError + 'static>(err: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    causes(err).find_map(|err| err.downcast_ref())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused_with(errno: Errno) -> Error {
        no_connection(&[("127.0.0.1:1".parse().unwrap(), io::Error::from(errno))])
    }

    #[test]
    fn only_a_receiver_that_refused_is_called_so() {
        assert!(matches!(refused_with(Errno::CONNREFUSED), Error::ConnectionRefused));
        assert!(matches!(refused_with(Errno::NETUNREACH), Error::DestinationIpUnroutable));
        assert!(matches!(refused_with(Errno::HOSTUNREACH), Error::DestinationUnavailable));
        assert!(matches!(refused_with(Errno::TIMEDOUT), Error::ConnectionTimeout));
        let want = refused_with(Errno::MFILE);
        assert!(matches!(&want, Error::InternalError(Some(what)) if what.contains("Too many open files")), "{want:?}");
    }
}
