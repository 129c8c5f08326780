//! SERVICES, LEAVES and BACKENDS mapped into the agent's memory, piece by piece as far as they are in
//! use.
//!
//! What the agent writes here is in force for the next connect, without a
//! system call; what it reads is what the programs count with.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    ptr::NonNull,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use balancer_common::{
    atomic::AtomicU64,
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

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In SERVICES.
    Service,
    /// In LEAVES.
    Leaf,
    /// In BACKENDS.
    Backend,
}

impl Memory {
    pub(super) fn of(services: OwnedFd, leaves: OwnedFd, backends: OwnedFd) -> Self {
        Self {
            tables: RwLock::default(),
            services: Mapped::new(services, MAX_SERVICES),
            leaves: Mapped::new(leaves, MAX_LEAVES),
            backends: Mapped::new(backends, MAX_BACKENDS),
        }
    }

    /// Maps the record with this id, and some after it. Until then it is as if it did not exist.
    ///
    /// # Errors
    /// If the kernel refuses, for want of memory.
    pub fn make_room(&self, kind: Kind, id: u32) -> Result<(), KernelError> {
        let (mapped, doing) = match kind {
            Kind::Service => (self.services.map(id), "mapping SERVICES into memory"),
            Kind::Leaf => (self.leaves.map(id), "mapping LEAVES into memory"),
            Kind::Backend => (self.backends.map(id), "mapping BACKENDS into memory"),
        };
        mapped.map_err(KernelError::system(doing))
    }

    /// The same arrays, with every record mapped.
    ///
    /// # Errors
    /// If the kernel refuses, for want of memory or descriptors.
    pub fn whole(&self) -> Result<Self, KernelError> {
        let duplicate = |map: &OwnedFd| {
            map.try_clone()
                .map_err(KernelError::system("duplicating the descriptor of a map"))
        };
        let whole = Self::of(
            duplicate(&self.services.map)?,
            duplicate(&self.leaves.map)?,
            duplicate(&self.backends.map)?,
        );
        for (kind, len) in [
            (Kind::Service, MAX_SERVICES),
            (Kind::Leaf, MAX_LEAVES),
            (Kind::Backend, MAX_BACKENDS),
        ] {
            for id in (0..len).step_by(PIECE as usize) {
                whole.make_room(kind, id)?;
            }
        }
        Ok(whole)
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
pub(super) unsafe trait Shared {}
// SAFETY: atomics alone, `repr(C)`; sizes are asserted in `balancer-common`.
unsafe impl Shared for Service {}
// SAFETY: as above.
unsafe impl Shared for Leaf {}
// SAFETY: as above.
unsafe impl Shared for Backend {}
// SAFETY: an atomic by itself.
unsafe impl Shared for AtomicU64 {}

/// Records that are mapped together. A piece is a whole number of pages then, whatever the size of
/// the record: that is a multiple of eight.
const PIECE: u32 = 4_096;

/// An array in the agent's memory.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    map: OwnedFd,
    len: u32,
    pieces: Box<[OnceLock<Piece<T>>]>,
}

impl<T: Shared> Mapped<T> {
    pub(super) fn new(map: OwnedFd, len: u32) -> Self {
        Self {
            map,
            len,
            pieces: (0..len.div_ceil(PIECE)).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Maps the record with this index, and some after it.
    pub(super) fn map(&self, index: u32) -> io::Result<()> {
        let out_of_bounds = || io::Error::other(format!("there are {} records only", self.len));
        let number = index / PIECE;
        let piece = self.pieces.get(number as usize).ok_or_else(out_of_bounds)?;
        if piece.get().is_none() {
            let first = number * PIECE;
            let mapped = Piece::map(&self.map, first, PIECE.min(self.len - first))?;
            // Whoever came first has mapped the same.
            let _ = piece.set(mapped);
        }
        Ok(())
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let piece = self.pieces.get((index / PIECE) as usize)?;
        piece.get()?.get(index % PIECE)
    }
}

#[derive(Debug)]
struct Piece<T> {
    base: NonNull<T>,
    len: u32,
}

// SAFETY: the memory is shared with the kernel anyway; all access is atomic.
unsafe impl<T: Shared> Send for Piece<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Piece<T> {}

impl<T: Shared> Piece<T> {
    fn map(map: &OwnedFd, first: u32, len: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let (offset, bytes) = (
            first as usize * size_of::<T>(),
            len as usize * size_of::<T>(),
        );
        let base = super::syscall::map_shared(map.as_fd(), offset, bytes)?;
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

impl<T> Drop for Piece<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `map`, and no reference outlives `self`.
        unsafe { super::syscall::unmap(self.base.cast(), self.len as usize * size_of::<T>()) };
    }
}

const _: () = assert!(maps::ABI == 5, "check `Shared` against the new layout");
