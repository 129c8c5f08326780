//! Following what the programs report: slots that came free, clients that went, breakers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use balancer_common::event::{Event, EventKind};

use super::{Departures, Queues};
use crate::kernel::{Kernel, KernelError};

/// Told of every event that is not the queues' own business.
pub type Listener = Box<dyn Fn(EventKind, &Event) + Send + Sync>;

/// The follower of the ring buffer.
pub(super) struct Notices {
    pub(super) kernel: Arc<Kernel>,
    pub(super) queues: Arc<Queues>,
    pub(super) departures: Departures,
    pub(super) listener: Listener,
}

impl Notices {
    /// Follows for as long as the runtime lives.
    pub(super) async fn follow(self) {
        if let Err(error) = self.try_follow().await {
            // Queues go on by their ticks.
            tracing::error!(%error, "what the programs report cannot be read; waiters find free slots later");
        }
        std::future::pending().await
    }

    async fn try_follow(&self) -> Result<(), KernelError> {
        let Some(mut events) = self.kernel.events()? else {
            return Ok(());
        };
        loop {
            events.next(|event| self.take(&event)).await?;
        }
    }

    fn take(&self, event: &Event) {
        match EventKind::from_number(event.kind) {
            Some(EventKind::SlotFreed) => self.queues.wake(event.service),
            Some(EventKind::ClientGone) => {
                let (client, published_at) = gone(event);
                self.departures.report(client, published_at);
            }
            Some(kind) => (self.listener)(kind, event),
            None => tracing::warn!(kind = event.kind, "the programs report something unknown"),
        }
    }
}

/// Which client is gone, and when its connection was published.
pub(crate) fn gone(event: &Event) -> (SocketAddr, Duration) {
    let client = SocketAddr::new(event.client.into(), event.client_port.into());
    (client, Duration::from_nanos(event.steered_at_ns))
}
