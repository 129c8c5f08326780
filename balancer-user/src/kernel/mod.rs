//! The kernel side as the agent sees it: programs, maps, memory.
//!
//! The only module that names aya, and the only one with `unsafe`. It loads and
//! attaches, gives typed access to what lies in maps, and takes over what an earlier
//! agent has left. It decides nothing: `reconcile` says what to write, `admin` and
//! `metrics` what to read.

mod attach;
mod attached;
mod bypass;
mod cgroup;
mod connections;
mod error;
mod events;
mod link;
mod load;
mod lock;
mod log;
mod mark;
mod memory;
mod names;
mod overflow;
mod pins;
mod preflight;
mod record;
mod recount;
mod syscall;
mod tables;

pub use balancer_common::connection::AGENT_MARK;
pub use cgroup::{Cgroup, NoCgroup, find_pods, find_unified, pod_cgroup};
pub use connections::LiveConnection;
pub use error::KernelError;
pub use events::Events;
pub(crate) use events::decode as decode_event;
pub use load::{Kernel, Options, ProgramInfo};
pub use memory::{Kind, Memory};
pub use pins::uninstall;
