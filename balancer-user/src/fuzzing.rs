//! What reaches the agent from outside, taken in as the agent does, for fuzzing: no kernel, no
//! socket, no API stands behind it.
//!
//! Gives access and decides nothing; what must hold of the outcome is said in `fuzz/`. The agent
//! itself calls nothing of it.

use std::{net::SocketAddr, time::Duration};

use balancer_common::event::{Event, EventKind};

pub use crate::admin::fuzzing::Api;
pub use crate::overflow::fuzzing::{Passed, serve as serve_requests};
pub use crate::source::kubernetes::fuzzing::{KINDS, Objects};
use crate::{
    config::{Config, ConfigError, Loaded, Lookup},
    journal::Journal,
    kernel, overflow,
};

/// Reads a configuration file that holds these bytes.
///
/// # Errors
/// What is wrong with it.
pub fn config(bytes: &[u8], file: &str, lookup: Lookup<'_>) -> Result<Loaded, ConfigError> {
    Config::parse_bytes(bytes, file, lookup)
}

/// Reads an entry of the ring buffer; none if there is no event in it.
pub fn event(entry: &[u8]) -> Option<Event> {
    kernel::decode_event(entry)
}

/// The client that an event says is gone, and when its connection was published.
pub fn gone(event: &Event) -> (SocketAddr, Duration) {
    overflow::gone(event)
}

/// Tells whoever listens of an event.
pub fn tell(journal: &Journal, kind: EventKind, event: &Event) {
    journal.programs_told(kind, event, None, None);
}
