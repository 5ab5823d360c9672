//! One test binary for every promise between modules.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod plugin;
mod support;
