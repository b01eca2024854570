//! The hash function of a cache, unless it is given another.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::{FoldHasher, RandomState};

/// Hashes keys with a seed of its own for each cache, so that nobody outside knows which keys collide.
///
/// Fast, and not cryptographic: for keys that an attacker chooses at length, give the cache std's `RandomState` by
/// [`CacheBuilder::hasher`](super::CacheBuilder::hasher).
///
/// # Examples
///
/// ```
/// use std::hash::BuildHasher;
/// use plimsoll::cache::Seeded;
///
/// let (one, other) = (Seeded::default(), Seeded::default());
/// assert_eq!(one.hash_one("key"), one.hash_one("key"));
/// assert_ne!(one.hash_one("key"), other.hash_one("key")); // each its own seed
/// ```
#[derive(Clone, Debug, Default)]
pub struct Seeded(RandomState);

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    #[inline]
    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0.build_hasher())
    }
}

/// The hasher of [`Seeded`].
///
/// # Examples
///
/// ```
/// use std::hash::{BuildHasher, Hasher};
/// use plimsoll::cache::{Seeded, SeededHasher};
///
/// let mut hasher: SeededHasher = Seeded::default().build_hasher();
/// hasher.write_u64(7);
/// println!("{:x}", hasher.finish());
/// ```
#[derive(Clone)]
pub struct SeededHasher(FoldHasher<'static>);

impl fmt::Debug for SeededHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeededHasher").finish_non_exhaustive()
    }
}

/// Each width is forwarded: by default a hasher takes numbers as bytes, and is slower.
macro_rules! forward {
    ($($write:ident: $number:ty),+ $(,)?) => {
        impl Hasher for SeededHasher {
            #[inline]
            fn write(&mut self, bytes: &[u8]) {
                self.0.write(bytes);
            }
            #[inline]
            fn finish(&self) -> u64 {
                self.0.finish()
            }
            $(#[inline]
            fn $write(&mut self, number: $number) {
                self.0.$write(number);
            })+
        }
    };
}

forward!(write_u8: u8, write_u16: u16, write_u32: u32, write_u64: u64, write_u128: u128, write_usize: usize);
