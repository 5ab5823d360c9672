//! Why there is no connection to a receiver, in words.
//!
//! It does not know what that means for the guest.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::outgoing::happy_eyeballs::FailedAddress;

/// Longer than a connection within a continent takes, much shorter than an attempt. A name has as long to be resolved.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection. No byte of the request was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The host name has no address.
    #[error("the name {host} could not be resolved: {source}")]
    Unresolved { host: String, source: io::Error },
    /// The resolver did not answer in time.
    #[error("the name {host} was not resolved within {CONNECT_TIMEOUT:?}")]
    ResolvedLate { host: String },
    /// The grants allow none of the host's addresses.
    #[error("{host} is at {addresses:?}, which its grant does not reach")]
    OutOfScope { host: String, addresses: Vec<SocketAddr> },
    /// No address answered in time.
    #[error("no connection to {host} at {addresses:?} within {CONNECT_TIMEOUT:?}")]
    TimedOut { host: String, addresses: Vec<SocketAddr> },
    /// No address accepted the connection.
    #[error("no connection to {host}: {}", show(failures))]
    Failed { host: String, failures: Vec<FailedAddress> },
}

/// Each address with its error.
pub(crate) fn show(failures: &[FailedAddress]) -> String {
    let each: Vec<_> = failures.iter().map(|(address, err)| format!("{address}: {err}")).collect();
    each.join(", ")
}
