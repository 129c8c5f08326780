//! What clients send to services with admission `request`. What must hold: `fuzz::http`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::http::check(data));
