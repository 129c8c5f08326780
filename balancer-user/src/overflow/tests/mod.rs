//! Queues and visits, over plain memory.

mod order;
mod visits;
