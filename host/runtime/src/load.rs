//! Turns a file of the plugin folder into a component that can run: every check, and the cache of compiled code.

pub(crate) mod code_cache;
pub(crate) mod compatibility;
pub(crate) mod compile;
pub(crate) mod compile_queue;
pub(crate) mod contract;
pub(crate) mod contract_diff;
pub(crate) mod folder;
pub(crate) mod inspect;
pub(crate) mod loader;
pub(crate) mod manifest;
pub(crate) mod private_dir;
pub(crate) mod producers;
pub(crate) mod signature;
pub(crate) mod source;
