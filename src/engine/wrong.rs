//! Wrong on purpose, and only where a sanitizer watches: what it must say of these shows that it is there, over Rust and C.
//!
//! Built with `--cfg sanitized` by scripts/asan, scripts/tsan and scripts/valgrind; tests-c/wrong runs it.

use std::ffi::c_int;
use std::hint::black_box;
use std::thread;

unsafe extern "C" {
    fn glue_wrong(kind: c_int);
}

/// As in vendor/glue/wrong.c, which has them in C, 10 above these.
const HEAP: c_int = 0;
const RACE: c_int = 1;
const C: c_int = 10;

#[unsafe(no_mangle)]
extern "C" fn dqlitepy_wrong(kind: c_int) {
    match kind {
        HEAP => {
            let bytes = black_box(vec![1_u8; 40]);
            // SAFETY: none; it reads behind the end.
            black_box(unsafe { *bytes.as_ptr().add(black_box(40)) });
        }
        RACE => {
            static mut NUMBER: u64 = 0;
            // SAFETY: none; nothing orders the two threads.
            let add = || unsafe { (&raw mut NUMBER).write((&raw const NUMBER).read() + 1) };
            let other = thread::spawn(add);
            add();
            let _ = other.join();
        }
        // SAFETY: it takes any number.
        kind => unsafe { glue_wrong(kind - C) },
    }
}
