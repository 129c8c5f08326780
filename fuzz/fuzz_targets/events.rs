//! Entries of the ring buffer. What must hold: `fuzz::events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::events::check(data));
