//! The library's own link arguments do not reach programs outside of its package.

fn main() {
    for symbol in std::env::var("DEP_DQLITE_WRAPPED").unwrap_or_default().split(',') {
        println!("cargo:rustc-link-arg=-Wl,--wrap={symbol}");
    }
}
