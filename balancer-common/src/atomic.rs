//! Read-modify-write operations on 64-bit words, for the kernel and the host.
//!
//! Every operation is sequentially consistent and returns the old value. The
//! bpf target has no `fetch_*` on `core::sync::atomic` (its `max-atomic-cas`
//! is off although the instruction set has them), so there they go through the
//! compiler's intrinsics, which become `BPF_FETCH` instructions: full barriers
//! by Documentation/bpf/standardization/instruction-set.rst, v6.1.
//!
//! This is the one file of the crate that needs `unsafe`.

#[cfg(not(target_arch = "bpf"))]
pub use core::sync::atomic::AtomicU32;
pub use core::sync::atomic::AtomicU64;
#[cfg(target_arch = "bpf")]
pub use half_word::AtomicU32;

use core::sync::atomic::Ordering;

#[cfg(target_arch = "bpf")]
mod word {
    use core::{
        intrinsics::{
            AtomicOrdering, atomic_and, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg,
        },
        sync::atomic::AtomicU64,
    };

    const SEQ_CST: AtomicOrdering = AtomicOrdering::SeqCst;

    // Atomic loads and stores cannot be selected for this target below
    // instruction set v4; volatile ones are single instructions.
    #[inline(always)]
    pub(super) fn load(word: &AtomicU64) -> u64 {
        // SAFETY: as in `fetch_add`.
        unsafe { word.as_ptr().read_volatile() }
    }

    #[inline(always)]
    pub(super) fn store(word: &AtomicU64, value: u64) {
        // SAFETY: as in `fetch_add`.
        unsafe { word.as_ptr().write_volatile(value) }
    }

    #[inline(always)]
    pub(super) fn fetch_add(word: &AtomicU64, value: u64) -> u64 {
        // SAFETY: `as_ptr` of a live atomic is valid and aligned.
        unsafe { atomic_xadd::<u64, u64, { SEQ_CST }>(word.as_ptr(), value) }
    }

    #[inline(always)]
    pub(super) fn fetch_or(word: &AtomicU64, value: u64) -> u64 {
        // SAFETY: as in `fetch_add`.
        unsafe { atomic_or::<u64, u64, { SEQ_CST }>(word.as_ptr(), value) }
    }

    #[inline(always)]
    pub(super) fn fetch_and(word: &AtomicU64, value: u64) -> u64 {
        // SAFETY: as in `fetch_add`.
        unsafe { atomic_and::<u64, u64, { SEQ_CST }>(word.as_ptr(), value) }
    }

    #[inline(always)]
    pub(super) fn swap(word: &AtomicU64, value: u64) -> u64 {
        // SAFETY: as in `fetch_add`.
        unsafe { atomic_xchg::<u64, { SEQ_CST }>(word.as_ptr(), value) }
    }

    #[inline(always)]
    pub(super) fn compare_exchange(word: &AtomicU64, current: u64, new: u64) -> bool {
        // SAFETY: as in `fetch_add`.
        unsafe { atomic_cxchg::<u64, { SEQ_CST }, { SEQ_CST }>(word.as_ptr(), current, new).1 }
    }

    #[inline(always)]
    pub(super) fn compare_exchange32(word: &super::AtomicU32, current: u32, new: u32) -> bool {
        // SAFETY: as in `fetch_add`.
        unsafe { atomic_cxchg::<u32, { SEQ_CST }, { SEQ_CST }>(word.as_ptr(), current, new).1 }
    }
}

#[cfg(target_arch = "bpf")]
mod half_word {
    use core::{cell::UnsafeCell, sync::atomic::Ordering};

    /// What `core` leaves out on the bpf target: a 32-bit cell that is read and
    /// written whole. Memory order beyond that is not needed for these fields.
    #[repr(transparent)]
    #[derive(Debug)]
    pub struct AtomicU32(UnsafeCell<u32>);

    // SAFETY: aligned 32-bit loads and stores are single instructions in BPF.
    unsafe impl Sync for AtomicU32 {}

    impl AtomicU32 {
        /// Reads the cell.
        #[inline(always)]
        pub fn load(&self, _: Ordering) -> u32 {
            // SAFETY: the cell is valid and aligned.
            unsafe { self.0.get().read_volatile() }
        }

        /// Writes the cell.
        #[inline(always)]
        pub fn store(&self, value: u32, _: Ordering) {
            // SAFETY: as in `load`.
            unsafe { self.0.get().write_volatile(value) }
        }

        #[inline(always)]
        pub(super) fn as_ptr(&self) -> *mut u32 {
            self.0.get()
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
mod word {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

    #[inline(always)]
    pub(super) fn load(word: &AtomicU64) -> u64 {
        word.load(SeqCst)
    }

    #[inline(always)]
    pub(super) fn store(word: &AtomicU64, value: u64) {
        word.store(value, SeqCst)
    }

    #[inline(always)]
    pub(super) fn fetch_add(word: &AtomicU64, value: u64) -> u64 {
        word.fetch_add(value, SeqCst)
    }

    #[inline(always)]
    pub(super) fn fetch_or(word: &AtomicU64, value: u64) -> u64 {
        word.fetch_or(value, SeqCst)
    }

    #[inline(always)]
    pub(super) fn fetch_and(word: &AtomicU64, value: u64) -> u64 {
        word.fetch_and(value, SeqCst)
    }

    #[inline(always)]
    pub(super) fn swap(word: &AtomicU64, value: u64) -> u64 {
        word.swap(value, SeqCst)
    }

    #[inline(always)]
    pub(super) fn compare_exchange(word: &AtomicU64, current: u64, new: u64) -> bool {
        word.compare_exchange(current, new, SeqCst, SeqCst).is_ok()
    }

    #[inline(always)]
    pub(super) fn compare_exchange32(word: &AtomicU32, current: u32, new: u32) -> bool {
        word.compare_exchange(current, new, SeqCst, SeqCst).is_ok()
    }
}

/// Adds `value`, wrapping; returns the old value.
#[inline(always)]
pub fn fetch_add(word: &AtomicU64, value: u64) -> u64 {
    word::fetch_add(word, value)
}

/// Sets the bits of `value`; returns the old value.
#[inline(always)]
pub fn fetch_or(word: &AtomicU64, value: u64) -> u64 {
    word::fetch_or(word, value)
}

/// Keeps only the bits of `value`; returns the old value.
#[inline(always)]
pub fn fetch_and(word: &AtomicU64, value: u64) -> u64 {
    word::fetch_and(word, value)
}

/// Stores `value`; returns the old value.
#[inline(always)]
pub fn swap(word: &AtomicU64, value: u64) -> u64 {
    word::swap(word, value)
}

/// Stores `new` if the word is still `current`; says whether it did.
#[inline(always)]
pub fn compare_exchange(word: &AtomicU64, current: u64, new: u64) -> bool {
    word::compare_exchange(word, current, new)
}

/// Reads the word. Ordered after any earlier operation of this module, since
/// those are full barriers.
#[inline(always)]
pub fn load(word: &AtomicU64) -> u64 {
    word::load(word)
}

/// Writes the word. In a program a plain write orders nothing, in the agent it comes after everything
/// written before.
#[inline(always)]
pub fn store(word: &AtomicU64, value: u64) {
    word::store(word, value);
}

/// Reads a 32-bit field that the agent writes and the kernel only reads, or
/// where a stale value is harmless.
#[inline(always)]
pub fn load32(word: &AtomicU32) -> u32 {
    word.load(Ordering::SeqCst)
}

/// Writes a 32-bit field; see [`load32`].
#[inline(always)]
pub fn store32(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::SeqCst);
}

/// Stores `new` if the field is still `current`; says whether it did.
#[inline(always)]
pub fn compare_exchange32(word: &AtomicU32, current: u32, new: u32) -> bool {
    word::compare_exchange32(word, current, new)
}
