//! The table of samples and the tree of stacks, from the library's own files.

#[path = "../../../src/heap/profile/table.rs"]
pub(crate) mod table;
#[path = "../../../src/heap/profile/tree.rs"]
pub(crate) mod tree;
