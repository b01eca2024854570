//! Each remedy that a verdict names, tested by applying it.

use std::error::Error;
use std::path::Path;

use plimsoll_peers::remedies::{Case, Programs, run};

const MIB: f64 = 1024.0 * 1024.0;

/// Checks that each promise is kept, and that causes with a remedy have the right one.
#[test]
fn each_remedy_releases_four_fifths_of_its_promise() -> Result<(), Box<dyn Error>> {
    let programs = Programs {
        system: Path::new(env!("CARGO_BIN_EXE_remedies_system")),
        mimalloc: Path::new(env!("CARGO_BIN_EXE_remedies_mimalloc")),
        jemalloc: Path::new(env!("CARGO_BIN_EXE_remedies_jemalloc")),
    };
    let cases = run(programs)?;
    for case in &cases {
        let Case { allocator, cause, trims, verdict, promised, released, beyond, .. } = case;
        let mib = |bytes: &u64| *bytes as f64 / MIB;
        let (promised, released, beyond) = (mib(promised), mib(released), mib(beyond));
        let trims = if *trims { "trims" } else { "keeps" };
        println!("{allocator:17} {cause:12} {trims} {verdict:55} {promised:6.1} {released:6.1} of {beyond:6.1}");
        assert_ne!(case.holds(), Some(false), "{case:?}");
    }
    let verdict = |allocator, cause, trims| {
        let case = cases.iter().find(|case| (case.allocator, case.cause, case.trims) == (allocator, cause, trims));
        case.map_or("", |case| &case.verdict)
    };
    for allocator in ["glibc", "glibc, 1 arena", "jemalloc"] {
        for cause in ["freed", "fast", "sparse", "arenas"] {
            let verdict = verdict(allocator, cause, false);
            assert!(verdict.ends_with(": trim"), "{allocator} {cause}: {verdict}");
        }
    }
    for allocator in ["glibc", "glibc, 1 arena", "mimalloc", "jemalloc"] {
        for cause in ["c_small", "c_large", "mmap", "mmap_live", "mmap_later"] {
            for trims in [false, true] {
                let verdict = verdict(allocator, cause, trims);
                assert!(verdict.ends_with(": C library"), "{allocator} {cause}: {verdict}");
            }
        }
        for cause in ["checkerboard", "tiny", "live"] {
            assert_eq!(verdict(allocator, cause, false), "steady", "{allocator} {cause}");
        }
    }
    assert!(verdict("glibc", "tops", true).ends_with(": MALLOC_ARENA_MAX"), "{}", verdict("glibc", "tops", true));
    let arenas = verdict("mimalloc", "arenas", true);
    assert!(arenas.ends_with(": another allocator"), "{arenas}");
    Ok(())
}
