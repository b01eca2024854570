//! Parallel maps.
