//! Where clients on this node reach the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use crate::config::Overflow;

/// The node's addresses for overflow. Clients in the agent's own network namespace use loopback
/// and need neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// For clients of IPv4 frontends.
    pub v4: Option<Ipv4Addr>,
    /// For clients of IPv6 frontends.
    pub v6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// As configured, or else found: the address from which this node would speak to the world,
    /// or if it would not, the first of an interface that is up.
    pub fn find(configured: &Overflow) -> Self {
        match configured {
            Overflow::Addresses { v4, v6 } => Self { v4: *v4, v6: *v6 },
            Overflow::Auto => Self {
                v4: source_v4().or_else(|| first(as_v4)),
                v6: source_v6().or_else(|| first(as_v6)),
            },
        }
    }
}

/// The source address towards the default route. Connecting a UDP socket sends nothing
/// (udp(7)); the destinations are for documentation (RFC 5737, RFC 3849).
fn source_v4() -> Option<Ipv4Addr> {
    as_v4(source_towards(
        (Ipv4Addr::UNSPECIFIED, 0).into(),
        (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
    )?)
}

fn source_v6() -> Option<Ipv6Addr> {
    let destination = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    as_v6(source_towards(
        (Ipv6Addr::UNSPECIFIED, 0).into(),
        (destination, 9).into(),
    )?)
}

fn source_towards(own: SocketAddr, destination: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(own).ok()?;
    socket.connect(destination).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The first usable address of an interface that is up and not loopback.
fn first<A>(usable: impl Fn(IpAddr) -> Option<A>) -> Option<A> {
    let up = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    getifaddrs()
        .ok()?
        .filter(|interface| up(interface.flags))
        .filter_map(|interface| {
            let address = interface.address?;
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                _ => None,
            }
        })
        .find_map(usable)
}

fn as_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified() => {
            Some(v4)
        }
        _ => None,
    }
}

fn as_v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(v6)
            if !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified() =>
        {
            Some(v6)
        }
        _ => None,
    }
}
