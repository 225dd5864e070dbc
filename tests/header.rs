//! The committed C header is what the sources say.
#![allow(clippy::unwrap_used)]

// Links the crate, whose link arguments (--wrap) reach every test.
use dqlitepy as _;

/// What build.rs made of the sources of this very build.
const GENERATED: &str = include_str!(env!("DQLITEPY_GENERATED_HEADER"));
const COMMITTED: &str = include_str!("../include/dqlitepy.h");

#[test]
fn the_committed_header_is_the_generated_one() {
    for (number, (generated, committed)) in GENERATED.lines().zip(COMMITTED.lines()).enumerate() {
        assert_eq!(
            generated,
            committed,
            "include/dqlitepy.h line {}: run `make header`",
            number + 1
        );
    }
    assert_eq!(GENERATED.len(), COMMITTED.len(), "run `make header`");
}

#[test]
fn every_function_is_documented_with_its_age() {
    let declarations = COMMITTED.split("/* dqlitepy:cdef:begin */").nth(1).unwrap();
    let mut functions = 0;
    for item in declarations.split("/**").skip(1) {
        let (comment, code) = item.split_once("*/").unwrap();
        let prototypes = code.matches(");").count();
        assert!(prototypes <= 1, "a function without a comment in: {code}");
        assert!(prototypes == 0 || comment.contains("Since"), "no Since for: {code}");
        functions += prototypes;
    }
    assert!(functions >= 25);
}
