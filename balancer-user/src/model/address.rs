//! Addresses of frontends and backends in one form each.
//!
//! An IPv4-mapped IPv6 address is the same address as its IPv4 form, and a flow label is not part
//! of an address: both are dropped here, so that equal addresses compare equal everywhere else.
//! Refuses whatever `connect()` could not reach or could not intercept.

use std::net::{IpAddr, SocketAddr};

/// The one form of an address: IPv4 where it is IPv4-mapped, without flow label and scope.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads `a.b.c.d:port` or `[v6]:port` and returns its one form. No names are looked up.
pub fn parse_address(text: &str) -> Result<SocketAddr, AddressFault> {
    match text.parse::<SocketAddr>() {
        Ok(SocketAddr::V6(address)) if address.scope_id() != 0 => Err(AddressFault::Scoped),
        Ok(address) => Ok(canonical(address)),
        Err(_) => Err(why_not_an_address(text)),
    }
}

/// Checks that `address` can be a frontend: one host's address and a real port.
pub fn check_frontend(address: SocketAddr) -> Result<(), AddressFault> {
    check_host(address)
}

/// Checks that `address` can be a backend: one host's address and a real port.
pub fn check_backend(address: SocketAddr) -> Result<(), AddressFault> {
    check_host(address)
}

/// Why a text or an address cannot be a frontend or a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Only an IP address.
    #[error("it has no port")]
    NoPort,
    /// Something, then a port; the something is not an IP address.
    #[error("its host is not an IP address, and names are not looked up")]
    Host,
    /// The port is not a number from 1 to 65,535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// Port 0.
    #[error("port 0 cannot be dialled")]
    PortZero,
    /// `0.0.0.0` or `::`.
    #[error("the unspecified address stands for no host")]
    Unspecified,
    /// A multicast address or the IPv4 broadcast address.
    #[error("TCP cannot reach a multicast or broadcast address")]
    Multicast,
    /// An IPv6 address with a zone (`%eth0`).
    #[error("an address with a zone means something else on every host")]
    Scoped,
}

fn check_host(address: SocketAddr) -> Result<(), AddressFault> {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if address.port() == 0 {
        Err(AddressFault::PortZero)
    } else if ip.is_unspecified() {
        Err(AddressFault::Unspecified)
    } else if ip.is_multicast() || broadcast {
        Err(AddressFault::Multicast)
    } else {
        Ok(())
    }
}

fn why_not_an_address(text: &str) -> AddressFault {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if text.parse::<IpAddr>().is_ok() || bare.parse::<IpAddr>().is_ok() {
        return AddressFault::NoPort;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return AddressFault::NoPort;
    };
    if port.parse::<u16>().is_err() {
        return AddressFault::Port;
    }
    if host.contains('%') {
        return AddressFault::Scoped;
    }
    AddressFault::Host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_its_ipv4_form() {
        let mapped = parse_address("[::ffff:10.1.0.2]:8080").unwrap();
        assert_eq!(mapped, parse_address("10.1.0.2:8080").unwrap());
        assert!(mapped.is_ipv4());
    }

    #[test]
    fn texts_that_are_no_address_say_what_is_missing() {
        for (text, fault) in [
            ("10.1.0.2", AddressFault::NoPort),
            ("::1", AddressFault::NoPort),
            ("[::1]", AddressFault::NoPort),
            ("hello", AddressFault::NoPort),
            ("", AddressFault::NoPort),
            ("hello:80", AddressFault::Host),
            ("hello.default.svc:80", AddressFault::Host),
            ("10.1.0.256:80", AddressFault::Host),
            ("10.1.0.2:99999", AddressFault::Port),
            ("10.1.0.2:http", AddressFault::Port),
            ("10.1.0.2:", AddressFault::Port),
            ("[fe80::1%eth0]:80", AddressFault::Scoped),
            ("[fe80::1%2]:80", AddressFault::Scoped),
        ] {
            assert_eq!(parse_address(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn addresses_that_name_no_host_are_refused() {
        for (text, fault) in [
            ("10.1.0.2:0", AddressFault::PortZero),
            ("0.0.0.0:80", AddressFault::Unspecified),
            ("[::]:80", AddressFault::Unspecified),
            ("[::ffff:0.0.0.0]:80", AddressFault::Unspecified),
            ("224.0.0.1:80", AddressFault::Multicast),
            ("255.255.255.255:80", AddressFault::Multicast),
            ("[ff02::1]:80", AddressFault::Multicast),
        ] {
            let address = parse_address(text).unwrap();
            assert_eq!(check_frontend(address), Err(fault), "{text}");
            assert_eq!(check_backend(address), Err(fault), "{text}");
        }
        assert_eq!(check_backend("[fd00::2]:8080".parse().unwrap()), Ok(()));
    }
}
