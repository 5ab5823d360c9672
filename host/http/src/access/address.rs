//! Where a request comes from: the peer of its connection, or the client that a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use axum::http::{Extensions, HeaderMap};

use crate::access::settings::AccessSettings;

/// The address of the peer of a connection. The server puts it into the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(IpAddr);

impl PeerAddress {
    /// The peer at this address. An IPv4 address that a socket of IPv6 shows is one of IPv4.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address of the peer of a request; the unspecified one for a request that came by no connection.
    pub(crate) fn of(extensions: &Extensions) -> IpAddr {
        extensions.get::<Self>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0)
    }
}

/// Who failed attempts are counted for: the peer, or the last address in `X-Forwarded-For` that is no proxy, if the peer
/// is one. What stands before that address is a claim of the client. IPv6 addresses are counted by network, because one client
/// has many addresses of its network.
pub(crate) fn client(settings: &AccessSettings, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    if !settings.is_proxy(peer) {
        return network(peer);
    }
    let values = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let addresses = hops.iter().rev().map_while(|hop| parsed(hop));
    let mut last = peer;
    for address in addresses {
        last = address;
        if !settings.is_proxy(address) {
            break;
        }
    }
    network(last)
}

/// An address, which some proxies write with the port.
fn parsed(hop: &str) -> Option<IpAddr> {
    let address = hop.parse().ok().or_else(|| hop.parse().ok().map(|with_port: SocketAddr| with_port.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// The address, or its network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(peer: &str, forwarded: &[&str]) -> String {
        let proxies = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()].to_vec();
        let settings = AccessSettings { proxies, ..AccessSettings::default() };
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        client(&settings, &headers, PeerAddress::new(peer.parse().unwrap()).0).to_string()
    }

    #[test]
    fn only_a_proxy_says_for_whom_it_asks_and_only_its_own_word_counts() {
        assert_eq!(client_of("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "no proxy");
        assert_eq!(client_of("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7", "the first is a claim");
        assert_eq!(client_of("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client_of("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client_of("10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(client_of("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client_of("10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1");
        assert_eq!(client_of("2001:db8:1:2:3::4", &[]), "2001:db8:1:2::");
    }
}
