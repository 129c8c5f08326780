//! What the eBPF programs and the agent share, and nothing else.
//!
//! Owns the layout of every map, the word that counts a backend's slots, the
//! index of idle backends, the choice of a backend, its breaker, the word that
//! counts who waits, the rate limit, response times, and what binds a client to a backend. All of
//! it is pure
//! `no_std` code that compiles for the kernel and for the host alike, so the
//! code that property tests drive is the code that runs inside `connect()`.
//!
//! Refuses: I/O, allocation, names (the kernel knows ids only).
//!
//! Called by `balancer-ebpf` (programs) and `balancer-user` (`kernel/`,
//! `reconcile/`).

#![cfg_attr(not(any(test, feature = "plain")), no_std)]
// The bpf target has no read-modify-write on `core::sync::atomic`; see `atomic`.
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", allow(internal_features))]

pub mod address;
pub mod affinity;
pub mod atomic;
pub mod breaker;
pub mod connection;
pub mod counter;
pub mod event;
pub mod histogram;
pub mod index;
mod layout;
pub mod maps;
#[cfg(any(test, feature = "plain"))]
pub mod plain;
pub mod rate;
pub mod response;
pub mod select;
pub mod service;
pub mod slot;
pub mod table;
#[cfg(test)]
mod tests;
pub mod waiting;
