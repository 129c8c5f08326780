//! Reading what the programs tell: the ring buffer EVENTS.

use aya::maps::{MapData, RingBuf};
use balancer_common::event::Event;
use tokio::io::{Interest, unix::AsyncFd};

use super::KernelError;

/// The one reader of EVENTS. Must be used inside a runtime.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, KernelError> {
        // SAFETY: the ring owns its descriptor and gives the same one every time.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| KernelError::system("waiting for EVENTS")(error.into()))?;
        Ok(Self { ring })
    }

    /// Waits for events and hands over all that are there, in the order in which they happened.
    ///
    /// # Errors
    /// If the ring buffer cannot be waited for any more.
    pub async fn next(&mut self, mut take: impl FnMut(Event)) -> Result<(), KernelError> {
        let mut ready = self
            .ring
            .readable_mut()
            .await
            .map_err(KernelError::system("waiting for EVENTS"))?;
        while let Some(entry) = ready.get_inner_mut().next() {
            if let Some(event) = decode(&entry) {
                take(event);
            }
        }
        ready.clear_ready();
        // What came in between is found by the next wait: the descriptor stays
        // readable while anything is in the ring.
        Ok(())
    }
}

/// The event in an entry; none if it is of another length.
pub(crate) fn decode(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: as long as an `Event`, in which every bit pattern is valid.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}
