//! How many random cases a test tries, where emulators and checkers ask for fewer.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::env;

use proptest::prelude::ProptestConfig;

/// For the generator of these tests: all of them, but one in a hundred where each instruction is interpreted, and no more
/// than the variable `PLIMSOLL_CASES` says.
pub fn cases(all: u64) -> u64 {
    match env::var("PLIMSOLL_CASES") {
        Ok(number) => number.parse::<u64>().unwrap().min(all),
        Err(_) if cfg!(miri) => all / 100,
        Err(_) => all,
    }
}

/// For proptest, where a test states its own number: that number, but one in a hundred where each instruction is
/// interpreted, and what proptest's own variable `PROPTEST_CASES` says where it is set.
pub fn proptest_cases(all: u32) -> u32 {
    match env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None if cfg!(miri) => all / 100,
        None => all,
    }
}
