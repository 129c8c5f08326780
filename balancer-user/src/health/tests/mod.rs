//! The prober against real endpoints on loopback.

mod ground;
mod pooling;
mod server;
mod sharing;
mod verdicts;
