//! What the agent does with connections that the programs send to it.
//!
//! | part | does |
//! |---|---|
//! | `service`, `workers` | sets all of it up: threads, listeners, what it needs of the agent |
//! | `shutdown` | the orderly end: what is served may finish |
//! | `gate` | who arrives, and what they dialled |
//! | `pulse` | whether its threads are alive |
//! | `notices`, `departures` | what the programs report: free slots, clients that went |
//! | `visit` | one connection's or request's way: slot, attempts, deadline |
//! | `queues`, `queue`, `size` | who waits for a slot of a service, and how many may |
//! | `ledger`, `slot` | the slots and counts shared with the programs |
//! | `identity`, `sticky` | who wants a slot, and what a sticky cookie says |
//! | `choice` | which backend that is |
//! | `relay` | admission `connection`: bytes both ways |
//! | `request` | admission `request`: an HTTP proxy |
//! | `refuse`, `reason` | saying no |
//! | `breaker` | shuts a service whose backends only answer with errors |
//! | `figures` | what is counted |
//!
//! Called by `agent`; read by `admin` and `metrics`. Refuses, always with a [`Reason`], whatever
//! cannot be served in time.

mod address;
mod breaker;
mod choice;
mod departures;
mod figures;
mod gate;
#[cfg(test)]
mod ground;
mod identity;
mod ledger;
mod notices;
mod pulse;
mod queue;
mod queues;
mod reason;
mod refuse;
mod relay;
mod request;
mod service;
mod shutdown;
mod size;
mod slot;
mod sticky;
#[cfg(test)]
mod tests;
mod upstream;
mod view;
mod visit;
mod workers;

pub use address::NodeAddresses;
pub use breaker::{Change, ServiceBreaker};
use departures::{Departure, Departures};
pub use figures::{Durations, Figures, TimesSnapshot};
pub use identity::{Bond, Identity};
pub use ledger::{Books, Grant, Ledger, Sharers};
pub use notices::Listener;
pub(crate) use notices::gone;
pub use pulse::Pulses;
pub use queue::{Queue, Ticket};
pub use queues::{Directory, Queues, RoutingFigures};
pub use reason::Reason;
#[doc(hidden)]
pub use request::fuzzing;
pub use service::{Overflow, Services, settle};
pub use slot::Slot;
pub use sticky::{Member, Token};
pub use view::View;
pub use visit::{Sent, Visit};
pub use workers::{OverflowError, Ports};
