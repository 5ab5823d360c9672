//! How much memory an instance may have, summed over all its memories.

use wasmtime::ResourceLimiter;

use super::manifest::show_size;

/// The instance wanted more than it may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct OverLimit(pub String);

/// Elements of a table; ordinary components have a few hundred functions in theirs.
pub(super) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Memories of one component: its own and those of adapters.
pub(super) const MEMORIES_MAX: u32 = 4;
/// Core instances of one component; those of `wasm32-wasip2` have two to four.
pub(super) const INSTANCES_MAX: u32 = 32;

/// Counts what an instance has. A wish that goes too far is an error, which ends the attempt with its
/// words; an answer of "no" would look like a panic of the guest.
#[derive(Debug)]
pub(super) struct Limiter {
    most: usize,
    used: usize,
}

impl Limiter {
    /// A limiter that allows so many bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), used: 0 }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.most {
            let most = show_size(self.most as u64);
            let wanted = format!("the component wanted {used} bytes of memory: `limits.memory` is {most}");
            return Err(OverLimit(wanted).into());
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            let wanted =
                format!("the component wanted a table of {desired} elements: the most is {TABLE_ELEMENTS_MAX}");
            return Err(OverLimit(wanted).into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_count_together_and_the_error_names_the_limit() {
        let mut limiter = Limiter::new(2 << 20);
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        let err = limiter.memory_growing(1 << 20, (1 << 20) + 1, None).unwrap_err();
        assert!(err.downcast_ref::<OverLimit>().unwrap().0.contains("`limits.memory` is 2MiB"));
    }
}
