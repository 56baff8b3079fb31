//! Names of hosts, compared as far as that needs no lookup.

use std::net::IpAddr;

/// A form in which names that certainly lead to one host are equal: in lower case, without the dot
/// of the root, addresses in their shortest form, and this host as `localhost`. What a name
/// resolves to is left out: it may change.
pub fn canonical_host(name: &str) -> String {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
    match name.parse::<IpAddr>().map(|address| address.to_canonical()) {
        // The usual address of the name `localhost`; others of 127.0.0.0/8 may be another server's.
        Ok(IpAddr::V4(address)) if address.octets() == [127, 0, 0, 1] => "localhost".to_owned(),
        Ok(address) if address.is_ipv6() && address.is_loopback() => "localhost".to_owned(),
        Ok(address) => address.to_string(),
        Err(_) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_host;

    #[test]
    fn one_host_has_one_form() {
        for (name, form) in [
            ("localhost", "localhost"),
            ("LocalHost.", "localhost"),
            ("127.0.0.1", "localhost"),
            ("::1", "localhost"),
            ("[::1]", "localhost"),
            ("0:0:0:0:0:0:0:1", "localhost"),
            ("::ffff:127.0.0.1", "localhost"),
            ("127.0.0.2", "127.0.0.2"),
            ("::FFFF:10.0.0.1", "10.0.0.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("Redis-1.Example.ORG.", "redis-1.example.org"),
        ] {
            assert_eq!(canonical_host(name), form, "{name}");
        }
    }
}
