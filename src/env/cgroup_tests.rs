//! Trees of cgroups as kernels and containers show them, built in a directory of their own.
#![cfg(target_os = "linux")]

use std::{
    error::Error,
    fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    LimitSource::{CgroupV1, CgroupV2},
    cgroup_anonymous::LimitedCgroup,
    *,
};

/// A file system of its own, gone at the end of the test.
struct Tree(PathBuf);

impl Tree {
    fn new(cgroup: &str, mountinfo: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("plimsoll-cgroup-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(env::temp_dir().join(unique)).file("proc/self/cgroup", cgroup).file("proc/self/mountinfo", mountinfo)
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn limit(&self) -> Result<(u64, LimitSource), EnvError> {
        let found = MemoryLimit::detect_in(&self.0, |_| None);
        found.map(|limit| (limit.size().as_u64(), limit.source()))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// From here on a figure means that there is no limit.
const UNLIMITED: u64 = 1 << 60;

const V2_MOUNT: &str =
    "1 0 0:1 / / rw - ext4 /dev/vda rw\n30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
const V1_MOUNT: &str = "35 31 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
    36 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";

#[test]
fn version_2_takes_the_smallest_on_the_way_up() {
    let tree = Tree::new("0::/a/b/c\n", V2_MOUNT)
        .file("sys/fs/cgroup/a/memory.max", "3000\n")
        .file("sys/fs/cgroup/a/b/memory.max", "1000\n")
        .file("sys/fs/cgroup/a/b/c/memory.max", "2000\n")
        .file("sys/fs/cgroup/other/memory.max", "1\n");
    assert_eq!(tree.limit().unwrap(), (1_000, CgroupV2));
    // The root's own limit counts where it is one, as it is in a container.
    assert_eq!(tree.file("sys/fs/cgroup/memory.max", "500\n").limit().unwrap(), (500, CgroupV2));
}

#[test]
fn max_is_no_limit() {
    let tree = Tree::new("0::/a/b\n", V2_MOUNT)
        .file("sys/fs/cgroup/a/memory.max", "max\n")
        .file("sys/fs/cgroup/a/b/memory.max", "max\n");
    assert!(matches!(tree.limit(), Err(EnvError::NoLimitKnown)));
    assert_eq!(tree.file("sys/fs/cgroup/a/memory.max", "77\n").limit().unwrap(), (77, CgroupV2));
}

#[test]
fn version_1_takes_the_smallest_and_knows_its_sentinel() {
    let tree = Tree::new("5:cpu:/x\n4:hugetlb,memory:/a/b\n0::/\n", V1_MOUNT)
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        .file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "134217728\n")
        .file("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n")
        .file("sys/fs/cgroup/cpu/x/memory.limit_in_bytes", "1\n");
    assert_eq!(tree.limit().unwrap(), (134_217_728, CgroupV1));
    let tree = tree.file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1152921504606846976\n");
    assert!(matches!(tree.limit(), Err(EnvError::NoLimitKnown)));
    let tree = tree.file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1152921504606846975\n");
    assert_eq!(tree.limit().unwrap(), ((1 << 60) - 1, CgroupV1));
}

#[test]
fn a_hybrid_has_its_memory_in_one_of_the_two() {
    let unified = "40 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("4:memory:/a\n0::/a\n", &(V1_MOUNT.to_owned() + unified))
        .file("sys/fs/cgroup/unified/a/cgroup.procs", "1\n")
        .file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096\n");
    assert_eq!(tree.limit().unwrap(), (4_096, CgroupV1));
    assert_eq!(tree.file("sys/fs/cgroup/unified/a/memory.max", "8192").limit().unwrap(), (8_192, CgroupV2));
}

#[test]
fn a_container_that_sees_a_part_of_the_tree_strips_its_root() {
    let mount = "36 31 0:33 /docker/abc /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory\n";
    let tree = Tree::new("4:memory:/docker/abc/worker\n", mount)
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n")
        .file("sys/fs/cgroup/memory/worker/memory.limit_in_bytes", "1000\n")
        .file("sys/fs/cgroup/memory/docker/abc/worker/memory.limit_in_bytes", "1\n");
    assert_eq!(tree.limit().unwrap(), (1_000, CgroupV1));

    let sibling = Tree::new("4:memory:/docker/abcd/worker\n", mount)
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n")
        .file("sys/fs/cgroup/memory/worker/memory.limit_in_bytes", "1000\n");
    assert_eq!(sibling.limit().unwrap(), (2_000, CgroupV1), "a place outside is not guessed at");

    let both = Tree::new("4:memory:/a\n", &(mount.to_owned() + "37 31 0:33 / /all rw - cgroup cgroup rw,memory\n"))
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "1\n")
        .file("all/a/memory.limit_in_bytes", "3000\n");
    assert_eq!(both.limit().unwrap(), (3_000, CgroupV1), "another's part of the tree does not bind");
}

#[test]
fn a_place_that_climbs_out_is_not_followed() {
    let tree = Tree::new("0::/../../secret\n", V2_MOUNT)
        .file("sys/fs/cgroup/memory.max", "2000\n")
        .file("sys/secret/memory.max", "1\n")
        .file("secret/memory.max", "1\n");
    assert_eq!(tree.limit().unwrap(), (2_000, CgroupV2));
}

#[test]
fn escapes_colons_and_spaces_in_paths_are_read() {
    let mount = "36 31 0:33 /my\\040pod /sys/fs/c\\040g\\134x rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("0::/my pod/a:b c\n", mount).file("sys/fs/c g\\x/a:b c/memory.max", "42\n");
    assert_eq!(tree.limit().unwrap(), (42, CgroupV2));
}

#[test]
fn garbage_is_an_error_and_never_no_limit() {
    for garbage in
        ["", "maximum", "-1", "+5", "12 34", "1e9", "+1152921504606846976", "99999999999999999999999999", "\u{1b}[2J"]
    {
        let tree = Tree::new("0::/a\n", V2_MOUNT).file("sys/fs/cgroup/a/memory.max", garbage);
        assert!(matches!(tree.limit(), Err(EnvError::NotALimit { .. })), "{garbage}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_with_its_source() {
    let tree = Tree::new("0::/a\n", V2_MOUNT).file("sys/fs/cgroup/a/memory.max/is-a-directory", "");
    let error = tree.limit().unwrap_err();
    assert!(matches!(error, EnvError::Unreadable { .. }) && error.source().is_some());
}

#[test]
fn missing_or_senseless_files_are_no_limit() {
    let nothing = MemoryLimit::detect_in(Path::new("/nonexistent/plimsoll"), |_| None);
    assert!(matches!(nothing, Err(EnvError::NoLimitKnown)));
    for (cgroup, mounts) in [
        ("", ""),
        ("0::/a\n", ""),
        ("", V2_MOUNT),
        ("0::/a\n", V2_MOUNT),
        ("nonsense\n::\n0:\n", "nonsense\n - \n1 2 3 - cgroup2\n"),
        ("0::/a\n", "\u{0}\\\\\\ - cgroup2 x\n"),
    ] {
        assert!(matches!(Tree::new(cgroup, mounts).limit(), Err(EnvError::NoLimitKnown)), "{cgroup} {mounts}");
    }
}

#[test]
fn lambdas_variable_decides_even_where_it_is_wrong() {
    let tree = Tree::new("0::/a\n", V2_MOUNT).file("sys/fs/cgroup/a/memory.max", "4096\n");
    let limit = MemoryLimit::detect_in(&tree.0, |name| (name == MEMORY_SIZE).then(|| "128".into())).unwrap();
    assert_eq!((limit.size(), limit.source()), (ByteSize::mib(128), LimitSource::Lambda));
    assert_eq!(limit.to_string(), "128.0 MiB (lambda memory size)");
    let wrong = MemoryLimit::detect_in(&tree.0, |name| (name == MEMORY_SIZE).then(|| "lots".into()));
    assert!(matches!(wrong, Err(EnvError::NotANumber { .. })));
    let empty = MemoryLimit::detect_in(&tree.0, |name| (name == MEMORY_SIZE).then(OsString::new));
    assert!(matches!(empty, Err(EnvError::Empty { .. })));
}

#[test]
fn version_1_limit_above_the_container_is_in_its_stat() {
    let mount = "36 31 0:33 /ecs/task/ctr /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let stat = |limit: &str| {
        format!("cache 0\nrss 0\nhierarchical_memory_limit {limit}\nhierarchical_memsw_limit 9223372036854771712\n")
    };
    let tree = Tree::new("4:memory:/ecs/task/ctr\n", mount)
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        .file("sys/fs/cgroup/memory/memory.use_hierarchy", "1\n")
        .file("sys/fs/cgroup/memory/memory.stat", &stat("536870912"));
    assert_eq!(tree.limit().unwrap(), (536_870_912, CgroupV1));
    let tree = tree.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n");
    assert_eq!(tree.limit().unwrap(), (4_096, CgroupV1), "the smaller of the two");
    let tree = tree.file("sys/fs/cgroup/memory/memory.stat", &stat("9223372036854771712"));
    assert_eq!(tree.limit().unwrap(), (4_096, CgroupV1));
    let tree = tree.file("sys/fs/cgroup/memory/memory.stat", &stat("many"));
    assert!(matches!(tree.limit(), Err(EnvError::NotALimit { .. })));
}

#[test]
fn version_1_directory_without_hierarchy_does_not_bind_those_below() {
    let tree = Tree::new("4:memory:/a/b\n", V1_MOUNT)
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        .file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000000\n")
        .file("sys/fs/cgroup/memory/a/memory.use_hierarchy", "0\n")
        .file("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n")
        .file("sys/fs/cgroup/memory/a/b/memory.use_hierarchy", "0\n");
    assert!(matches!(tree.limit(), Err(EnvError::NoLimitKnown)), "{:?}", tree.limit());
    let tree = tree.file("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "2000000\n");
    assert_eq!(tree.limit().unwrap(), (2_000_000, CgroupV1), "the own limit binds");
    let tree = tree.file("sys/fs/cgroup/memory/a/memory.use_hierarchy", "1\n");
    assert_eq!(tree.limit().unwrap(), (1_000_000, CgroupV1));
}

fn memory(tree: &Tree) -> CgroupMemory {
    CgroupMemory::read_in(&tree.0).unwrap().unwrap()
}

#[test]
fn cgroup_memory_of_version_2_is_less_inactive_files() {
    let tree = Tree::new("0::/a\n", V2_MOUNT)
        .file("sys/fs/cgroup/a/memory.current", "104857600\n")
        .file("sys/fs/cgroup/a/memory.stat", "anon 50000000\nfile 30000000\ninactive_file 20971520\nactive_file 1\n")
        .file("sys/fs/cgroup/a/memory.events", "low 0\nhigh 5\nmax 7\noom 3\noom_kill 2\noom_group_kill 9\n");
    let told = memory(&tree);
    assert_eq!((told.source, told.charged, told.in_use), (CgroupV2, ByteSize::mib(100), ByteSize::mib(80)));
    assert_eq!((told.at_limit, told.ooms, told.oom_kills), (Some(7), Some(3), Some(2)));
}

#[test]
fn cgroup_memory_of_version_1_is_less_inactive_files() {
    let tree = Tree::new("4:memory:/a\n", V1_MOUNT)
        .file("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "104857600\n")
        .file("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 20971520\n")
        .file("sys/fs/cgroup/memory/a/memory.failcnt", "4\n")
        .file("sys/fs/cgroup/memory/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n");
    let told = memory(&tree);
    assert_eq!((told.source, told.charged, told.in_use), (CgroupV1, ByteSize::mib(100), ByteSize::mib(80)));
    assert_eq!((told.at_limit, told.ooms, told.oom_kills), (Some(4), None, None));
    let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n";
    let tree = tree.file("sys/fs/cgroup/memory/a/memory.oom_control", control);
    assert_eq!(memory(&tree).oom_kills, Some(6));
}

#[test]
fn cgroup_memory_hidden_is_none_and_garbage_an_error() {
    let tree = Tree::new("4:memory:/a\n0::/a/b\n", &(V1_MOUNT.to_owned() + V2_MOUNT));
    assert_eq!(CgroupMemory::read_in(&tree.0).unwrap(), None);
    let tree = tree.file("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "4096\n");
    assert_eq!(memory(&tree).source, CgroupV1, "version 2 without the memory controller");
    let tree = tree.file("sys/fs/cgroup/a/memory.current", "8192\n");
    let told = memory(&tree);
    assert_eq!((told.source, told.in_use, told.oom_kills), (CgroupV2, ByteSize::kib(8), None), "the nearest above");
    for garbage in ["", "max", "+1", "-1", "1 2", "99999999999999999999999"] {
        let tree = Tree::new("0::/\n", V2_MOUNT).file("sys/fs/cgroup/memory.current", garbage);
        assert!(matches!(CgroupMemory::read_in(&tree.0), Err(EnvError::NotACount { .. })), "{garbage:?}");
    }
}

/// Returns the anonymous bytes of the limited cgroup of `tree`, read for a memory size of `memory_size` bytes.
fn anonymous(tree: &Tree, memory_size: u64) -> Option<u64> {
    let cgroup = LimitedCgroup::find(&tree.0)?;
    cgroup.anonymous(ByteSize::bytes(memory_size)).map(ByteSize::as_u64)
}

#[test]
fn anonymous_version_2_is_of_the_limited_cgroup() {
    let tree = Tree::new("0::/pod/app/worker\n", V2_MOUNT)
        .file("sys/fs/cgroup/pod/memory.max", "max\n")
        .file("sys/fs/cgroup/pod/memory.stat", "anon 900\nfile 1\n")
        .file("sys/fs/cgroup/pod/app/memory.max", "1000\n")
        .file("sys/fs/cgroup/pod/app/memory.stat", "anon 300\nfile 600\nanon_thp 7\n")
        .file("sys/fs/cgroup/pod/app/worker/memory.max", "max\n")
        .file("sys/fs/cgroup/pod/app/worker/memory.stat", "anon 100\n");
    assert_eq!(anonymous(&tree, 1000), Some(300), "neither cached files nor the worker alone");
    assert_eq!(anonymous(&tree, 999), None, "the limit is above the memory size");
    let tree = tree.file("sys/fs/cgroup/pod/memory.max", "1000\n");
    assert_eq!(anonymous(&tree, 1000), Some(900), "of equal limits the topmost");
}

#[test]
fn anonymous_version_1_is_the_sum_of_all_below() {
    let stat = "cache 5\nrss 100\nhierarchical_memory_limit 4096\ntotal_cache 5\ntotal_rss 300\ntotal_rss_huge 9\n";
    let tree = Tree::new("4:memory:/a\n", V1_MOUNT)
        .file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")
        .file("sys/fs/cgroup/memory/a/memory.stat", stat);
    assert_eq!(anonymous(&tree, 4096), Some(300), "the limit is of a directory that is not visible");
}

#[test]
fn anonymous_without_a_limit_or_a_figure_is_none() {
    let unlimited = Tree::new("0::/a\n", V2_MOUNT)
        .file("sys/fs/cgroup/a/memory.max", "max\n")
        .file("sys/fs/cgroup/a/memory.stat", "anon 300\n");
    assert_eq!(anonymous(&unlimited, u64::MAX), None);
    let limited = unlimited.file("sys/fs/cgroup/a/memory.max", "1000\n");
    assert_eq!(anonymous(&limited, u64::MAX), Some(300));
    let long = format!("{}\nanon 300\n", "x".repeat(4090));
    for odd in ["", "anon\n", "anon \n", "anon 300", "anon 3a\n", "anon +3\n", "anon 99999999999999999999\n", &long] {
        let odd_tree = Tree::new("0::/a\n", V2_MOUNT)
            .file("sys/fs/cgroup/a/memory.max", "1000\n")
            .file("sys/fs/cgroup/a/memory.stat", odd);
        assert_eq!(anonymous(&odd_tree, u64::MAX), None, "{odd:?}");
    }
    let missing = Tree::new("0::/a\n", V2_MOUNT).file("sys/fs/cgroup/a/memory.max", "1000\n");
    assert_eq!(anonymous(&missing, u64::MAX), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn no_proc_file_panics(
        cgroup in "(([0-9]:)?[a-z,]{0,8}:?[/.a-z:]{0,12}\n){0,4}",
        mounts in "([0-9:/a \\\\-]{0,30} - cgroup2? [a-z ,]{0,12}\n){0,4}",
    ) {
        let found = Tree::new(&cgroup, &mounts).limit();
        assert!(matches!(found, Err(EnvError::NoLimitKnown)), "{found:?}");
    }
    /// The twin compares texts: digits alone, without zeros before them, are ordered by length and then by letters.
    #[test]
    fn a_limit_is_what_its_digits_say(text in "0{0,3}[0-9]{0,21}|[+-]?[0-9]{1,3}[ a-z]?[0-9]{0,2}|max|\\PC{0,5}") {
        let tree = Tree::new("0::/a\n", V2_MOUNT).file("sys/fs/cgroup/a/memory.max", &format!("{text}\n"));
        let trimmed = text.trim_ascii();
        let digits = trimmed.trim_start_matches('0');
        let most = u64::MAX.to_string();
        let is_number = !trimmed.is_empty() && trimmed.bytes().all(|byte| byte.is_ascii_digit());
        let fits = |bound: &str| (digits.len(), digits) <= (bound.len(), bound);
        match tree.limit() {
            Ok((limit, CgroupV2)) => {
                assert!(is_number && limit < UNLIMITED);
                assert_eq!(limit.to_string().trim_start_matches('0'), digits);
            }
            Err(EnvError::NoLimitKnown) => {
                let unlimited = (UNLIMITED - 1).to_string();
                assert!(trimmed == "max" || is_number && fits(&most) && !fits(&unlimited), "{text:?}");
            }
            Err(EnvError::NotALimit { .. }) => assert!(trimmed != "max" && !(is_number && fits(&most)), "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}
