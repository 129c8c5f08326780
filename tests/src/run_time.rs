//! The kernel's counting of what BPF programs take. Called by benches.
//!
//! It is held by a descriptor, so it ends with its owner, however that ends. Every program of the
//! machine pays a little meanwhile.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};

/// The kernel counts runs and run time while this lives.
#[derive(Debug)]
pub struct Counting {
    _held: OwnedFd,
}

impl Counting {
    /// Begins.
    pub fn start() -> Result<Self> {
        let held = enable_stats(Stats::RunTime)
            .context("the kernel does not count BPF programs' run time: this needs root")?;
        Ok(Self { _held: held })
    }
}
