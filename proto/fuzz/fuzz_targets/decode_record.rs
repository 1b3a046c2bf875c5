//! Any bytes as a record.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| brrbrr_fuzz::decode_record(data));
