//! The code of `balancer-common` that many CPUs run at once, compiled for the loom model checker.
//!
//! These are the very files that are compiled for the kernel and for the agent; only `atomic`,
//! which says what a word is and how it is read and changed, is this crate's own. A crate apart
//! and not a feature of `balancer-common`, since Cargo would give that feature to the agent too
//! whenever it builds the workspace.
//!
//! Refuses: anything that is not about concurrency; that is for the tests of `balancer-common`.
//!
//! Called by the tests beside it, one file for each thing that must hold. Each also breaks the
//! code on purpose and demands that the checker sees it.

// Lints look at every crate as a test too; but the tests inside of these files are not for here.
#![cfg(not(test))]

#[path = "../../balancer-common/src/address.rs"]
pub mod address;
pub mod atomic;
#[path = "../../balancer-common/src/breaker.rs"]
pub mod breaker;
pub mod explore;
#[path = "../../balancer-common/src/index.rs"]
pub mod index;
#[path = "../../balancer-common/src/maps.rs"]
pub mod maps;
#[path = "../../balancer-common/src/plain.rs"]
pub mod plain;
#[path = "../../balancer-common/src/response.rs"]
pub mod response;
pub mod rig;
#[path = "../../balancer-common/src/select/mod.rs"]
pub mod select;
#[path = "../../balancer-common/src/service.rs"]
pub mod service;
#[path = "../../balancer-common/src/slot.rs"]
pub mod slot;
#[path = "../../balancer-common/src/table.rs"]
pub mod table;
#[path = "../../balancer-common/src/waiting.rs"]
pub mod waiting;
