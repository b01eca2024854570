//! The hash function of a cache, unless it is given another.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::{FoldHasher, RandomState};

/// Hashes keys with a seed of its own for each cache, so that nobody outside knows which keys collide.
///
/// Fast, and not cryptographic: for keys that an attacker chooses at length, give the cache std's `RandomState` by
/// [`CacheBuilder::hash_builder`](super::CacheBuilder::hash_builder).
///
/// # Examples
///
/// ```
/// use std::hash::BuildHasher;
/// use plimsoll::cache::DefaultHashBuilder;
///
/// let (one, other) = (DefaultHashBuilder::default(), DefaultHashBuilder::default());
/// assert_eq!(one.hash_one("key"), one.hash_one("key"));
/// assert_ne!(one.hash_one("key"), other.hash_one("key")); // each its own seed
/// ```
#[derive(Clone, Debug, Default)]
pub struct DefaultHashBuilder(RandomState);

impl BuildHasher for DefaultHashBuilder {
    type Hasher = DefaultHasher;

    #[inline]
    fn build_hasher(&self) -> DefaultHasher {
        DefaultHasher(self.0.build_hasher())
    }
}

/// The hasher of [`DefaultHashBuilder`].
///
/// # Examples
///
/// ```
/// use std::hash::{BuildHasher, Hasher};
/// use plimsoll::cache::{DefaultHashBuilder, DefaultHasher};
///
/// let mut hasher: DefaultHasher = DefaultHashBuilder::default().build_hasher();
/// hasher.write_u64(7);
/// println!("{:x}", hasher.finish());
/// ```
#[derive(Clone)]
pub struct DefaultHasher(FoldHasher<'static>);

impl fmt::Debug for DefaultHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DefaultHasher").finish_non_exhaustive()
    }
}

/// Each width is forwarded: by default a hasher takes numbers as bytes, and is slower.
macro_rules! forward {
    ($($write:ident: $number:ty),+ $(,)?) => {
        impl Hasher for DefaultHasher {
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
