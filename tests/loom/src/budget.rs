//! The library's budget books, from the library's own file.

#[path = "../../../src/budget/books.rs"]
pub(crate) mod books;
