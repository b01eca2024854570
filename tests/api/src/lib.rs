//! The tests alone are of interest.
