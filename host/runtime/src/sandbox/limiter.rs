//! How much an instance may have, and what the engine's refusals of more mean.

use wasmtime::component::ResourceTableError;
use wasmtime::{ResourceLimiter, Trap};
use wasmtime_wasi_http::FieldMapError;

use crate::load::manifest::limits::Limits;
use crate::load::manifest::value::show_size;

/// Memories of one component: its own and those of adapters.
pub(crate) const MEMORIES_MAX: u32 = 4;
/// Tables of one component: one for each module that calls through pointers.
pub(crate) const TABLES_MAX: u32 = 32;
/// Bytes of the stack that a guest computes on; the host's functions have more of their own.
pub(crate) const STACK_MAX: usize = 512 << 10;
/// Bytes that one host call may copy out of a guest.
pub(crate) const HOST_CALL_MAX: usize = 8 << 20;
/// Handles in a component's own tables.
pub(crate) const COMPONENT_HANDLES_MAX: usize = 4096;
/// Things of the host that a guest may hold.
pub(crate) const HANDLES_MAX: usize = 1024;
/// Bytes of one draw of random numbers.
pub(crate) const RANDOM_MAX: u64 = 64 << 10;
/// Bytes of the names and values of one request's headers.
pub(crate) const HEADERS_MAX: usize = 32 << 10;

/// The guest wanted more than it may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LimitExceeded {
    /// Stable, for grouping.
    pub code: &'static str,
    /// What it wanted, and the limit by name and value.
    pub message: String,
}

impl LimitExceeded {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Counts what an instance has. A request that goes too far is an error, which ends the attempt with its
/// message; an answer of "no" would look like a panic of the guest.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory: Budget,
    table_elements: Budget,
    instances: u32,
}

#[derive(Debug)]
struct Budget {
    limit: usize,
    used: usize,
}

impl Budget {
    fn new(limit: u64) -> Self {
        Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), used: 0 }
    }

    /// Takes what is added between two sizes, or answers how much it would have been in all.
    fn grow(&mut self, current: usize, desired: usize) -> Result<(), usize> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            return Err(used);
        }
        self.used = used;
        Ok(())
    }
}

impl Limiter {
    /// A limiter for one instance.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory: Budget::new(limits.memory),
            table_elements: Budget::new(limits.table_elements.into()),
            instances: limits.instances,
        }
    }

    /// Bytes of all linear memories together.
    pub(crate) fn memory(&self) -> u64 {
        self.memory.used as u64
    }

    /// The limit behind an error of the engine, if one is.
    pub(crate) fn explain(&self, err: &wasmtime::Error) -> Option<LimitExceeded> {
        let typed = err.downcast_ref::<LimitExceeded>().cloned();
        typed.or_else(|| full_table(err)).or_else(|| large_headers(err)).or_else(|| self.explain_message(err))
    }

    /// For what the engine has no types. Each of these is provoked by a test, which fails when the
    /// engine changes its words.
    fn explain_message(&self, err: &wasmtime::Error) -> Option<LimitExceeded> {
        let instances = self.instances;
        let known = [
            (
                "instance count too high",
                "plugin.instances",
                format!("core instances: `limits.instances` is {instances}"),
            ),
            ("memory count too high", "plugin.memories", format!("memories: it may have {MEMORIES_MAX}")),
            ("table count too high", "plugin.tables", format!("tables: it may have {TABLES_MAX}")),
            (
                "hostcalls has been exhausted",
                "plugin.host_call",
                format!(
                    "bytes to be copied by one host call, or more to be answered: the most is {}",
                    show_size(HOST_CALL_MAX as u64)
                ),
            ),
            ("store handle limit exceeded", "plugin.handles", format!("handles: the most is {COMPONENT_HANDLES_MAX}")),
            (
                "exceeds limit 65536",
                "plugin.random",
                format!("random bytes at once: the most is {}", show_size(RANDOM_MAX)),
            ),
        ];
        let engine_message = err.root_cause().to_string();
        let (_, code, message) = known.into_iter().find(|(phrase, ..)| engine_message.contains(phrase))?;
        Some(LimitExceeded::new(code, format!("the component wanted too many {message}")))
    }
}

fn full_table(err: &wasmtime::Error) -> Option<LimitExceeded> {
    let is_full = matches!(err.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full));
    let message = || format!("the component wanted too many handles: it may hold {HANDLES_MAX} things of the host");
    is_full.then(|| LimitExceeded::new("plugin.handles", message()))
}

fn large_headers(err: &wasmtime::Error) -> Option<LimitExceeded> {
    let limit = show_size(HEADERS_MAX as u64);
    match err.downcast_ref::<FieldMapError>()? {
        FieldMapError::TotalSizeTooBig | FieldMapError::TooManyFields => Some(LimitExceeded::new(
            "plugin.headers",
            format!("the component wanted larger headers: the most is {limit}"),
        )),
        _ => None,
    }
}

/// What a trap that comes of too deep a recursion has to add to its name.
pub(crate) fn stack_hint(err: &wasmtime::Error) -> Option<String> {
    match err.downcast_ref::<Trap>()? {
        Trap::StackOverflow => Some(format!("the stack limit is {}", show_size(STACK_MAX as u64))),
        // Compiled languages keep large variables on a stack of their own at the start of the memory.
        Trap::MemoryOutOfBounds => {
            Some("a recursion that outgrows the component's own stack ends like this".to_owned())
        }
        _ => None,
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let limit = show_size(self.memory.limit as u64);
        self.memory.grow(current, desired).map(|()| true).map_err(|wanted| {
            let message = format!("the component wanted {wanted} bytes of memory: `limits.memory` is {limit}");
            LimitExceeded::new("plugin.memory", message).into()
        })
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.table_elements.limit;
        self.table_elements.grow(current, desired).map(|()| true).map_err(|wanted| {
            let message =
                format!("the component wanted {wanted} elements of tables: `limits.table_elements` is {limit}");
            LimitExceeded::new("plugin.table", message).into()
        })
    }

    fn instances(&self) -> usize {
        self.instances as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_count_together_and_the_error_names_the_limit() {
        let mut limiter = Limiter::new(&Limits { memory: 2 << 20, table_elements: 10, ..Limits::default() });
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        let err = limiter.memory_growing(1 << 20, (1 << 20) + 1, None).unwrap_err();
        assert!(limiter.explain(&err).unwrap().message.contains("`limits.memory` is 2MiB"));
        assert!(limiter.table_growing(0, 6, None).unwrap());
        let err = limiter.table_growing(0, 5, None).unwrap_err();
        assert!(
            limiter
                .explain(&err)
                .unwrap()
                .message
                .contains("wanted 11 elements of tables: `limits.table_elements` is 10")
        );
    }
}
