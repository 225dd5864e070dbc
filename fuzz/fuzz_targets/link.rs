#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dqlitepy::fuzzing::run("link", data));
