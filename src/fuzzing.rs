//! What the fuzzer runs (fuzz/), each room's part in the room: any bytes may come, and what must hold is asserted.
//!
//! Not in the library that is shipped. The tests replay fuzz/corpus, so that what was found once stays found.

type Target = fn(&[u8]);

/// Every target with its name, which is also that of its binary and of its folder in fuzz/corpus.
const TARGETS: &[(&str, Target)] = &[
    ("reply", crate::wire::fuzz::reply),
    ("rows", crate::wire::fuzz::rows),
    ("json", crate::render::fuzz::json),
    ("address", crate::net::fuzz::address),
    ("yaml", crate::node::fuzz::yaml),
    ("sql", crate::db::fuzz::sql),
    ("door", crate::door::fuzz::door),
    ("port", crate::node::fuzz::port),
    ("statement", crate::node::fuzz::statement),
    ("link", crate::node::fuzz::link),
];

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    for (target, run) in TARGETS {
        if *target == name {
            run(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::TARGETS;

    /// The order of the folder's entries must not decide anything.
    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut paths: Vec<_> = fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn the_corpus_still_holds() {
        for (name, target) in TARGETS {
            let inputs = corpus(name);
            assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
            let began = Instant::now();
            for input in &inputs {
                target(input);
            }
            let taken = began.elapsed();
            assert!(
                taken < Duration::from_secs(60),
                "{name}: {} inputs took {taken:?}",
                inputs.len()
            );
        }
        crate::node::fuzz::close();
    }

    #[test]
    fn every_target_has_a_binary() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let binaries = fs::read_dir(dir).unwrap().count();
        assert_eq!(binaries, TARGETS.len());
    }
}
