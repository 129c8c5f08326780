//! What `balancer-common/src/atomic.rs` promises, in the model checker's terms: and no more than
//! the weakest machine gives that the programs run on.
//!
//! In a program, a read-modify-write is a full barrier, and a plain read or write orders nothing:
//! it can be seen late. In the agent (see [`as_agent`]) every operation is sequentially
//! consistent. The checker knows that order only for fences, hence these.

use std::cell::Cell;

pub use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::atomic::{
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence,
};

loom::thread_local! {
    static IS_AGENT: Cell<bool> = Cell::new(false);
}

/// What the calling thread does in `work` is done by the agent; all else by a program.
pub fn as_agent<R>(work: impl FnOnce() -> R) -> R {
    let before = IS_AGENT.with(|is| is.replace(true));
    let done = work();
    IS_AGENT.with(|is| is.set(before));
    done
}

fn is_agent() -> bool {
    IS_AGENT.with(Cell::get)
}

fn read<R>(how: impl FnOnce(loom::sync::atomic::Ordering) -> R) -> R {
    if !is_agent() {
        return how(Relaxed);
    }
    fence(SeqCst);
    how(Acquire)
}

fn write(how: impl FnOnce(loom::sync::atomic::Ordering)) {
    if !is_agent() {
        return how(Relaxed);
    }
    fence(SeqCst);
    how(Release);
    fence(SeqCst);
}

fn change<R>(how: impl FnOnce(loom::sync::atomic::Ordering) -> R) -> R {
    fence(SeqCst);
    let old = how(AcqRel);
    fence(SeqCst);
    old
}

/// Adds `value`, wrapping; returns the old value.
pub fn fetch_add(word: &AtomicU64, value: u64) -> u64 {
    change(|order| word.fetch_add(value, order))
}

/// Sets the bits of `value`; returns the old value.
pub fn fetch_or(word: &AtomicU64, value: u64) -> u64 {
    change(|order| word.fetch_or(value, order))
}

/// Keeps only the bits of `value`; returns the old value.
pub fn fetch_and(word: &AtomicU64, value: u64) -> u64 {
    change(|order| word.fetch_and(value, order))
}

/// Stores `value`; returns the old value.
pub fn swap(word: &AtomicU64, value: u64) -> u64 {
    change(|order| word.swap(value, order))
}

/// Stores `new` if the word is still `current`; says whether it did.
pub fn compare_exchange(word: &AtomicU64, current: u64, new: u64) -> bool {
    change(|order| word.compare_exchange(current, new, order, Acquire).is_ok())
}

/// Stores `new` if the field is still `current`; says whether it did.
pub fn compare_exchange32(word: &AtomicU32, current: u32, new: u32) -> bool {
    change(|order| word.compare_exchange(current, new, order, Acquire).is_ok())
}

/// Reads the word.
pub fn load(word: &AtomicU64) -> u64 {
    read(|order| word.load(order))
}

/// Writes the word.
pub fn store(word: &AtomicU64, value: u64) {
    write(|order| word.store(value, order));
}

/// Reads a 32-bit field.
pub fn load32(word: &AtomicU32) -> u32 {
    read(|order| word.load(order))
}

/// Writes a 32-bit field.
pub fn store32(word: &AtomicU32, value: u32) {
    write(|order| word.store(value, order));
}
