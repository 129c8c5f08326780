//! The steered sockets that are alive, read through the `idle_dump` iterator.

use std::{
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    time::Duration,
};

use balancer_common::{
    address::{Address, Port},
    atomic::load,
    connection::{Connection, HELD_SLOT, STEERED_TO_AGENT},
};

/// One steered socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveConnection {
    /// The client's own address; `None` while it has none yet.
    pub client: Option<SocketAddr>,
    /// What the client dialled.
    pub frontend: SocketAddr,
    /// Where it was steered.
    pub backend: SocketAddr,
    /// Id of the service.
    pub service_id: u32,
    /// Id of the backend.
    pub backend_id: u32,
    /// The backend's generation when it was steered.
    pub generation: u32,
    /// Whether it holds a slot: not after either side has ended the connection,
    /// though the socket may live on.
    pub holds_slot: bool,
    /// Whether it was steered to the agent; then `backend` is the agent's address, and neither
    /// `backend_id` nor `generation` mean anything.
    pub is_to_agent: bool,
    /// When it was steered, on the monotonic clock.
    pub steered_at: Duration,
}

/// Reads every record that the iterator gives.
pub(super) fn read(mut iterator: File) -> io::Result<Vec<LiveConnection>> {
    const SIZE: usize = size_of::<Connection>();
    let mut bytes = Vec::new();
    iterator.read_to_end(&mut bytes)?;
    let records = bytes.chunks_exact(SIZE).map(|chunk| {
        // SAFETY: the bytes are a copy of a record that the kernel wrote with
        // this very layout, in which every bit pattern is valid.
        unsafe { chunk.as_ptr().cast::<Connection>().read_unaligned() }
    });
    Ok(records
        .filter(was_steered)
        .map(|record| decode(&record))
        .collect())
}

/// A socket whose connect was refused has a record with nothing in it.
fn was_steered(record: &Connection) -> bool {
    record.steered_at_ns != 0
}

fn decode(record: &Connection) -> LiveConnection {
    LiveConnection {
        client: (record.client_port != Port(0))
            .then(|| socket_addr(record.client, record.client_port)),
        frontend: socket_addr(record.frontend, record.frontend_port),
        backend: socket_addr(record.destination, record.destination_port),
        service_id: record.service,
        backend_id: record.backend,
        generation: record.generation,
        holds_slot: load(&record.held) == HELD_SLOT,
        is_to_agent: record.flags & STEERED_TO_AGENT != 0,
        steered_at: Duration::from_nanos(record.steered_at_ns),
    }
}

fn socket_addr(address: Address, port: Port) -> SocketAddr {
    SocketAddr::new(address.into(), port.into())
}
