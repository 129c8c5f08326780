//! What lets connections reach the agent: its listeners, and the flows that the
//! programs sent to it.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    sync::Mutex,
};

use aya::maps::{HashMap, MapData, MapError, SockMap};
use balancer_common::{
    connection::{Flow, FlowTarget},
    maps::{self, LISTENER_V4, LISTENER_V6},
};

use super::{KernelError, load::held, record::Record, syscall};

/// OVERFLOW_FLOWS and OVERFLOW_SOCK.
pub(super) struct OverflowMaps {
    pub(super) flows: Mutex<HashMap<MapData, Record<Flow>, Record<FlowTarget>>>,
    pub(super) listeners: Mutex<SockMap<MapData>>,
}

impl OverflowMaps {
    /// See [`super::Kernel::set_listener`].
    pub(super) fn set_listener(
        &self,
        is_v4: bool,
        listener: &impl AsRawFd,
    ) -> Result<(), KernelError> {
        let index = if is_v4 { LISTENER_V4 } else { LISTENER_V6 };
        held(&self.listeners)
            .set(index, listener, 0)
            .map_err(KernelError::map("write to", maps::OVERFLOW_SOCK))
    }

    /// See [`super::Kernel::claim_flow`].
    pub(super) fn claim(&self, client: SocketAddr) -> Result<Option<FlowTarget>, KernelError> {
        let flow = Record(Flow {
            client: client.ip().into(),
            port: client.port().into(),
            reserved: 0,
        });
        let mut flows = held(&self.flows);
        let target = match flows.get(&flow, 0) {
            Ok(target) => target,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(KernelError::map("read", maps::OVERFLOW_FLOWS)(error)),
        };
        // Of all who try to remove it, one succeeds and has the count that goes with it.
        match flows.remove(&flow) {
            Ok(()) => Ok(Some(*target)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(KernelError::map("remove from", maps::OVERFLOW_FLOWS)(error)),
        }
    }

    /// See [`super::Kernel::flows`].
    pub(super) fn flows(&self) -> Result<Vec<(SocketAddr, FlowTarget)>, KernelError> {
        held(&self.flows)
            .iter()
            .map(|entry| {
                let (Record(flow), Record(target)) = entry?;
                let client = SocketAddr::new(flow.client.into(), flow.port.into());
                Ok((client, target))
            })
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("read", maps::OVERFLOW_FLOWS))
    }
}

/// Whether a removal failed because the key was not there (any more): aya gives the system call's
/// error for that, other than for look-ups.
pub(super) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The calling thread's network namespace.
pub(super) fn own_netns() -> Result<File, KernelError> {
    const PATH: &str = "/proc/thread-self/ns/net";
    File::open(PATH).map_err(|source| KernelError::Proc { path: PATH, source })
}

/// The cookie by which programs know the calling thread's network namespace.
pub(super) fn own_netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .or_else(|_| std::net::UdpSocket::bind(("::1", 0)))?;
    syscall::netns_cookie(socket.as_fd())
}
