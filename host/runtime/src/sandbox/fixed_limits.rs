//! The limits of a component that no manifest can raise. Those that a manifest sets are in `load::manifest::limits`.

/// Memories of one component: its own and those of adapters.
pub(crate) const MEMORIES_MAX: u32 = 4;
/// Tables of one component: one for each module that calls through pointers.
pub(crate) const TABLES_MAX: u32 = 32;
/// Bytes of the engine's own data about an instance: a few dozen for each function, global and table.
pub(crate) const INSTANCE_SIZE_MAX: usize = 1 << 20;
/// Bytes of the stack that a guest computes on. The host's functions run on a larger one of their own.
pub(crate) const STACK_MAX: usize = 512 << 10;
/// Bytes that one host call may copy out of a guest: well above the largest value that a function accepts.
pub(crate) const HOST_CALL_MAX: usize = 8 << 20;
/// Handles in a component's own tables.
pub(crate) const COMPONENT_HANDLES_MAX: usize = 4096;
/// Handles of the host's things (streams, timers, requests) that a guest may hold.
pub(crate) const HANDLES_MAX: usize = 1024;
/// Random bytes of one call.
pub(crate) const RANDOM_MAX: u64 = 64 << 10;
/// Bytes of the names and values of one request's headers.
pub(crate) const HEADERS_MAX: usize = 32 << 10;
