//! SERVICES, LEAVES and BACKENDS mapped into the agent's memory.
//!
//! What the agent writes here is in force for the next connect, without a
//! system call; what it reads is what the programs count with.

use std::{
    collections::HashMap,
    io,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::{Arc, PoisonError, RwLock},
};

use balancer_common::{
    maps::{self, MAX_BACKENDS, MAX_LEAVES, MAX_SERVICES},
    service::{Backend, Leaf, Service, Tables},
};

use super::KernelError;

/// The three arrays. Records are reached through [`Tables`].
#[derive(Debug)]
pub struct Memory {
    /// Copies of what is in TABLES, by service.
    tables: RwLock<HashMap<u32, Arc<[u64]>>>,
    services: Mapped<Service>,
    leaves: Mapped<Leaf>,
    backends: Mapped<Backend>,
}

impl Memory {
    pub(super) fn map(
        services: BorrowedFd<'_>,
        leaves: BorrowedFd<'_>,
        backends: BorrowedFd<'_>,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            tables: RwLock::default(),
            services: Mapped::new(services, MAX_SERVICES)
                .map_err(KernelError::system("mapping SERVICES into memory"))?,
            leaves: Mapped::new(leaves, MAX_LEAVES)
                .map_err(KernelError::system("mapping LEAVES into memory"))?,
            backends: Mapped::new(backends, MAX_BACKENDS)
                .map_err(KernelError::system("mapping BACKENDS into memory"))?,
        })
    }

    /// Remembers what was put in TABLES.
    pub(super) fn keep_table(&self, service: u32, words: Vec<u64>) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.insert(service, words.into());
    }
}

impl Tables for Memory {
    fn service(&self, id: u32) -> Option<&Service> {
        self.services.get(id)
    }

    fn leaf(&self, id: u32) -> Option<&Leaf> {
        self.leaves.get(id)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id)
    }

    fn table_word(&self, service: u32, index: u32) -> Option<u64> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.get(&service)?.get(index as usize).copied()
    }

    fn now_ns(&self) -> u64 {
        super::syscall::monotonic_time().as_nanos() as u64
    }

    fn random(&self) -> u32 {
        fastrand::u32(..)
    }
}

/// Records whose every field is an atomic, so that sharing them with the kernel
/// through `&` is sound, and for which all-zero memory is valid.
///
/// # Safety
/// Only for `repr(C)` types without padding, made of atomics alone, with a size
/// that is a multiple of eight (the stride of a BPF array).
unsafe trait Shared {}
// SAFETY: atomics alone, `repr(C)`; sizes are asserted in `balancer-common`.
unsafe impl Shared for Service {}
// SAFETY: as above.
unsafe impl Shared for Leaf {}
// SAFETY: as above.
unsafe impl Shared for Backend {}

#[derive(Debug)]
struct Mapped<T> {
    base: NonNull<T>,
    len: u32,
}

// SAFETY: the memory is shared with the kernel anyway; all access is atomic.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

impl<T: Shared> Mapped<T> {
    fn new(map: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let base = super::syscall::map_shared(map, len as usize * size_of::<T>())?;
        Ok(Self {
            base: base.cast(),
            len,
        })
    }

    fn get(&self, index: u32) -> Option<&T> {
        // SAFETY: in bounds of a mapping that lives as long as `self`; see `Shared`.
        (index < self.len).then(|| unsafe { self.base.add(index as usize).as_ref() })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and no reference outlives `self`.
        unsafe { super::syscall::unmap(self.base.cast(), self.len as usize * size_of::<T>()) };
    }
}

const _: () = assert!(maps::ABI == 4, "check `Shared` against the new layout");
