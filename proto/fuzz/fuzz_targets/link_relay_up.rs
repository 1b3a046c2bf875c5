//! Anything a gateway can say into the relay half, at any time.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| brrbrr_fuzz::link_relay_up(data));
