//! RECOUNT: how many live connections hold a slot of each backend, counted by the `idle_recount`
//! iterator.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use balancer_common::maps::MAX_BACKENDS;
use rustix::thread::{MembarrierCommand, membarrier};

use super::{KernelError, load::held, memory::Mapped};

/// The map in memory; locked while a count is made, since there is only one.
#[derive(Debug)]
pub(super) struct Recount(Mutex<Mapped<AtomicU64>>);

impl Recount {
    pub(super) fn of(map: OwnedFd) -> Self {
        Self(Mutex::new(Mapped::new(map, MAX_BACKENDS)))
    }

    /// See [`super::Kernel::recount`].
    pub(super) fn count(
        &self,
        backends: &[u32],
        iterate: impl FnOnce() -> Result<File, KernelError>,
    ) -> Result<Vec<u64>, KernelError> {
        let counts = held(&self.0);
        for id in backends {
            let mapped = counts.map(*id);
            mapped.map_err(KernelError::system("mapping RECOUNT into memory"))?;
        }
        let of = |id: &u32| counts.get(*id);
        let all = || backends.iter().filter_map(of);
        all().for_each(|count| count.store(0, SeqCst));
        run(iterate()?).map_err(KernelError::system("counting CONNECTIONS"))?;
        Ok(all().map(|count| count.load(SeqCst)).collect())
    }
}

/// Runs the iterator, which gives nothing to read, to its end.
fn run(mut iterator: File) -> io::Result<()> {
    loop {
        match iterator.read(&mut [0; 64]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // It pauses after a million records (kernel/bpf/bpf_iter.c, v6.1, `MAX_ITER_OBJECTS`).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// See [`super::Kernel::let_programs_end`].
pub(super) fn let_programs_end() {
    // A grace period, which no program outlives (kernel/sched/membarrier.c, v6.1). With a single CPU
    // the kernel leaves it out, and with `nohz_full` it refuses.
    if let Err(error) = membarrier(MembarrierCommand::Global) {
        tracing::debug!(%error, "cannot wait for the programs that run");
    }
}
