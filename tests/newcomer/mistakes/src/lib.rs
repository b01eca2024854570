//! Programs that do not compile.
