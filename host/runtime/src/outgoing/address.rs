//! Which addresses an outgoing request may reach. This is decided after the host name is resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::outgoing::grant::AddressScope;

/// Whether an address is in scope. Link-local and metadata addresses never are.
pub(crate) fn is_allowed(scope: AddressScope, address: IpAddr) -> bool {
    let address = canonical(address);
    match scope {
        AddressScope::Nothing => false,
        AddressScope::Private => !is_always_denied(address),
        AddressScope::Public => !is_always_denied(address) && is_public(address),
    }
}

/// The IPv4 address that an IPv6 address embeds, if it embeds one.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let embedded = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        // IPv4-mapped, IPv4-translated, NAT64, and 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        // IPv4-compatible, which is obsolete. `::` and `::1` are no such addresses.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => embedded(high, low),
        _ => address,
    }
}

/// Addresses at which cloud providers serve credentials, besides the link-local ones.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)),
];

fn is_always_denied(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || is_local_nat64(v6),
    };
    is_link_local || address.is_unspecified() || address.is_multicast() || METADATA.contains(&address)
}

/// Whether a translator of the local network decides which IPv4 address this is (RFC 8215). Where in the address the
/// translator looks for it is not known here, so it may be any, also one that serves credentials.
fn is_local_nat64(address: Ipv6Addr) -> bool {
    address.segments()[..3] == [0x64, 0xff9b, 1]
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !is_special(v4),
        // Only 2000::/3 is routed globally. Of it, 2001:db8::/32 is for documentation, and 2001::/32
        // tunnels to an IPv4 address of its own.
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            first & 0xe000 == 0x2000 && !(first == 0x2001 && matches!(second, 0 | 0xdb8))
        }
    }
}

fn is_special(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && b & 0xc0 == 64)
        || (a == 198 && b & 0xfe == 18)
        || (a, b, c) == (192, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(scope: AddressScope, address: &str) -> bool {
        is_allowed(scope, address.parse().unwrap())
    }

    #[test]
    fn no_grant_opens_link_local_and_metadata_addresses() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "::ffff:0:169.254.169.254",
            "2002:a9fe:a9fe::1",
            "::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "224.0.0.1",
        ] {
            assert!(!allowed(AddressScope::Private, address), "{address}");
            assert!(!allowed(AddressScope::Public, address), "{address}");
        }
    }

    #[test]
    fn private_addresses_need_a_grant_that_means_them() {
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
            "2001::1",
        ] {
            assert!(allowed(AddressScope::Private, address), "{address}");
            assert!(!allowed(AddressScope::Public, address), "{address}");
        }
        for address in ["93.184.216.34", "2606:2800:220:1::1"] {
            assert!(allowed(AddressScope::Public, address), "{address}");
            assert!(!allowed(AddressScope::Nothing, address), "{address}");
        }
    }
}
