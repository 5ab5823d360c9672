//! From a file in the folder to a component that can run: every check, and the caches of compiled code.

pub(crate) mod code_cache;
pub(crate) mod compatibility;
pub(crate) mod contract_diff;
pub(crate) mod folder;
pub(crate) mod inspect;
pub(crate) mod loader;
pub(crate) mod manifest;
pub(crate) mod private_dir;
pub(crate) mod producers;
pub(crate) mod signature;
