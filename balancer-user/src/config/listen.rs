//! Addresses that the agent listens on, and what may not be listened on at once.
//!
//! Owns their spelling. Refuses host names, relative socket paths and two listeners on one
//! address. Binds nothing. Used by `agent` and, through `FromStr`, by the command line's flags.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::problem::{Findings, Place};
use super::value::Written;
use crate::model::{AddressFault, parse_address};

/// One address of the admin API: `unix:PATH` or `IP:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AdminAddress {
    /// A unix socket at an absolute path.
    Unix(PathBuf),
    /// A TCP address. Port 0 is any free port.
    Tcp(SocketAddr),
}

/// Bytes in the path of a unix socket, the closing zero not counted (`sun_path` in unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

impl FromStr for AdminAddress {
    type Err = ListenFault;

    fn from_str(text: &str) -> Result<Self, ListenFault> {
        let Some(path) = text.strip_prefix("unix:") else {
            return listen_address(text).map(Self::Tcp);
        };
        if !Path::new(path).is_absolute() || path.contains('\0') {
            Err(ListenFault::RelativePath)
        } else if path.len() > MAX_SOCKET_PATH_BYTES {
            Err(ListenFault::LongPath(path.len()))
        } else {
            Ok(Self::Unix(PathBuf::from(path)))
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(out),
        }
    }
}

/// Where metrics are served besides the admin API: `IP:PORT` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metrics {
    /// Only on the admin API.
    Off,
    /// On this address too. Port 0 is any free port.
    On(SocketAddr),
}

impl FromStr for Metrics {
    type Err = ListenFault;

    fn from_str(text: &str) -> Result<Self, ListenFault> {
        match text {
            "none" => Ok(Self::Off),
            text => listen_address(text).map(Self::On),
        }
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("none"),
            Self::On(address) => address.fmt(out),
        }
    }
}

/// Why a text is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenFault {
    /// Neither a unix socket nor an IP address and port.
    #[error("{0}")]
    Address(#[from] AddressFault),
    /// A unix socket needs an absolute path.
    #[error("the path after `unix:` is not absolute")]
    RelativePath,
    /// The kernel has no room for it.
    #[error("its path has {0} bytes, and a socket's has at most {MAX_SOCKET_PATH_BYTES}")]
    LongPath(usize),
}

fn listen_address(text: &str) -> Result<SocketAddr, ListenFault> {
    let address = parse_address(text)?;
    if address.ip().is_multicast() {
        return Err(AddressFault::Multicast.into());
    }
    Ok(address)
}

/// A listener that has been read, for finding two on one address.
pub(crate) type Listener = (AdminAddress, Place);

/// Checks the entries of a list of admin addresses.
pub(crate) fn admin_addresses<'a>(
    entries: impl Iterator<Item = Written<'a>>,
    findings: &mut Findings,
) -> Vec<Listener> {
    let mut admin: Vec<Listener> = Vec::new();
    for written in entries {
        let hint = "unix:/ABSOLUTE/PATH or IP:PORT";
        if let Some(address) = listener(written, "admin address", hint, findings) {
            let new = (address, written.place);
            refuse_collision(&admin, &new, findings);
            admin.push(new);
        }
    }
    admin
}

/// Checks one address called `what`, which is written in one of these shapes.
pub(crate) fn listener<T: FromStr<Err = ListenFault>>(
    written: Written<'_>,
    what: &str,
    shape: &str,
    findings: &mut Findings,
) -> Option<T> {
    let Written { text, place } = written;
    text.parse()
        .map_err(|fault: ListenFault| {
            findings.reject(
                place,
                format!("{text:?} cannot be an address to listen on ({what}): {fault}"),
                format!("write {shape}"),
            );
        })
        .ok()
}

/// Rejects `new` if it cannot be bound while `taken` are.
pub(crate) fn refuse_collision(taken: &[Listener], new: &Listener, findings: &mut Findings) {
    let (address, place) = new;
    if let Some((other, _)) = taken.iter().find(|(other, _)| collide(other, address)) {
        findings.reject(
            *place,
            format!("{address} cannot be listened on beside {other}"),
            "give every listener an address or port of its own",
        );
    }
}

/// Whether binding both at once must fail.
fn collide(one: &AdminAddress, other: &AdminAddress) -> bool {
    match (one, other) {
        (AdminAddress::Tcp(one), AdminAddress::Tcp(other)) => {
            let any = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() != 0 && one.port() == other.port() && (any || one.ip() == other.ip())
        }
        (one, other) => one == other,
    }
}
