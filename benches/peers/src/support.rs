//! Parts of the tests' `support` that the workers need.

#[path = "../../../tests/support/child.rs"]
pub(crate) mod child;
