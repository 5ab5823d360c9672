//! Keeps the running plugins equal to the folder: watching, canaries, rollback, quarantine.

pub(crate) mod background_loads;
pub(crate) mod canary;
pub(crate) mod conduct;
pub(crate) mod fs_events;
pub(crate) mod last_good;
pub(crate) mod owner_cache;
pub(crate) mod quarantine_cache;
pub(crate) mod reloader;
pub(crate) mod routing;
pub(crate) mod versions;
pub(crate) mod watched_file;
