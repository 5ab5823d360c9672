//! How the names of hosts become addresses. What they are may change between two answers, so whoever
//! asks judges the answer that it connects to.

use std::net::{IpAddr, SocketAddr};
use std::{fmt, io};

use async_trait::async_trait;

/// Answers the addresses of a host.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// Every address of a name, with the port.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Asks the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// The addresses of a host that is a name or already an address.
pub(crate) async fn addresses(resolver: &dyn Resolver, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
        Err(_) => resolver.resolve(host, port).await,
    }
}
