//! The address of a client, also behind proxies that are trusted to tell it.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The header in which proxies tell for whom they ask; each adds its own client at the end.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address from which a request came: the other end of the connection, or, where that is a trusted proxy, the last
/// address in `X-Forwarded-For` that is none. What stands before it was written by somebody who is not trusted.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(&client) {
        return client;
    }
    let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
    for line in lines.into_iter().rev() {
        for told in line.to_str().unwrap_or_default().rsplit(',') {
            // An entry that is no address was not written by a proxy that can be trusted to write addresses.
            let Some(address) = parse(told.trim()) else { return client };
            client = address;
            if !is_trusted(&client) {
                return client;
            }
        }
    }
    client
}

/// An address, with or without a port, and an IPv6 address with or without brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|it| it.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().expect("it is a header"));
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|text| text.parse().expect("it is a network")).collect();
        client_address(peer.parse().expect("it is an address"), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_what_it_saw_itself() {
        let proxies = &["10.0.0.0/8", "fd00::/8"];
        for (peer, lines, address) in [
            ("192.0.2.1", &[][..], "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.1"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1"], "203.0.113.1"),
            ("::ffff:10.0.0.1", &["203.0.113.1"], "203.0.113.1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["203.0.113.1:1234"], "203.0.113.1"),
            // A client may write anything in front.
            ("10.0.0.1", &["1.1.1.1, 203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", &["203.0.113.1, 10.1.1.1"], "203.0.113.1"),
            ("10.0.0.1", &["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            ("10.0.0.1", &["nonsense, 10.1.1.1"], "10.1.1.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, lines, proxies), address, "{peer} {lines:?}");
        }
        assert_eq!(client("10.0.0.1", &["203.0.113.1"], &[]), "10.0.0.1");
    }
}
