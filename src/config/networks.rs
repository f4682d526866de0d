//! To which addresses requests to targets outside may go. Without leave, none goes to this machine, to its network, or to
//! any other address that is not a public one. See decision 0087.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What a rule allows besides public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedNetworks {
    /// Every address.
    pub private: bool,
    /// The addresses of these networks.
    pub networks: Vec<IpNet>,
}

impl AllowedNetworks {
    /// Whether anything is allowed besides public addresses.
    pub fn is_wider(&self) -> bool {
        self.private || !self.networks.is_empty()
    }

    /// What kind of address it is, if no request may go there.
    pub fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        let inner = inner(address);
        let is_in = |network: &IpNet| network.contains(&inner) || network.contains(&address);
        if self.private || self.networks.iter().any(is_in) {
            return None;
        }
        match (address, inner) {
            (IpAddr::V6(outer), IpAddr::V6(_)) => special_v6(outer),
            (_, IpAddr::V4(inner)) => special_v4(inner),
            (IpAddr::V4(_), IpAddr::V6(_)) => None,
        }
    }
}

/// The IPv4 address to which an IPv6 address leads, where it is such a form of one; else the address itself.
fn inner(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let [a, b, c, d, e, f, g, h] = six.segments();
    let four = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        // IPv4-mapped, IPv4-translated.
        (0, 0, 0, 0, 0, 0xffff) | (0, 0, 0, 0, 0xffff, 0) => four(g, h),
        // IPv4-compatible; `::` and `::1` are addresses of their own.
        (0, 0, 0, 0, 0, 0) if g != 0 || h > 1 => four(g, h),
        // NAT64, the well-known prefix.
        (0x64, 0xff9b, 0, 0, 0, 0) => four(g, h),
        // 6to4.
        (0x2002, ..) => four(b, c),
        _ => address,
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) => "an unspecified address",
        (127, ..) => "a loopback address",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "a private address",
        (100, 64..=127, _) => "a shared address of a provider",
        (169, 254, _) => "a link-local address",
        (192, 0, 0) | (192, 0, 2) | (192, 88, 99) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => {
            "a reserved address"
        }
        (224..=239, ..) => "a multicast address",
        (240.., ..) => "a reserved address",
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("an unspecified address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    let [a, b, ..] = address.segments();
    Some(match (a, b) {
        (0xfe80..=0xfebf, _) => "a link-local address",
        (0xfc00..=0xfdff, _) | (0xfec0..=0xfeff, _) => "a private address",
        (0xff00.., _) => "a multicast address",
        // NAT64 prefixes of a network's own, discard, Teredo, benchmarks, ORCHID, documentation, segment routing.
        (0x64, 0xff9b) | (0x100, 0) | (0x2001, 0..=0x1ff) | (0x2001, 0xdb8) | (0x3fff, 0..=0xfff) | (0x5f00, _) => {
            "a reserved address"
        }
        // All public addresses of today are in 2000::/3.
        (0x2000..=0x3fff, _) => return None,
        _ => "a reserved address",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(allowed: &AllowedNetworks, address: &str) -> Option<&'static str> {
        allowed.refuses(address.parse().expect("an address"))
    }

    #[test]
    fn only_public_addresses_are_allowed_unless_the_rule_says_otherwise() {
        let none = AllowedNetworks::default();
        for public in [
            "1.1.1.1",
            "140.82.112.3",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert_eq!(refused(&none, public), None, "{public}");
        }
        for (address, kind) in [
            ("0.0.0.0", "an unspecified address"),
            ("0.1.2.3", "an unspecified address"),
            ("127.0.0.1", "a loopback address"),
            ("127.255.255.255", "a loopback address"),
            ("10.1.2.3", "a private address"),
            ("172.16.0.1", "a private address"),
            ("172.31.255.255", "a private address"),
            ("192.168.1.1", "a private address"),
            ("100.64.0.1", "a shared address of a provider"),
            ("169.254.169.254", "a link-local address"),
            ("192.0.0.8", "a reserved address"),
            ("192.0.2.1", "a reserved address"),
            ("198.18.0.1", "a reserved address"),
            ("198.51.100.1", "a reserved address"),
            ("203.0.113.1", "a reserved address"),
            ("224.0.0.1", "a multicast address"),
            ("239.255.255.255", "a multicast address"),
            ("255.255.255.255", "a reserved address"),
            ("::", "an unspecified address"),
            ("::1", "a loopback address"),
            ("::127.0.0.1", "a loopback address"),
            ("::ffff:127.0.0.1", "a loopback address"),
            ("::ffff:0:127.0.0.1", "a loopback address"),
            ("::ffff:169.254.169.254", "a link-local address"),
            ("64:ff9b::127.0.0.1", "a loopback address"),
            ("64:ff9b::a00:1", "a private address"),
            ("64:ff9b:1::a00:1", "a reserved address"),
            ("2002:7f00:1::", "a loopback address"),
            ("2002:a00:1::1", "a private address"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "a reserved address"),
            ("2001:db8::1", "a reserved address"),
            ("fe80::1", "a link-local address"),
            ("fd00::1", "a private address"),
            ("fec0::1", "a private address"),
            ("ff02::1", "a multicast address"),
            ("100::1", "a reserved address"),
            ("4000::1", "a reserved address"),
        ] {
            assert_eq!(refused(&none, address), Some(kind), "{address}");
        }
    }

    #[test]
    fn a_network_that_is_allowed_is_allowed_in_every_form_and_no_other_is() {
        let networks = vec!["10.2.0.0/16".parse().expect("a network"), "fd00:1::/32".parse().expect("a network")];
        let some = AllowedNetworks { private: false, networks };
        for allowed in ["10.2.3.4", "::ffff:10.2.3.4", "64:ff9b::10.2.3.4", "fd00:1::7"] {
            assert_eq!(refused(&some, allowed), None, "{allowed}");
        }
        for other in ["10.3.0.1", "127.0.0.1", "fd00:2::7", "::1"] {
            assert!(refused(&some, other).is_some(), "{other}");
        }
        let all = AllowedNetworks { private: true, networks: Vec::new() };
        assert_eq!(refused(&all, "127.0.0.1"), None);
    }
}
