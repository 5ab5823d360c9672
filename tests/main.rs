//! One test binary for every promise between modules.

mod plugin;
mod support;
