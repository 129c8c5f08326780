//! Addresses and ports as they stand in maps: in network byte order.
//!
//! One form serves both families: an IPv4 address is held as the IPv4-mapped
//! IPv6 address `::ffff:a.b.c.d`, so a client that dials the mapped form finds
//! the same frontend as one that dials plain IPv4.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::maps::MAX_SERVICES;

/// The third word of an IPv4-mapped address, in network order.
pub const MAPPED_PREFIX: u32 = 0x0000_ffff_u32.to_be();

/// `IPPROTO_TCP`, the only protocol that is steered.
pub const TCP: u8 = 6;

/// An IPv6 or IPv4-mapped address: 16 bytes in network order, as four words in
/// the form in which `struct bpf_sock_addr` gives them. All zero: none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// From an IPv4 address word in network order (`user_ip4`).
    #[inline(always)]
    pub const fn mapped(ip4: u32) -> Self {
        Self([0, 0, MAPPED_PREFIX, ip4])
    }

    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::mapped(0x7f00_0001_u32.to_be());
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 1_u32.to_be()]);

    /// Whether this stands for no address.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_mapped(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED_PREFIX
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
        let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_ne_bytes(), d.to_ne_bytes());
        [
            a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        ]
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let word = |at: usize| {
            u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
        };
        Self([word(0), word(4), word(8), word(12)])
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.octets()).to_canonical()
    }
}

/// A port in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port(pub u16);

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Self(port.to_be())
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> Self {
        Self::from_be(port.0)
    }
}

/// Key of FRONTENDS: address, then port (network order) and protocol packed in
/// one word. Written by `reconcile`, looked up at every `connect()`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendKey(pub [u32; 5]);

const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    /// The key of a TCP frontend.
    #[inline(always)]
    pub const fn tcp(address: Address, port: Port) -> Self {
        let [a, b, c, d] = address.0;
        Self([a, b, c, d, port.0 as u32 | (TCP as u32) << 16])
    }

    /// Address and port in host form.
    pub fn socket_addr(&self) -> SocketAddr {
        let [a, b, c, d, port] = self.0;
        SocketAddr::new(Address([a, b, c, d]).into(), Port(port as u16).into())
    }
}

impl From<SocketAddr> for FrontendKey {
    fn from(at: SocketAddr) -> Self {
        Self::tcp(at.ip().into(), at.port().into())
    }
}

/// Value of FRONTENDS: the id of a service, and whether what was dialled is the own address of one
/// of its backends. Written by `reconcile`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeadsTo(pub u32);

impl LeadsTo {
    const OF_BACKEND: u32 = 1 << 31;

    /// To the service with this id, by an address of the service's.
    #[inline(always)]
    pub const fn service(id: u32) -> Self {
        Self(id)
    }

    /// To the service with this id, by the own address of a backend.
    #[inline(always)]
    pub const fn service_of_backend(id: u32) -> Self {
        Self(id | Self::OF_BACKEND)
    }

    /// The id of the service.
    #[inline(always)]
    pub const fn id(self) -> u32 {
        self.0 & !Self::OF_BACKEND
    }

    /// Whether this is the own address of a backend.
    #[inline(always)]
    pub const fn is_of_backend(self) -> bool {
        self.0 & Self::OF_BACKEND != 0
    }
}

const _: () = assert!(MAX_SERVICES <= LeadsTo::OF_BACKEND);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    #[test]
    fn an_id_stays_what_it_is_whatever_was_dialled() {
        for id in [0, 1, MAX_SERVICES - 1] {
            let (service, backend) = (LeadsTo::service(id), LeadsTo::service_of_backend(id));
            assert_eq!((service.id(), service.is_of_backend()), (id, false));
            assert_eq!((backend.id(), backend.is_of_backend()), (id, true));
        }
    }

    proptest! {
        #[test]
        fn a_frontend_key_keeps_its_address(ip: IpAddr, port: u16) {
            let ip = ip.to_canonical();
            let key = FrontendKey::from(SocketAddr::new(ip, port));
            prop_assert_eq!(key.socket_addr(), SocketAddr::new(ip, port));
        }

        #[test]
        fn both_forms_of_an_ipv4_address_are_one_key(ip: Ipv4Addr, port: u16) {
            let plain = FrontendKey::from(SocketAddr::new(ip.into(), port));
            let mapped = FrontendKey::from(SocketAddr::new(ip.to_ipv6_mapped().into(), port));
            let from_hook = FrontendKey::tcp(Address::mapped(u32::from_ne_bytes(ip.octets())), port.into());
            prop_assert_eq!(plain, mapped);
            prop_assert_eq!(plain, from_hook);
        }
    }
}
