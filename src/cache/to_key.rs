//! From the key of a lookup to the key of an entry.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Creates the key of an entry from the key that a caller looks up, for a load or a computation.
///
/// A key creates itself by `Clone`. [`ToOwned`] is not enough for shared keys: of `str` it creates `String` only, not
/// `Arc<str>`. Implement the trait for a borrowed form of a key type of yours. As with [`Borrow`](std::borrow::Borrow), both
/// must be equal and have the same hash.
///
/// # Examples
///
/// ```
/// use std::borrow::Borrow;
/// use plimsoll::{Cache, cache::ToKey};
///
/// #[derive(PartialEq, Eq, Hash)]
/// struct Name(Box<str>);
///
/// impl Borrow<str> for Name {
///     fn borrow(&self) -> &str {
///         &self.0
///     }
/// }
///
/// impl ToKey<Name> for str {
///     fn to_key(&self) -> Name {
///         Name(self.into())
///     }
/// }
///
/// let ages: Cache<Name, u64> = Cache::builder("ages").max_entries(100).build()?;
/// assert_eq!(ages.get_or_load("Ada", |_| 36), 36);
/// # Ok::<(), plimsoll::cache::BuildError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "a cache with keys of type `{K}` cannot load by `{Self}`",
    note = "implement `ToKey<{K}>` for `{Self}`, or `Clone` for `{K}` if both are the same type"
)]
pub trait ToKey<K> {
    /// Returns a new key that is equal to `self`. It runs without a lock, twice for each load or computation.
    fn to_key(&self) -> K;
}

impl<K: Clone> ToKey<K> for K {
    fn to_key(&self) -> K {
        self.clone()
    }
}

/// Implements [`ToKey`] for a type that std converts by `From`.
macro_rules! to_key {
    ($borrowed:ty => $($key:ty),+) => {
        $(impl ToKey<$key> for $borrowed {
            fn to_key(&self) -> $key {
                self.into()
            }
        })+
    };
}

to_key!(str => String, Box<str>, Arc<str>);
to_key!(Path => PathBuf, Box<Path>, Arc<Path>);
to_key!(OsStr => OsString, Box<OsStr>, Arc<OsStr>);

impl<T: Clone> ToKey<Vec<T>> for [T] {
    fn to_key(&self) -> Vec<T> {
        self.into()
    }
}

impl<T: Clone> ToKey<Box<[T]>> for [T] {
    fn to_key(&self) -> Box<[T]> {
        self.into()
    }
}

impl<T: Clone> ToKey<Arc<[T]>> for [T] {
    fn to_key(&self) -> Arc<[T]> {
        self.into()
    }
}
