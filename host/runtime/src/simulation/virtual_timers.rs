//! Timers of a simulated guest: they wait by the virtual clock of the guest's backend.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use crate::outgoing::backend::HostBackend;
use crate::sandbox::host_state::HostState;

/// How often a timer lets all other work go on before its wait ends: more often than an exchange with a simulated
/// receiver needs.
const YIELDS: usize = 256;

/// Replaces the timers that a linker offers by virtual ones.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, HasVirtualTimers>(linker, virtual_timers)
}

fn virtual_timers(state: &mut HostState) -> VirtualTimers<'_> {
    VirtualTimers { backend: &state.backend, table: &mut state.table }
}

struct HasVirtualTimers;

impl HasData for HasVirtualTimers {
    type Data<'a> = VirtualTimers<'a>;
}

/// The parts of a guest's store that its timers need.
struct VirtualTimers<'a> {
    backend: &'a Arc<dyn HostBackend>,
    table: &'a mut ResourceTable,
}

impl monotonic_clock::Host for VirtualTimers<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(elapsed_nanos(&**self.backend))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.table.push(VirtualTimer { backend: Arc::clone(self.backend), when })?;
        subscribe(self.table, timer)
    }

    fn subscribe_duration(&mut self, time: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(elapsed_nanos(&**self.backend).saturating_add(time))
    }
}

struct VirtualTimer {
    backend: Arc<dyn HostBackend>,
    /// Nanoseconds of the virtual clock.
    when: u64,
}

#[async_trait::async_trait]
impl Pollable for VirtualTimer {
    /// Everything else that the guest waits for comes first, because in a simulation only timers take time.
    async fn ready(&mut self) {
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        let remaining = self.when.saturating_sub(elapsed_nanos(&*self.backend));
        self.backend.sleep(Duration::from_nanos(remaining)).await;
    }
}

fn elapsed_nanos(backend: &dyn HostBackend) -> u64 {
    u64::try_from(backend.virtual_elapsed().as_nanos()).unwrap_or(u64::MAX)
}
