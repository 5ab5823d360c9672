//! The engine that all plugins of a process share: how code is compiled, where instances live, and what
//! a tick of its clock does.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context as _;
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::load::manifest::limits::{INSTANCES_MAX, MEMORY_MAX, TABLE_ELEMENTS_MAX};
use crate::outgoing::resolve::{Resolver, SystemResolver};
use crate::sandbox::epoch_ticker::Ticker;
use crate::sandbox::host_state;
use crate::sandbox::host_state::HostState;
use crate::sandbox::limiter::{MEMORIES_MAX, STACK_MAX, TABLES_MAX};
use crate::sandbox::pool_limits::INSTANCE_SIZE_MAX;
use crate::simulation;

/// Room for descriptions that are asked for while every slot is taken.
const SPARE_INSTANCES: u32 = 8;

/// What all plugins of a process share.
pub(crate) struct SharedEngine {
    pub(crate) wasmtime: Engine,
    pub(crate) linker: Linker<HostState>,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) ticker: Arc<Ticker>,
}

impl SharedEngine {
    /// An engine with room for so many attempts at a time, whose epoch advances while one computes.
    pub(crate) fn new(slots: usize, resolver: Arc<dyn Resolver>) -> anyhow::Result<Self> {
        let instances = u32::try_from(slots)?.saturating_add(SPARE_INSTANCES);
        let engine = Engine::new(&pooled(instances)).or_else(|reason| {
            tracing::warn!(%reason, "no pool of instances could be reserved: each attempt allocates its own");
            Engine::new(&config())
        });
        let engine = engine.map_err(anyhow::Error::from).context("starting the WebAssembly engine")?;
        let mut linker = Linker::new(&engine);
        host_state::link(&mut linker)?;
        let ticker = Arc::new(start_ticking(&engine)?);
        Ok(Self { wasmtime: engine, linker, resolver, ticker })
    }

    /// An engine whose guests wait in simulated time.
    pub(crate) fn for_simulation(slots: usize) -> anyhow::Result<Self> {
        let mut shared = Self::new(slots, Arc::new(SystemResolver))?;
        simulation::link(&mut shared.linker)?;
        Ok(shared)
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
        // Enough for every slot at its maximum, so that no plugin can starve another.
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
        // Pages stay with the slot between attempts: giving them back interrupts every other core.
        .linear_memory_keep_resident(16 << 20)
        .table_keep_resident(1 << 20)
        .decommit_batch_size(16)
        .pagemap_scan(Enabled::Auto);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Holds the engine weakly, so that it ends with its last instance and not with a tick.
fn start_ticking(engine: &Engine) -> anyhow::Result<Ticker> {
    let engine = engine.weak();
    Ticker::start(move || {
        if let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
        }
    })
}
