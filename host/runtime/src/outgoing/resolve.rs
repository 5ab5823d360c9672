//! Resolves host names to addresses. Two answers for one name may differ, so a caller must check the addresses that it
//! connects to, and must not resolve the name again.

use std::net::{IpAddr, SocketAddr};
use std::{fmt, io};

use async_trait::async_trait;

/// Resolves host names.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// Every address of a host name, each with `port`.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Resolves names as the operating system does.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// The addresses of a host, which is a name or an IP address.
pub(crate) async fn addresses(resolver: &dyn Resolver, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
        Err(_) => resolver.resolve(host, port).await,
    }
}
