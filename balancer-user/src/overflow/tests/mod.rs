//! Queues and visits, over plain memory.

mod affinity;
mod order;
mod relays;
mod visits;
