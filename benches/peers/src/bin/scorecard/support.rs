//! Parts of the tests' `support` that the cgroups need.

#[path = "../../../../../tests/support/child.rs"]
pub(crate) mod child;
