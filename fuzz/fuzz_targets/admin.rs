//! Requests of the admin API. What must hold: `fuzz::admin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::admin::check(data));
