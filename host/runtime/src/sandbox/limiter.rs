//! Counts what one instance has of memory, tables and instances, and explains which limit a guest exceeded.

use wasmtime::component::ResourceTableError;
use wasmtime::{ResourceLimiter, Trap};
use wasmtime_wasi_http::FieldMapError;

use crate::load::manifest::limits::Limits;
use crate::load::manifest::value::show_size;
use crate::sandbox::engine_errors::StoreLimit;
use crate::sandbox::fixed_limits::{
    COMPONENT_HANDLES_MAX, HANDLES_MAX, HEADERS_MAX, HOST_CALL_MAX, MEMORIES_MAX, RANDOM_MAX, STACK_MAX, TABLES_MAX,
};

/// The guest exceeded a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LimitExceeded {
    /// The failure code, stable for grouping.
    pub code: &'static str,
    /// What the guest wanted, and the limit by name and value.
    pub message: String,
}

impl LimitExceeded {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Counts what an instance has. A request beyond a limit is an error that ends the attempt with a message about the
/// limit. A plain refusal would look like a panic of the guest.
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

    /// Adds the growth between two sizes. Errors with the total that would result if it is above the limit.
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

    /// The limit behind an error of the engine, if there is one.
    pub(crate) fn explain(&self, err: &wasmtime::Error) -> Option<LimitExceeded> {
        let typed = err.downcast_ref::<LimitExceeded>().cloned();
        let typed = typed.or_else(|| full_table(err)).or_else(|| large_headers(err));
        typed.or_else(|| Some(self.exceeded(StoreLimit::recognise(err)?)))
    }

    fn exceeded(&self, limit: StoreLimit) -> LimitExceeded {
        let (code, what) = match limit {
            StoreLimit::Instances => {
                ("plugin.instances", format!("core instances: `limits.instances` is {}", self.instances))
            }
            StoreLimit::Memories => ("plugin.memories", format!("memories: it may have {MEMORIES_MAX}")),
            StoreLimit::Tables => ("plugin.tables", format!("tables: it may have {TABLES_MAX}")),
            StoreLimit::HostCallBytes => {
                let most = show_size(HOST_CALL_MAX as u64);
                let what = format!("bytes to be copied by one host call, or more to be answered: the most is {most}");
                ("plugin.host_call", what)
            }
            StoreLimit::ComponentHandles => ("plugin.handles", format!("handles: the most is {COMPONENT_HANDLES_MAX}")),
            StoreLimit::RandomBytes => {
                ("plugin.random", format!("random bytes at once: the most is {}", show_size(RANDOM_MAX)))
            }
        };
        LimitExceeded::new(code, format!("the component wanted too many {what}"))
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

/// The explanation of a trap that a deep recursion can cause.
pub(crate) fn stack_hint(err: &wasmtime::Error) -> Option<String> {
    match err.downcast_ref::<Trap>()? {
        Trap::StackOverflow => Some(format!("the stack limit is {}", show_size(STACK_MAX as u64))),
        // Compiled languages have a second stack, at the start of the memory, for large variables.
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
