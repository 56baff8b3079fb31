//! Addresses that webhooks must not reach (server-side request forgery).
//!
//! Every address that is not public is refused, because a tenant's URL is dialled from inside the
//! operator's network. IPv4 follows the special-purpose registry (RFC 6890), plus the metadata
//! services of clouds; of IPv6 only `2000::/3` is public, without its special parts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use ipnet::IpNet;
use ipnet::{Ipv4Net, Ipv6Net};

/// An address that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is refused: it is {class}; [notification] allow_networks can open it")]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    /// What kind of address it is, with an article: "a private address".
    pub class: &'static str,
}

/// Which addresses webhooks may reach besides the public ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    allowed: Vec<IpNet>,
}

impl Networks {
    /// Public addresses, and those in `allowed`. An IPv4 network also opens the IPv4-mapped form of
    /// its addresses, but no other form.
    pub const fn allowing(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether `address` may be dialled. Cost: the number of networks.
    ///
    /// # Errors
    /// [`Refused`] says what kind of address it is.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        // The only form in which the system's network stack itself dials IPv4.
        let canonical = address.to_canonical();
        if self.allowed.iter().any(|net| net.contains(&canonical) || net.contains(&address)) {
            return Ok(());
        }
        let class = match canonical {
            IpAddr::V4(address) => special_v4(address),
            IpAddr::V6(address) => special_v6(address),
        };
        class.map_or(Ok(()), |class| Err(Refused { address, class }))
    }

    /// Whether all addresses of a name may be dialled. One refused address refuses the name, so
    /// that nobody reaches it by a different DNS answer the next time.
    ///
    /// # Errors
    /// [`Refused`] for the first one that is refused.
    pub fn check_all(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), Refused> {
        addresses.into_iter().try_for_each(|address| self.check(address))
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

const PRIVATE: &str = "a private address";
const DOCUMENTATION: &str = "an address for documentation";
const RESERVED: &str = "a reserved address";

/// The order matters only for the error's text: it names the first match.
const SPECIAL_V4: [(Ipv4Net, &str); 18] = [
    (v4(169, 254, 169, 254, 32), "the address of a metadata service"),
    (v4(168, 63, 129, 16, 32), "the address of a metadata service"),
    (v4(100, 100, 100, 200, 32), "the address of a metadata service"),
    (v4(192, 0, 0, 192, 32), "the address of a metadata service"),
    (v4(0, 0, 0, 0, 8), "an address of this host"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(10, 0, 0, 0, 8), PRIVATE),
    (v4(172, 16, 0, 0, 12), PRIVATE),
    (v4(192, 168, 0, 0, 16), PRIVATE),
    (v4(100, 64, 0, 0, 10), "an address of a provider's own network (CGNAT)"),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(192, 0, 0, 0, 24), RESERVED),
    (v4(192, 0, 2, 0, 24), DOCUMENTATION),
    (v4(198, 51, 100, 0, 24), DOCUMENTATION),
    (v4(203, 0, 113, 0, 24), DOCUMENTATION),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(198, 18, 0, 0, 15), "an address for benchmarks"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
];

/// Ranges that are not public anyway but deserve a better error text; and the parts of `2000::/3`
/// that are not public.
const SPECIAL_V6: [(Ipv6Net, &str); 15] = [
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
        "the address of a metadata service",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
        "the address of a metadata service",
    ),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback address"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "an address of this host"),
    (v6(0x64, 0xff9b, 0, 96), "an IPv4 address behind NAT64"),
    (v6(0x64, 0xff9b, 1, 48), "an IPv4 address behind NAT64"),
    (v6(0xfc00, 0, 0, 7), "a unique local address"),
    (v6(0xfe80, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 10), "a site-local address"),
    (v6(0xff00, 0, 0, 8), "a multicast address"),
    (v6(0x2001, 0, 0, 32), "an IPv4 address behind Teredo"),
    (v6(0x2001, 0, 0, 23), RESERVED),
    (v6(0x2001, 0xdb8, 0, 32), DOCUMENTATION),
    (v6(0x3fff, 0, 0, 20), DOCUMENTATION),
    (v6(0x2002, 0, 0, 16), "an IPv4 address behind 6to4"),
];

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let known = SPECIAL_V4.iter().find(|(net, _)| net.contains(&address));
    let reserved = || (address.octets()[0] >= 240).then_some(RESERVED);
    known.map(|(_, class)| *class).or_else(reserved)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let known = SPECIAL_V6.iter().find(|(net, _)| net.contains(&address));
    let reserved = || (!v6(0x2000, 0, 0, 3).contains(&address)).then_some(RESERVED);
    known.map(|(_, class)| *class).or_else(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(address: &str) -> Option<&'static str> {
        let refused = Networks::default().check(address.parse().unwrap());
        refused.err().map(|refused| refused.class)
    }

    /// The first and the last address of each range, and their public neighbours.
    #[test]
    fn special_addresses_are_refused_and_their_neighbours_are_not() {
        for (refused, public) in [
            ("0.0.0.0 0.255.255.255", "1.0.0.0"),
            ("10.0.0.0 10.255.255.255", "9.255.255.255 11.0.0.0"),
            ("100.64.0.0 100.127.255.255 100.100.100.200", "100.63.255.255 100.128.0.0"),
            ("127.0.0.1 127.255.255.255", "126.255.255.255 128.0.0.0"),
            ("169.254.0.0 169.254.169.254 169.254.255.255", "169.253.255.255 169.255.0.0"),
            ("172.16.0.0 172.31.255.255", "172.15.255.255 172.32.0.0"),
            ("192.0.0.0 192.0.0.192 192.0.0.255 192.0.2.7", "192.0.1.0 192.0.3.0"),
            ("192.88.99.1", "192.88.98.255 192.88.100.0"),
            ("192.168.0.0 192.168.255.255", "192.167.255.255 192.169.0.0"),
            ("198.18.0.0 198.19.255.255", "198.17.255.255 198.20.0.0"),
            ("198.51.100.1 203.0.113.255", "198.51.101.0 203.0.114.0"),
            ("224.0.0.0 239.255.255.255", "223.255.255.255"),
            ("240.0.0.0 255.255.255.255 168.63.129.16", "168.63.129.15 168.63.129.17"),
            (":: ::1 ::2 ::7f00:1 100::1", "2000:: 2606:4700::1111"),
            ("::ffff:127.0.0.1 ::ffff:a00:1 ::ffff:169.254.169.254", "::ffff:8.8.8.8"),
            ("64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:ffff::1", "2a00::1"),
            ("2001::1 2001:0:7f00:1:: 2001:1ff:: 2001:db8::1", "2001:200:: 2001:db9::"),
            ("2002:7f00:1:: 2002:808:808::", "2003::"),
            ("3fff:: 3fff:fff::", "3fff:1000:: 3ffe::1"),
            ("fc00::1 fd00:ec2::254 fd20:ce::254 fdff::", "2400::"),
            ("fe80::1 febf::1 fec0::1 feff::1 ff02::1 4000::1 5f00::1 e000::", "2800::"),
        ] {
            for address in refused.split(' ') {
                assert!(class(address).is_some(), "{address} is let through");
            }
            for address in public.split(' ') {
                assert_eq!(class(address), None, "{address}");
            }
        }
    }

    #[test]
    fn a_refusal_says_why() {
        for (address, expected) in [
            ("127.0.0.1", "a loopback address"),
            ("::ffff:10.0.0.1", "a private address"),
            ("169.254.169.254", "the address of a metadata service"),
            ("fd00:ec2::254", "the address of a metadata service"),
            ("2002:7f00:1::", "an IPv4 address behind 6to4"),
            ("255.255.255.255", "a reserved address"),
        ] {
            assert_eq!(class(address), Some(expected), "{address}");
        }
        let refused = Networks::default().check([10, 0, 0, 1].into()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "10.0.0.1 is refused: it is a private address; \
             [notification] allow_networks can open it"
        );
    }

    #[test]
    fn networks_are_opened_one_by_one() {
        let networks = ["127.0.0.0/8", "10.1.0.0/16", "fd00::/64", "64:ff9b::/96"];
        let networks = networks.iter().map(|net| net.parse().unwrap()).collect();
        let networks = Networks::allowing(networks);
        for (address, is_allowed) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("10.1.2.3", true),
            ("10.2.0.0", false),
            ("fd00::1", true),
            ("fd00:0:0:1::1", false),
            ("64:ff9b::a00:1", true),
            ("2002:7f00:1::", false),
            ("169.254.169.254", false),
            ("8.8.8.8", true),
        ] {
            let found = networks.check(address.parse().unwrap());
            assert_eq!(found.is_ok(), is_allowed, "{address}");
        }
    }

    #[test]
    fn one_refused_answer_spoils_the_rest() {
        let addresses = |list: &[&str]| -> Vec<IpAddr> {
            list.iter().map(|address| address.parse().unwrap()).collect()
        };
        let networks = Networks::default();
        assert!(networks.check_all(addresses(&["8.8.8.8", "2606:4700::1111"])).is_ok());
        for mixed in [["8.8.8.8", "10.0.0.1"], ["::1", "8.8.8.8"]] {
            assert!(networks.check_all(addresses(&mixed)).is_err(), "{mixed:?}");
        }
    }
}
