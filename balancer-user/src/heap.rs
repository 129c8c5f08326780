//! Gives memory back to the system after much of it was needed for a moment.
//!
//! glibc keeps what is freed for what may come. After a cluster has been listed that is a quarter of
//! all that the agent has. Called by sources.

/// Gives back what is free. Takes milliseconds, in which other threads may wait for memory: to be
/// called off the threads that serve, and seldom.
pub fn give_back() {
    // SAFETY: takes a number, and is safe to call from any thread (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
