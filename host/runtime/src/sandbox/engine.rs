//! The engine that all plugins of a process share: how it compiles code, its pool of instances, and its epoch. It knows
//! no plugin.

use std::error::Error;
use std::io;
use std::num::{NonZeroUsize, TryFromIntError};
use std::sync::Arc;

use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::load::manifest::limits::{INSTANCES_MAX, MEMORY_MAX, TABLE_ELEMENTS_MAX};
use crate::outgoing::authorities::TlsConfig;
use crate::outgoing::resolve::Resolver;
use crate::sandbox::epoch_ticker::Ticker;
use crate::sandbox::fixed_limits::{INSTANCE_SIZE_MAX, MEMORIES_MAX, STACK_MAX, TABLES_MAX};
use crate::sandbox::host_functions;
use crate::sandbox::host_state::HostState;

/// Instances beyond the slots, so that components can describe themselves while every slot is taken.
const SPARE_INSTANCES: u32 = 8;

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineStartError {
    /// The number of slots is larger than the engine can count.
    #[error(transparent)]
    Slots(#[from] TryFromIntError),
    /// The engine refuses its configuration or the host's functions.
    #[error("starting the WebAssembly engine")]
    Engine(#[source] Box<dyn Error + Send + Sync>),
    /// The operating system gives no thread for the epoch.
    #[error("starting the epoch thread")]
    EpochThread(#[source] io::Error),
}

/// The engine of a process, with what its plugins share.
pub(crate) struct SharedEngine {
    pub(crate) wasmtime: Engine,
    pub(crate) linker: Linker<HostState>,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) tls: TlsConfig,
    pub(crate) ticker: Arc<Ticker>,
}

impl SharedEngine {
    /// An engine for `slots` attempts at a time. Its epoch advances while a guest computes.
    pub(crate) fn new(slots: usize, resolver: Arc<dyn Resolver>, tls: TlsConfig) -> Result<Self, EngineStartError> {
        let instances = u32::try_from(slots)?.saturating_add(SPARE_INSTANCES);
        let engine = Engine::new(&pooled(instances)).or_else(|reason| {
            tracing::warn!(%reason, "no pool of instances could be reserved: each attempt allocates its own");
            Engine::new(&config())
        });
        let engine = engine.map_err(|reason| EngineStartError::Engine(reason.into()))?;
        let mut linker = Linker::new(&engine);
        host_functions::link(&mut linker).map_err(|reason| EngineStartError::Engine(reason.into()))?;
        let ticker = Arc::new(start_ticking(&engine).map_err(EngineStartError::EpochThread)?);
        Ok(Self { wasmtime: engine, linker, resolver, tls, ticker })
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .wasm_memory64(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_MAX)
        .relaxed_simd_deterministic(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

fn pooled(instances: u32) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        // Enough for the maximum of every slot, so that no plugin can starve another.
        .total_core_instances(instances.saturating_mul(INSTANCES_MAX))
        .total_memories(instances.saturating_mul(MEMORIES_MAX))
        .total_tables(instances.saturating_mul(TABLES_MAX))
        .total_stacks(instances)
        .max_core_instances_per_component(INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_core_instance_size(INSTANCE_SIZE_MAX)
        .max_component_instance_size(INSTANCE_SIZE_MAX)
        .max_memory_size(usize::try_from(MEMORY_MAX).unwrap_or(usize::MAX))
        .table_elements(TABLE_ELEMENTS_MAX as usize)
        .max_unused_warm_slots(instances)
        // A slot keeps its pages between attempts, because releasing pages interrupts every other core.
        .linear_memory_keep_resident(16 << 20)
        .table_keep_resident(1 << 20)
        .decommit_batch_size(16)
        .pagemap_scan(Enabled::Auto);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Starts the epoch thread. It holds the engine weakly, so that the thread does not keep the engine alive.
fn start_ticking(engine: &Engine) -> io::Result<Ticker> {
    let engine = engine.weak();
    Ticker::start(move || {
        if let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::outgoing::resolve::SystemResolver;

    use super::*;

    #[test]
    fn an_engine_with_more_slots_than_the_address_space_holds_starts_without_a_pool() {
        assert!(Engine::new(&pooled(100_000)).is_err(), "a pool of so many instances cannot be reserved");
        assert!(SharedEngine::new(100_000, Arc::new(SystemResolver), TlsConfig::public()).is_ok());
    }
}
