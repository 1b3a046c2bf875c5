//! Anything a relay can say into the gateway half, at any time.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| brrbrr_fuzz::link_gateway_down(data));
