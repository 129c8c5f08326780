//! Who leads a service, by its name: what the kernel programs go by at this moment.
//!
//! A few reads of mapped memory, so it can be asked as often as anyone likes. Asked by whoever
//! publishes leaders.

use std::net::SocketAddr;
use std::sync::Arc;

use balancer_common::{select::leader_of, service::Tables};

use crate::{kernel::Kernel, model::ServiceName, reconcile::Progress};

/// Knows leaders.
#[derive(Clone)]
pub struct Leaders {
    kernel: Arc<Kernel>,
    progress: Progress,
}

impl Leaders {
    /// Of the services in the kernel.
    pub fn new(kernel: Arc<Kernel>, progress: Progress) -> Self {
        Self { kernel, progress }
    }

    /// The leader of this service; none if there is none, or it is not in the kernel yet.
    pub fn of(&self, name: &ServiceName) -> Option<SocketAddr> {
        let id = self.progress.assignment().service(name)?.id;
        let tables = self.kernel.memory();
        let leader = leader_of(tables, id)?;
        let (address, port) = tables.backend(leader.id)?.address();
        Some(SocketAddr::new(address.into(), port.into()))
    }
}
