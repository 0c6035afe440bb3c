//! Any bytes as an answer of EC2.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    herald_aws::client::parse_any(bytes);
});
