//! What must hold of whatever reaches the agent from outside: one function for each fuzz target,
//! which takes an input and panics if something does not hold.
//!
//! Called by the targets in `fuzz_targets/`, and by a test of `balancer-user` that runs all seeds
//! and past findings through the same functions. Needs no privilege, opens no socket.

pub mod admin;
pub mod config;
pub mod events;
pub mod http;
pub mod kubernetes;
mod services;
mod stream;

/// A target: its name, as that of its directory of seeds, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 5] = [
    ("admin", admin::check),
    ("config", config::check),
    ("events", events::check),
    ("http", http::check),
    ("kubernetes", kubernetes::check),
];

/// A number that is the same for the same input, and looks like chance.
fn number_of(data: &[u8]) -> u64 {
    // FNV-1a, with its published constants.
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
