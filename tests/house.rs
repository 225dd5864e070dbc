//! The rules of the house (docs/architecture.md), held by a machine: what may use what, where `unsafe` lives, and that
//! every exported function stands behind its guard.
#![allow(clippy::unwrap_used)]

// Links the crate, whose link arguments (--wrap) reach every test.
use dqlitepy as _;

use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms that it may use, besides the leaves `error`, `limits`, `log`, `memory` and `metrics`.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "ffi",
        &["handle", "queue", "node", "client", "db", "engine", "net", "render"],
    ),
    ("handle", &["queue", "node", "client", "db"]),
    ("queue", &["node", "client", "db", "net"]),
    ("node", &["db", "client", "door", "engine", "net", "wire"]),
    ("db", &["client", "render", "wire", "net", "engine"]),
    ("client", &["wire", "net"]),
    ("door", &["engine", "wire", "net"]),
    ("render", &["wire"]),
    ("engine", &[]),
    ("net", &[]),
    ("wire", &[]),
    ("metrics", &[]),
];
const LEAVES: &[&str] = &["error", "limits", "log", "memory", "metrics"];

/// Rooms and files that may hold `unsafe`.
const UNSAFE: &[&str] = &["ffi/", "engine/", "net/sys.rs"];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// The code without its tests, which may look wherever they want.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs")
        || name.ends_with("/fuzz.rs")
        || ["wire/vectors.rs", "wire/refusals.rs", "wire/properties.rs"].contains(&name)
}

#[test]
fn rooms_use_only_what_stands_to_their_right() {
    for (name, text) in sources() {
        let Some((room, _)) = name.split_once('/') else {
            continue;
        };
        if is_test(&name) {
            continue;
        }
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(known, _)| *known == room)
            .unwrap_or_else(|| panic!("{name}: the room {room} is not in the plan"));
        for piece in without_tests(&text).split("crate::").skip(1) {
            let used: String = piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let fine = used == room || LEAVES.contains(&used.as_str()) || allowed.contains(&used.as_str());
            assert!(fine || used.is_empty(), "src/{name} uses crate::{used}");
        }
    }
}

#[test]
fn unsafe_stays_in_its_rooms() {
    for (name, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let uses = code.filter(|line| line.contains("unsafe")).count();
        assert!(
            uses == 0 || UNSAFE.iter().any(|place| name.starts_with(place)),
            "src/{name} holds unsafe"
        );
    }
}

#[test]
fn every_export_stands_behind_the_guard() {
    // They touch nothing that can fail.
    let harmless = [
        "dqlitepy_last_error",
        "dqlitepy_free",
        "dqlitepy_version_number",
        "dqlitepy_version_string",
        "dqlitepy_last_error_code",
        "dqlitepy_last_sqlite_code",
        // Wrong on purpose, and not in the library that is shipped.
        "dqlitepy_wrong",
    ];
    let mut exports = 0;
    for (name, text) in sources() {
        for item in text.split("#[unsafe(no_mangle)]").skip(1) {
            exports += 1;
            let function: String = item
                .split("fn ")
                .nth(1)
                .unwrap()
                .chars()
                .take_while(|c| *c != '(')
                .collect();
            let body = item.split_once("{\n").unwrap().1.split("\n}\n").next().unwrap();
            let first = body
                .lines()
                .map(str::trim)
                .find(|line| !line.starts_with("//"))
                .unwrap();
            let guarded = ["guard(", "guard_always(", "guard_code(", "guard_value(", "configure("]
                .iter()
                .any(|guard| first.starts_with(guard));
            assert!(
                guarded || harmless.contains(&function.as_str()),
                "src/{name}: {function} begins with {first}"
            );
        }
    }
    assert!(exports >= 25);
}

/// Cargo builds the fuzz targets by a lock of their own, and refuses to if it names other packages than Cargo.toml.
#[test]
fn the_fuzz_targets_lock_is_that_of_the_library() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(top.join("Cargo.toml")).unwrap();
    let lock = fs::read_to_string(top.join("fuzz/Cargo.lock")).unwrap();
    let section = |head: &str| {
        let (_, rest) = manifest.split_once(&format!("\n[{head}]\n")).unwrap();
        let lines = rest.split("\n[").next().unwrap().lines();
        lines
            .filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()))
            .collect::<Vec<_>>()
    };
    let mut wanted = [section("dependencies"), section("build-dependencies")].concat();
    wanted.sort();
    let (_, block) = lock.split_once("name = \"dqlitepy\"\n").unwrap();
    let block = block.split("\n]").next().unwrap();
    let named: Vec<&str> = block
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","))
        .collect();
    assert_eq!(
        named, wanted,
        "make it anew: cargo metadata --manifest-path fuzz/Cargo.toml"
    );
}
