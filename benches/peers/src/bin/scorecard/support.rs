//! Parts of the tests' `support` that the areas need.

#[path = "../../../../../tests/support/child.rs"]
pub(crate) mod child;

#[path = "../../../../../tests/support/caches.rs"]
pub(crate) mod caches;
