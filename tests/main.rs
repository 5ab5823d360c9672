//! One test binary for every promise between modules.

mod edge;
mod support;
