//! Keys: lookups and loads by a borrowed form, lookups that are no access, the list of keys.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll::cache::{Eviction, ToKey};
use plimsoll::{Cache, ManualClock};

/// Loads by `key` and reads the value by it.
fn load_by<K, Q>(key: &Q)
where
    K: Hash + Eq + Send + Debug + Borrow<Q> + 'static,
    Q: Hash + Eq + ToKey<K> + ?Sized,
{
    let cache: Cache<K, u64> = Cache::builder("keys").max_entries(10).build().unwrap();
    assert_eq!(cache.get_or_load(key, |_| 1), 1);
    assert_eq!(cache.try_get_or_load(key, |_| Err(2)).unwrap(), 1);
    assert_eq!(cache.try_get_or_load_if(key, |_| true, |_| Ok::<_, ()>(3)).unwrap(), 3);
    assert_eq!((cache.get(key), cache.peek(key), cache.len()), (Some(3), Some(3), 1));
    cache.for_each(|stored, _| assert!(stored.borrow() == key, "{stored:?}"));
    assert_eq!(cache.remove(key), Some(3));
}

#[test]
fn load_by_borrowed_form_stores_owned_key() {
    load_by::<String, str>("a");
    load_by::<Arc<str>, str>("a");
    load_by::<Box<str>, str>("a");
    load_by::<Vec<u8>, [u8]>(b"a");
    load_by::<Arc<[u8]>, [u8]>(b"a");
    load_by::<Box<[String]>, [String]>(&["a".to_owned()]);
    load_by::<PathBuf, Path>(Path::new("a"));
    load_by::<Arc<Path>, Path>(Path::new("a"));
}

#[test]
fn load_by_key_itself_clones_it() {
    load_by::<String, String>(&"a".to_owned());
    load_by::<Arc<str>, Arc<str>>(&Arc::from("a"));
    load_by::<&'static str, &'static str>(&"a");
    load_by::<(u64, String), _>(&(1, "a".to_owned()));
}

/// The types of these keys are known by the cache, or by the key alone.
#[test]
fn type_of_key_is_inferred() {
    let cache = Cache::builder("keys").max_entries(10).build().unwrap();
    assert_eq!(cache.get_or_load(&1, |_| 10), 10);
    assert_eq!(cache.try_get_or_load(&2_u16, |_| Ok::<_, ()>(20)).ok(), Some(20));
    let cache: Cache<u64, u64> = Cache::builder("keys").max_entries(10).build().unwrap();
    assert_eq!(cache.get_or_load(&1, |_| 10), 10);
}

#[test]
fn peek_and_contains_key_are_no_access() {
    let manual = ManualClock::new();
    let cache = Cache::builder("peek").max_entries(2).eviction(Eviction::Lru).clock(manual.clock());
    let cache: Cache<u64, u64> = cache.time_to_idle(Duration::from_secs(10)).build().unwrap();
    cache.insert(1, 10).unwrap();
    cache.insert(2, 20).unwrap();
    assert_eq!((cache.peek(&1), cache.contains_key(&1), cache.peek(&3)), (Some(10), true, None));
    assert_eq!((cache.stats().hits, cache.stats().misses), (0, 0));
    cache.insert(3, 30).unwrap();
    assert_eq!((cache.peek(&1), cache.contains_key(&1)), (None, false), "it was the least recently used");
    manual.advance(Duration::from_secs(6));
    assert_eq!(cache.peek(&2), Some(20));
    manual.advance(Duration::from_secs(6));
    assert_eq!((cache.peek(&2), cache.contains_key(&2), cache.len()), (None, false, 2));
}

#[test]
fn keys_returns_each_key_that_has_not_expired() {
    for shards in [1, 8] {
        let manual = ManualClock::new();
        let cache = Cache::builder("keys").max_entries(1_000).shards(shards).clock(manual.clock());
        let cache: Cache<u64, u64> = cache.build().unwrap();
        assert!(cache.keys().is_empty());
        (0..500).for_each(|key| cache.insert(key, key).unwrap());
        (500..600).for_each(|key| cache.insert_with_ttl(key, key, Duration::from_secs(1)).unwrap());
        manual.advance(Duration::from_secs(1));
        let keys = cache.keys();
        assert_eq!((keys.len(), BTreeSet::from_iter(keys)), (500, (0..500).collect()));
    }
}
