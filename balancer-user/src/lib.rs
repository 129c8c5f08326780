//! The Idlefirst agent: from a source of services to eBPF maps, and back to
//! whoever wants to look. See ARCHITECTURE.md for the path of data.

pub mod adaptive;
pub mod admin;
pub mod agent;
pub mod audit;
pub mod bypass;
pub mod cache;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod failover;
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod heap;
pub mod heartbeat;
pub mod journal;
pub mod kernel;
pub mod leaders;
pub mod metrics;
pub mod model;
pub mod occupancy;
pub mod overflow;
pub mod privileges;
pub mod reconcile;
pub mod source;
pub mod state;
pub mod telemetry;
pub mod token;
