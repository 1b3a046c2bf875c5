//! Any bytes as a frame and as the message in it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| brrbrr_fuzz::open_frame(data));
